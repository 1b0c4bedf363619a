"""Everything for which a GPU is lent: tests and benchmarks in one call of at most nine minutes, the benchmarks' table last.

    python benchmarks/gpu/all.py [folder for the results]

Needs no network and nothing installed but Python with numba, numba-cuda, cupy and pytest; runs from a source checkout. Each part writes
into the folder as it goes, so what was found is there also if this is stopped:

    environment.log   drivers, libraries, versions
    test-gpu.log      the tests that need a GPU: each kind of failure with its traceback, as it comes
    bench-gpu.log     the benchmarks' table; gpu-NAME.json and .md beside it, and gpu-errors.log
    suite.log         the suite with the GPU as its default device
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WHOLE = 530  # seconds
TESTS, BENCH, SUITE = 150, 250, 100  # seconds at most; what a part leaves the next ones have
MARGIN = 12  # between the time that a part is told, and the time after which it is ended


def timed(command: list[str], seconds: float, log: Path, **more: str) -> str:
    """Run a command that may take so long, with its output in a file; one line about it. Nothing that it started outlives it."""
    begin = time.monotonic()
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    env = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **more}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
        try:
            code = f"exit {process.wait(max(seconds, 1))}"
        except subprocess.TimeoutExpired:
            code = "ended, its time was up"
        finally:
            for child in [process.pid, *sessions(process.pid)]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
    text = log.read_text(errors="replace").strip().splitlines()
    return f"## {log.stem}: {code}, {time.monotonic() - begin:.0f} s; {text[-1] if text else ''}"


def sessions(parent: int) -> list[int]:
    """Processes of groups of their own that a process started: the runners give each of theirs one."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [int(c) for c in children] + [s for c in children for s in sessions(int(c))]


def main(folder: str = "out") -> int:
    """Run all parts; the benchmark's table is the last thing printed."""
    here = Path(folder).resolve()
    here.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()

    def tell(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def left(later: float) -> float:
        """Seconds for a part whose successors need so many."""
        return max(WHOLE - later - (time.monotonic() - begin), 15)

    tell(timed(["benchmarks/gpu/environment.py"], 40, here / "environment.log"))
    seconds = min(left(BENCH + SUITE), TESTS)
    tests = ["tests/gpu/run.py", "--quick", "--tb=short", "--seconds", f"{seconds - MARGIN:.0f}"]
    tell(timed(tests, seconds, here / "test-gpu.log"))
    tell("\n".join(kinds(here / "test-gpu.log")))
    seconds = left(SUITE)
    budget = {"BENCH_SECONDS": f"{seconds - MARGIN:.0f}"}
    tell(timed(["benchmarks/gpu/run.py"], seconds, here / "bench-gpu.log", **budget))
    for result in (ROOT / "benchmarks" / "results").glob("gpu-*"):
        if result.stat().st_mtime > time.time() - (time.monotonic() - begin):
            shutil.copy(result, here)
    seconds = left(0)
    suite = ["tests/gpu/run.py", "--suite", "--tb=short", "--seconds", f"{seconds - MARGIN:.0f}"]
    tell(timed(suite, seconds, here / "suite.log"))
    tell("\n".join(kinds(here / "suite.log")))
    tell((here / "bench-gpu.log").read_text(errors="replace")[-7000:])
    return 0


def kinds(log: Path) -> list[str]:
    """The end of a log of tests: what kinds of failures there are."""
    lines = log.read_text(errors="replace").splitlines()
    begins = [k for k, line in enumerate(lines) if line.startswith("=== kinds of failures")]
    return (
        [line[:220] for line in lines[begins[-1] :][:40]] if begins else [line[:220] for line in lines[-10:]]
    )


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
