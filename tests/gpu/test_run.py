"""`tests/gpu/run.py` goes on after tests that hang, crash or lose the GPU, and tells each kind of failure once."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import run as runner

TESTS = """
import os, sys, time, types
import pytest
from hybridml import backends

@pytest.mark.parametrize("k", range(4))
def test_fine(k):
    pass

@pytest.mark.parametrize("k", range(3))
def test_wrong(k):
    assert 1000 + k == 1, "the sum is off"

def test_crash():
    os.abort()

def test_hang():
    time.sleep(1000)

def test_skip():
    pytest.skip("no need")

class Runtime:
    def deviceSynchronize(self):
        raise RuntimeError("cudaErrorIllegalAddress")

def test_lost():
    xp = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=Runtime()))
    backends._open["gpu:0"] = types.SimpleNamespace(xp=xp)
    raise RuntimeError("an illegal memory access")

@pytest.mark.parametrize("k", range(4))
def test_after(k):
    assert "gpu:0" not in backends._open
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import a_module_that_is_not_there")
    return tmp_path


@pytest.mark.parametrize("jobs", [1, 3])
def test_one_run_tells_all(folder: Path, jobs: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(runner, "LIMIT", 5)
    assert not runner.run((str(folder),), ["--rootdir", str(folder)], jobs, time.time() + 120)
    out = capsys.readouterr().out
    assert "=== 1 crashed, 1 error, 4 failed, 1 hung, 8 passed, 1 skipped" in out
    assert out.count("the sum is off") == 3, "with its traceback once, and among the kinds"
    assert re.search(r"3 x failed: AssertionError: the sum is off\n.*test_wrong\[\d\].*, .*, ", out)
    for told in (
        "crashed: ",
        "test_crash",
        "test_hang",
        "a_module_that_is_not_there",
        "test_lost",
        "in test_hang",
        "Fatal Python error: Aborted",
    ):
        assert told in out


def test_what_was_found_is_told_when_the_time_is_up(folder: Path, capsys: Any) -> None:
    begin = time.monotonic()
    assert not runner.run(
        (str(folder),), ["--rootdir", str(folder), "-k", "wrong or hang"], 1, time.time() + 12
    )
    out = capsys.readouterr().out
    assert time.monotonic() - begin < 20
    assert "STOPPED" in out
    assert "test_hang" in out
    assert "3 x failed" in out


def test_without_a_gpu_the_cure_is_told(capsys: Any) -> None:
    assert runner.main([]) == 3
    assert "no GPU here" in capsys.readouterr().out
