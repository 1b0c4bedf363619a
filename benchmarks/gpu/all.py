"""Everything for which a GPU is lent: tests and benchmarks in one call of at most nine minutes, a short table last.

    python benchmarks/gpu/all.py [folder for the results]

Needs no network and nothing installed but Python with numba, numba-cuda, cupy and pytest; runs from a source checkout.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS, SUITE = 150, 120  # seconds at most


def timed(command: list[str], seconds: float, log: Path) -> str:
    """One line about a command that may take this long; its output goes to a file."""
    begin = time.monotonic()
    with log.open("w") as out:
        try:
            code = str(
                subprocess.run(
                    command, stdout=out, stderr=subprocess.STDOUT, timeout=seconds, cwd=ROOT
                ).returncode
            )
        except subprocess.TimeoutExpired:
            code = "stopped"
    text = log.read_text(errors="replace").strip().splitlines()
    failed = [line for line in text if line.startswith(("FAILED", "ERROR"))]
    return "\n".join([
        f"## {log.stem}: exit {code}, {time.monotonic() - begin:.0f} s, {len(failed)} failed; {text[-1] if text else ''}", *failed[:25],
    ])  # fmt: skip


def main(folder: str = "out") -> int:
    """Run all parts; the benchmark's table is the last thing printed."""
    here = Path(folder)
    here.mkdir(parents=True, exist_ok=True)
    python, begin = sys.executable, time.monotonic()
    report = [timed([python, "tests/gpu/run.py", "--quick", "--tb=short"], TESTS, here / "test-gpu.log")]
    bench = 530 - SUITE - (time.monotonic() - begin)
    code = f"import os, runpy; os.environ['BENCH_SECONDS'] = '{bench:.0f}'; runpy.run_path('benchmarks/gpu/run.py', run_name='__main__')"
    report.append(timed([python, "-c", code], bench + 20, here / "bench-gpu.log"))
    left = 530 - (time.monotonic() - begin)
    report.append(
        timed([python, "tests/gpu/run.py", "--tb=line", "-x", "--maxfail=40"], left, here / "suite.log")
    )
    for result in (ROOT / "benchmarks" / "results").glob("gpu-*"):
        shutil.copy(result, here)
    sys.stdout.write("\n".join(report) + "\n" + (here / "bench-gpu.log").read_text(errors="replace")[-7000:])
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
