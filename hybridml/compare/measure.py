"""Measure one workload: from the start, with everything that tracing costs, and then call by call.

Runs from the start are timed as a whole: the clock runs from before the first call. "Cold" means an empty kernel cache and
nothing compiled in memory; what Numba itself needs once a process, when it is first used, is paid before. "Warm" is a new trace
that finds its kernels in the cache on disk, as a second process does.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import hybridml as hml
from hybridml import config, pytree
from hybridml.compare.case import Case, Workload
from hybridml.compare.progress import Progress
from hybridml.compare.report import Compiled, Result, Run, Steady, distance
from hybridml.kernels import jit

BLOCK_SECONDS = 0.02  # calls are timed in blocks at least this long, so that the clock's own cost vanishes
# NumPy's BLAS threads keep a processor busy for some 25 to 100 ms after a product: each turn begins when they are asleep.
SETTLE_SECONDS = 0.12
# A virtual processor that has slept itself may share a real one with its neighbour for some milliseconds: then come untimed calls.
WAKE_SECONDS = 0.01
PROBE_CALLS = 10  # calls after which results and variables are compared


def measure(
    workload: Workload,
    *,
    calls: Sequence[int] = (10, 1000),
    rounds: int = 15,
    progress: Progress | None = None,
) -> Result:
    """Eager, traced cold, traced warm, steady, memory, difference of results.

    Raises ValueError for numbers of calls that are not positive, or no rounds.
    """
    calls = tuple(sorted({int(n) for n in calls}))
    if not calls or calls[0] < 1 or rounds < 1:
        raise ValueError(f"calls and rounds must be positive, got calls={calls}, rounds={rounds}")
    progress = progress or Progress(enabled=False)
    name = workload.name
    with tempfile.TemporaryDirectory(prefix="hybridml-compare-") as folder:
        _use_compiler_once(Path(folder) / "first")
        kernels = Path(folder) / "kernels"
        progress.stage(f"{name}: eager", calls[-1])
        case = workload.build()
        eager = run_from_start(case, case.f, calls, progress)
        progress.stage(f"{name}: traced, cold caches", calls[-1])
        with _no_kernels_loaded(kernels):
            case = workload.build()
            traced = run_from_start(case, hml.function(case.f), calls, progress)
        progress.stage(f"{name}: traced, kernels on disk", calls[-1])
        with _no_kernels_loaded(kernels):
            case = workload.build()
            fast = hml.function(case.f)
            warm = run_from_start(case, fast, calls, progress)
            progress.stage(f"{name}: time of one call", rounds)
            steady_eager, steady_traced = in_turns(case, [case.f, fast], rounds, progress)
            peaks = peak_bytes(case.f, case), peak_bytes(fast, case)
            difference = largest_difference(workload, min(PROBE_CALLS, calls[-1]))
    arena = traced.compiled.arena_bytes or 0
    return Result(
        name=name,
        title=workload.title,
        device=hml.devices()[0],
        calls=calls,
        eager=replace(eager.run, steady=steady_eager, peak_bytes=peaks[0]),
        traced=replace(traced.run, steady=steady_traced, peak_bytes=peaks[1] + arena),
        warm=replace(warm.run, steady=steady_traced),
        compiled=traced.compiled,
        largest_difference=difference,
        required_score=workload.required_score if calls[-1] >= workload.required_calls else None,
    )


@dataclass(frozen=True)
class _Start:
    run: Run
    compiled: Compiled


def run_from_start(case: Case, f: Callable[..., Any], calls: Sequence[int], progress: Progress) -> _Start:
    """Call `f` as often as the largest of `calls` says, and note the time on the way."""
    last = max(calls)
    points = set(calls) | {int(n) for n in np.geomspace(1, last, min(last, 40)).round()}
    curve: list[tuple[int, float]] = []
    scalars: list[Any] = []
    args, clock, reported = case.args, time.perf_counter, 0
    gc.collect()
    before = jit.stats().seconds
    begin = clock()
    for n in range(1, last + 1):
        out = f(*args(n - 1))
        if getattr(out, "shape", None) == ():
            scalars.append(out)
        if n in points:
            curve.append((n, clock() - begin))
            progress.advance(n - reported)
            reported = n
    times = dict(curve)
    run = Run(
        first_call=times[1],
        totals={n: times[n] for n in calls},
        curve=curve,
        losses=[float(x) for x in scalars] if case.variables else [],
        score=case.score() if case.score is not None else None,
    )
    return _Start(run, compiler_facts(f, case, jit.stats().seconds - before))


def in_turns(case: Case, ways: Sequence[Callable[..., Any]], rounds: int, progress: Progress) -> list[Steady]:
    """Seconds of one call of each way, in blocks of calls that take turns, so that a drift of the machine hits all alike."""
    blocks = []
    for f in ways:
        f(*case.args(0))  # an unmeasured call first: whatever is done once is done
        blocks.append(max(1, math.ceil(BLOCK_SECONDS / max(_block(f, case, 3), 1e-9))))
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for f, n, found in zip(ways, blocks, seconds, strict=True):
            time.sleep(SETTLE_SECONDS)
            _block(f, case, math.ceil(n * WAKE_SECONDS / BLOCK_SECONDS))
            found.append(_block(f, case, n))
        progress.advance()
    return [_spread(found) for found in seconds]


def _block(f: Callable[..., Any], case: Case, n: int) -> float:
    prepared = [case.args(i) for i in range(n)]
    begin = time.perf_counter()
    for a in prepared:
        f(*a)
    return (time.perf_counter() - begin) / n


def _spread(seconds: list[float]) -> Steady:
    if len(seconds) == 1:
        return Steady(seconds[0], seconds[0], seconds[0])
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Steady(median, low, high)


def peak_bytes(f: Callable[..., Any], case: Case) -> int:
    """The most memory that one warm call has allocated at a time, as NumPy and Python report it to tracemalloc."""
    a = case.args(0)
    f(*a)
    gc.collect()
    if tracemalloc.is_tracing():
        return _peak(f, a)
    tracemalloc.start()
    try:
        return _peak(f, a)
    finally:
        tracemalloc.stop()


def _peak(f: Callable[..., Any], a: tuple[Any, ...]) -> int:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    f(*a)
    return max(0, tracemalloc.get_traced_memory()[1] - before)


def largest_difference(workload: Workload, calls: int) -> float:
    """The largest `distance` of any result or variable, eager against traced, over some calls."""
    eager = _outcome(workload.build(), calls, traced=False)
    traced = _outcome(workload.build(), calls, traced=True)
    return max((distance(a, b) for a, b in zip(eager, traced, strict=True)), default=0.0)


def _outcome(case: Case, calls: int, *, traced: bool) -> list[np.ndarray]:
    f = hml.function(case.f) if traced else case.f
    results = [np.array(leaf) for i in range(calls) for leaf in pytree.leaves(f(*case.args(i)))]
    return results + [np.array(v) for v in case.variables]


def compiler_facts(f: Callable[..., Any], case: Case, native_seconds: float) -> Compiled:
    """What the traced function knows about its program; nothing for a plain function."""
    if not hasattr(f, "get_concrete_function"):
        return Compiled()
    stats = f.get_concrete_function(*case.args(0)).stats
    known = {x.name: _number(getattr(stats, x.name, None)) for x in fields(Compiled)}
    return Compiled(**(known | {"native_seconds": native_seconds}))


def _number(value: Any) -> Any:
    """A list of kernels counts as their number."""
    return len(value) if isinstance(value, (list, tuple)) else value


@contextlib.contextmanager
def _no_kernels_loaded(folder: Path) -> Iterator[None]:
    """As in a new process whose kernel cache is `folder`."""
    with config.scope(cache_dir=folder), jit.forgotten():
        yield


def _use_compiler_once(folder: Path) -> None:
    """Pay for importing Numba and for its first compilation, which belong to the process and not to the workload."""
    with _no_kernels_loaded(folder):
        jit.load("def nothing(args, begin, end):\n    pass\n", "nothing")
