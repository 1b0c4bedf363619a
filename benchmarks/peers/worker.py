"""One process of one library: does what the coordinator asks for on its standard input, one JSON line a request.

Requests: `build` a workload and say what its first call took and what the first calls return; `time` a block of calls; tell the
process's `facts`. Importing the library, making weights and inputs are not part of the first call; reading its result is.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from workloads import WORKLOADS

CHECKED_CALLS = 4
BLOCK_SECONDS, WARM_UP_SECONDS, FEWEST_CALLS = 0.02, 0.3, 3


def summary(array: Any) -> tuple[float, float]:
    """Two figures that differ when arrays do: root mean square, and mean after multiplying by a wave."""
    a = np.asarray(array, np.float64).ravel()
    return float(np.sqrt(np.mean(a * a))), float(np.mean(a * np.cos(np.arange(a.size))))


class Worker:
    def __init__(self, library: str, variant: str) -> None:
        self.library, self.variant = importlib.import_module(f"lib_{library}"), variant
        self.call: Callable[[], Any] | None = None
        self.block = 1

    def build(self, name: str) -> dict[str, Any]:
        self.call = None
        gc.collect()
        workload = WORKLOADS[name]
        problem = workload.make()
        begin = time.perf_counter()
        self.call = self.library.build(workload, problem, self.variant)
        if self.call is None:
            return {"absent": True}
        built = time.perf_counter() - begin
        outputs = []
        begin = time.perf_counter()
        for k in range(CHECKED_CALLS):
            outputs.append([summary(a) for a in self.library.arrays(self.call())])
            if k == 0:
                first = time.perf_counter() - begin
        return {"outputs": outputs, "first_call": first, "preparing": built}

    def calibrate(self) -> dict[str, Any]:
        """Choose how many calls a block has."""
        self.block, end = 1, time.perf_counter() + WARM_UP_SECONDS
        self.seconds(1)
        fastest = self.seconds(1)
        while time.perf_counter() < end:
            self.block = max(FEWEST_CALLS, round(BLOCK_SECONDS / fastest))
            fastest = min(fastest, self.seconds(self.block))
        return {"calls": self.block}

    def time(self) -> dict[str, Any]:
        # Since the last turn others had the caches, and a virtual processor that has slept may share a real one for some milliseconds.
        self.seconds(self.block)
        return {"seconds": self.seconds(self.block)}

    def seconds(self, n: int) -> float:
        """Of one call, in a block of n that ends when the last result is there."""
        call, wait, out = self.call, self.library.wait, None
        assert call is not None
        begin = time.perf_counter()
        for _ in range(n):
            out = call()
        if wait is not None:
            wait(out)
        return (time.perf_counter() - begin) / n

    def facts(self) -> dict[str, Any]:
        return {
            "peak_memory": peak_memory(),
            "versions": {name: metadata.version(name) for name in self.library.PACKAGES},
        }


def peak_memory() -> int:
    """Bytes of memory this process has had at most. Not getrusage's figure where avoidable: it counts the parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(library: str, variant: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print; answers have a stream of their own
    worker: Worker | None = None
    for line in sys.stdin:
        request, *args = json.loads(line)
        try:
            worker = worker or Worker(library, variant)
            answer = getattr(worker, request)(*args)
        except Exception as e:  # an answer like any other: one library's failure ends nobody else's run
            traceback.print_exc()
            answer = {
                "error": f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[
                    :300
                ]
            }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
