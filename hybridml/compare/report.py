"""What a comparison found: plain data, with a table, a page for notebooks, JSON and plots made from it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hybridml.compare.machine import describe

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Steady:
    """Seconds of one call once everything is warm: median and quartiles over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Run:
    """One way of running a workload from its start.

    totals: number of calls -> seconds since before the first call, tracing and compiling included.
    curve: the same at more points, for drawing.
    """

    first_call: float
    totals: dict[int, float]
    curve: list[tuple[int, float]]
    steady: Steady | None = None
    peak_bytes: int | None = None
    losses: list[float] = field(default_factory=list)
    score: float | None = None


@dataclass(frozen=True)
class Compiled:
    """What the compiler says about the traced function; None where it does not say.

    compile_seconds and load_seconds are those of the function's own kernels. native_seconds is everything that was compiled
    or loaded for it, the driver and the matrix products, which all functions share, included.
    """

    trace_seconds: float | None = None
    passes_seconds: float | None = None
    emit_seconds: float | None = None
    compile_seconds: float | None = None
    load_seconds: float | None = None
    native_seconds: float | None = None
    kernels: int | None = None
    compiled: int | None = None
    loaded_from_disk: int | None = None
    bytes_eager: int | None = None
    bytes_traced: int | None = None
    arena_bytes: int | None = None
    python_steps: int | None = None


@dataclass(frozen=True)
class Result:
    """One workload: eager, traced from cold caches, and traced in a process that finds its kernels on disk.

    largest_difference: the `distance` of results and variables after a few calls.
    """

    name: str
    title: str
    device: str
    calls: tuple[int, ...]
    eager: Run
    traced: Run
    warm: Run
    compiled: Compiled
    largest_difference: float
    required_score: float | None = None

    @property
    def speedup(self) -> float:
        """Eager's time of one warm call over the traced one's."""
        assert self.eager.steady is not None and self.traced.steady is not None
        return self.eager.steady.median / self.traced.steady.median

    @property
    def break_even(self) -> int | None:
        """The number of calls after which tracing has paid for itself, from cold caches; None if it never does."""
        return break_even(self.eager, self.traced)

    @property
    def largest_loss_difference(self) -> float | None:
        """The `distance` of the two loss curves where they differ most; None if the workload has no losses."""
        if not self.eager.losses:
            return None
        return max(
            distance(*np.array(pair)) for pair in zip(self.eager.losses, self.traced.losses, strict=True)
        )


def distance(a: Any, b: Any) -> float:
    """The largest |a - b|, as a part of the largest |a| where that is above 1.

    Equal infinities, and NaNs in the same places, count as no difference; arrays of different shapes are infinitely apart.

    >>> distance(np.array([1000.0, 2.0]), np.array([1001.0, 2.0]))
    0.001
    """
    if a.shape != b.shape:
        return math.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    scale = np.max(np.abs(a), initial=1.0, where=np.isfinite(a))
    return float(np.max(np.abs(a - b), initial=0.0, where=~same) / scale)


def break_even(eager: Run, traced: Run) -> int | None:
    """The smallest n with `traced.first_call + (n - 1) * t <= eager.first_call + (n - 1) * e`, or None."""
    assert eager.steady is not None and traced.steady is not None
    lost, won = traced.first_call - eager.first_call, eager.steady.median - traced.steady.median
    if lost <= 0:
        return 1
    return math.ceil(lost / won) + 1 if won > 0 else None


@dataclass(frozen=True)
class Report:
    """Results of one or more workloads on one machine."""

    results: list[Result]
    machine: dict[str, Any] = field(default_factory=describe)

    def table(self) -> Table:
        """A rich table: one column a workload."""
        from hybridml.compare.table import table

        return table(self)

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw total time against number of calls, and losses where there are any; returns the matplotlib figure.

        path: where to save it; the ending says the format (.png, .svg, .pdf). Without an ending both PNG and SVG are saved.
        """
        from hybridml.compare.plot import draw

        return draw(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers."""
        found = dataclasses.asdict(self)
        for plain, r in zip(found["results"], self.results, strict=True):
            plain |= {
                "speedup": r.speedup,
                "break_even": r.break_even,
                "largest_loss_difference": r.largest_loss_difference,
            }
        return found

    def to_json(self, path: str | Path | None = None) -> str:
        """Everything as JSON text, written to `path` if one is given."""
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @staticmethod
    def from_json(text: str) -> Report:
        """The report that `to_json` wrote."""
        plain = json.loads(text)
        return Report([_result(r) for r in plain["results"]], plain["machine"])

    def problems(self) -> list[str]:
        """What a reader must be told first: scores below what was required, results that are not finite."""
        return list(_problems(self.results))

    def __str__(self) -> str:
        from hybridml.compare.table import as_text

        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from hybridml.compare.table import as_html

        return as_html(self)


def _problems(results: Iterable[Result]) -> Iterable[str]:
    for r in results:
        if not math.isfinite(r.largest_difference):
            yield f"{r.name}: eager and traced results differ by {r.largest_difference}"
        for way, run in (("eager", r.eager), ("traced", r.traced)):
            if r.required_score is not None and (run.score is None or run.score < r.required_score):
                yield f"{r.name}: the {way} run reached a score of {run.score}, expected at least {r.required_score}"


def _result(plain: dict[str, Any]) -> Result:
    known = {f.name: plain[f.name] for f in dataclasses.fields(Result)}
    runs = {way: _run(plain[way]) for way in ("eager", "traced", "warm")}
    return Result(
        **(known | runs | {"calls": tuple(plain["calls"]), "compiled": Compiled(**plain["compiled"])})
    )


def _run(plain: dict[str, Any]) -> Run:
    steady = plain["steady"]
    totals = {int(n): seconds for n, seconds in plain["totals"].items()}
    curve = [(int(n), float(seconds)) for n, seconds in plain["curve"]]
    return Run(
        **(plain | {"totals": totals, "curve": curve, "steady": None if steady is None else Steady(**steady)})
    )
