"""What starting costs, each figure in processes of its own: importing, and the first call of a training step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from record import Record

REPEAT = 5

IMPORT = "import time; t = time.perf_counter(); import hybridml; print(time.perf_counter() - t)"

FIRST_CALL = """
import time
import hybridml as hml
from hybridml.compare.workloads import TWO_LAYERS, regression_step
case = regression_step(lambda: hml.optim.SGD(0.01), *TWO_LAYERS)
step, args = hml.function(case.f), case.args(0)
t = time.perf_counter()
float(step(*args))
print(time.perf_counter() - t)
"""


def run(code: str, cache: Path) -> float:
    """The seconds that a new process prints."""
    env = os.environ | {"HYBRIDML_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_import(benchmark: Any, record: Record, tmp_path: Path) -> None:
    times = [run(IMPORT, tmp_path) for _ in range(REPEAT)]
    record.add("import hybridml", statistics.median(times), at_most=0.5, unit="s")
    benchmark.pedantic(run, (IMPORT, tmp_path), rounds=1)


def test_first_call(benchmark: Any, record: Record, tmp_path: Path) -> None:
    caches = [tmp_path / str(k) for k in range(REPEAT)]
    cold = [run(FIRST_CALL, c) for c in caches]
    warm = [run(FIRST_CALL, c) for c in caches]
    what = "first call, two-layer SGD step"
    record.add(f"{what}, cold caches", statistics.median(cold), at_most=1.5, unit="s")
    record.add(f"{what}, second process", statistics.median(warm), at_most=0.3, unit="s")
    benchmark.pedantic(run, (FIRST_CALL, caches[0]), rounds=1)
