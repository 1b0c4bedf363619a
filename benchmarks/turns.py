"""Time several functions in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

ROUNDS, BLOCK_SECONDS, WARM_UP_SECONDS = 25, 0.01, 0.1
# An OpenBLAS thread keeps a processor busy for 25 to 100 ms after its last product, ours for a fifth of a millisecond: before each turn
# the opponent's threads are given the time to fall asleep (whose products have several threads is timed by itself all the same).
SETTLE_SECONDS = 0.04
# Then it works untimed for a while: a virtual processor that has slept may share a real one with its neighbour for some milliseconds,
# which halves the speed of everything that takes two threads.
WAKE_SECONDS = 0.01

Call = Callable[[], object]


def in_turns(*calls: Call, rounds: int = ROUNDS) -> list[list[float]]:
    """Seconds of one call, one list of `rounds` figures for each function."""
    blocks = [_block_size(f) for f in calls]
    found: list[list[float]] = [[] for _ in calls]
    gc.collect()
    for _ in range(rounds):
        for f, n, times in zip(calls, blocks, found, strict=True):
            time.sleep(SETTLE_SECONDS)
            _time(f, max(3, round(n * WAKE_SECONDS / BLOCK_SECONDS)))
            times.append(_time(f, n))
    return found


def median(times: list[float]) -> float:
    return statistics.median(times)


def ratio(times: list[float], opponent: list[float]) -> float:
    """The median of the rounds' ratios: in one round both ran under the same conditions."""
    return statistics.median(a / b for a, b in zip(times, opponent, strict=True))


def _time(f: Call, n: int) -> float:
    begin = time.perf_counter()
    for _ in range(n):
        f()
    return (time.perf_counter() - begin) / n


def _block_size(f: Call) -> int:
    end, fastest = time.perf_counter() + WARM_UP_SECONDS, float("inf")
    while time.perf_counter() < end:
        fastest = min(fastest, _time(f, 1))
    return max(1, round(BLOCK_SECONDS / fastest))
