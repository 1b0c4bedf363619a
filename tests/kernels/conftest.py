"""Fixtures for kernels: a cache of their own, and fresh processes that use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridml import config
from hybridml.kernels import jit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache directory, and a loader that remembers nothing of what other tests loaded."""
    monkeypatch.setattr(jit, "_by_text", {})
    with config.scope(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache"


@pytest.fixture
def fresh_process(tmp_path):
    """``fresh_process(program, **environment)`` runs Python text in a new process and returns its output.

    All processes of a test share a cache that starts empty.
    """
    return _runner(tmp_path / "cache")


@pytest.fixture
def process(tmp_path_factory):
    """As ``fresh_process``, with a cache that all tests share: for what does not depend on compiling."""
    return _runner(tmp_path_factory.getbasetemp() / "shared_cache")


def _runner(cache):
    def run(program, timeout=120, **environment):
        environ = dict(os.environ, PYTHONPATH=str(ROOT), HYBRIDML_CACHE_DIR=str(cache)) | environment
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-W",
                "ignore:The 'generic' unit:DeprecationWarning",
                "-c",
                program,
            ],
            env=environ,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
