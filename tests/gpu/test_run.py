"""`tests/gpu/run.py` goes on after tests that hang, crash or lose the GPU, and tells each kind of failure once."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import run as runner
from assembler import assemble
from fake_cupy import FakeArray

from hybridml.kernels.cuda.commands import Kernel
from hybridml.kernels.ptx import compile_ptx

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
    if "CUDA_LAUNCH_BLOCKING" in os.environ:
        raise RuntimeError("the kernel is named")
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


def test_the_basics_hold_on_the_fake_device(tmp_path: Path) -> None:
    """`device/test_basics.py` itself: what it says of the lowest layer is what everything above relies on."""
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "as_default", "tests/gpu/device/test_basics.py",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=runner.environ(), cwd=runner.ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda")
def test_the_kernels_of_the_basics_assemble(tmp_path: Path) -> None:
    basics = runpy.run_path(str(runner.HERE / "device" / "test_basics.py"))
    seen: list[Any] = []
    driver = types.SimpleNamespace(
        kernel=lambda *args: seen.append(args) or Kernel(*args[:3], None, "memory", 0.0)
    )
    gpu = types.SimpleNamespace(put=FakeArray)
    basics["scaled"](driver)
    basics["counter"](gpu, driver, 1)
    basics["turned"](driver)
    for name, source, given, *_ in seen:
        _, text = compile_ptx(name, source, given, (9, 0))
        assemble(text.encode(), "sm_90", tmp_path)
    assert len(seen) == 3
