"""How the time of a call grows: `make bench-scaling` writes benchmarks/results/cpu-scaling.{json,md,svg}.

Four sweeps, eager beside traced, taken in turns: elements of one fused chain, layers of a network's training step, tensors among
the arguments, and threads. A point is left out, and the table says so, where it would take too long or too much memory.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS
from turns import in_turns

import hybridml as hml
from hybridml import config
from hybridml.compare.machine import describe
from hybridml.compare.plot import EAGER, TRACED, save
from hybridml.compare.table import seconds
from hybridml.compare.workloads import chain, regression_step

ELEMENTS = [10**k for k in range(2, 9)]
LAYERS = [1, 2, 5, 10, 20, 50, 100, 200]
ARGUMENTS = [1, 3, 10, 30, 100, 300, 1000]
WIDTH, BATCH = 64, 32
EAGER_BYTES = 48  # an element of the chain: what the largest of its eager calls hold at once
MEMORY = 6e9
LONG = 0.05  # seconds: longer calls are timed three times, one by one

Call = Callable[[], object]


@dataclass(frozen=True)
class Point:
    """Seconds of one call; `eager` is None where it was left out, `first` is the first traced call's."""

    sweep: str
    x: int
    label: str
    eager: float | None
    traced: float
    first: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--sweep", action="append", choices=SWEEPS, help="only this one; may be repeated")
    options = parser.parse_args()
    machine = describe()
    points = []
    for name in options.sweep or SWEEPS:
        for p in SWEEPS[name]():
            points.append(p)
            print(
                f"{p.sweep:10} {p.label:32} eager {seconds(p.eager):>8}  traced {seconds(p.traced):>8}",
                flush=True,
            )
    write(points, machine, options.out)


def elements() -> Iterator[Point]:
    for n in ELEMENTS:
        case = chain(n)
        args = case.args(0)
        fits = n * EAGER_BYTES <= MEMORY
        yield Point("elements", n, f"{n:.0e} elements", *_pair(case.f, args, fits))


def layers() -> Iterator[Point]:
    for n in LAYERS:
        case = regression_step(lambda: hml.optim.SGD(1e-3), BATCH, *[WIDTH] * (n + 1))
        args = case.args(0)
        yield Point("layers", n, f"{n} dense layers, SGD step", *_pair(case.f, args, True))


def arguments() -> Iterator[Point]:
    for n in ARGUMENTS:
        tensors = [hml.full(8, float(i)) for i in range(n)]

        def total(tensors: list[Any]) -> Any:
            out = tensors[0]
            for t in tensors[1:]:
                out = out + t
            return out

        yield Point("arguments", n, f"sum of {n} tensors of 8", *_pair(total, (tensors,), True))


def threads() -> Iterator[Point]:
    def two_layers() -> Any:
        return regression_step(lambda: hml.optim.SGD(1e-2), 64, 1000, 100, 10)

    def wide() -> Any:
        return regression_step(lambda: hml.optim.SGD(1e-2), 256, 1024, 1024, 1024)

    for title, make in (
        ("chain of 1e6", lambda: chain(1_000_000)),
        ("two-layer SGD step", two_layers),
        ("wide SGD step", wide),
    ):
        for n in range(1, min(2, config.available_cpus()) + 1):
            with config.scope(num_threads=n):
                case = make()
                args = case.args(0)
                yield Point("threads", n, f"{title}, {n} threads", *_pair(case.f, args, False))


SWEEPS: dict[str, Callable[[], Iterator[Point]]] = {
    "elements": elements, "layers": layers, "arguments": arguments, "threads": threads,
}  # fmt: skip


def _pair(f: Any, args: tuple[Any, ...], eager_too: bool) -> tuple[float | None, float, float]:
    """Seconds of an eager call, where wanted, of a traced call, and of the first traced call."""
    function = hml.function(f)
    calls = [lambda: function(*args), lambda: f(*args)][: 1 + eager_too]
    first, again = _time(calls[0]), _time(calls[0])
    if again > LONG:
        found = [[_time(call) for _ in range(3)] for call in calls]
    else:
        found = in_turns(*calls, rounds=9)
    traced, eager = [*map(statistics.median, found), None][:2]
    return eager, traced, first


def _time(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def write(points: list[Point], machine: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine, "points": [asdict(p) for p in points]}
    (folder / "cpu-scaling.json").write_text(json.dumps(facts, indent=1) + "\n")
    told = ", ".join(f"{k} {v}" for k, v in machine.items() if v)
    head = (
        "| call | eager | traced | first traced call, caches as they were |\n| --- | ---: | ---: | ---: |\n"
    )
    body = "\n".join(
        f"| {p.label} | {seconds(p.eager)} | {seconds(p.traced)} | {seconds(p.first)} |" for p in points
    )
    text = f"Measured by `make bench-scaling`: medians, eager and traced in turns. {told}.\n\n{head}{body}\n"
    (folder / "cpu-scaling.md").write_text(text)
    draw(points, folder / "cpu-scaling.svg")


def draw(points: list[Point], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 6.6), layout="constrained")
    grid = figure.subplots(2, 2).ravel()
    titles = {
        "elements": "gelu(x*y+1.5)*sigmoid(x)-y",
        "layers": f"SGD step of dense layers {WIDTH} wide, batch {BATCH}",
        "arguments": "sum of tensors of 8 elements",
    }
    for axes, (sweep, title) in zip(grid, titles.items(), strict=False):
        of = [p for p in points if p.sweep == sweep]
        for name, color in (("eager", EAGER), ("traced", TRACED)):
            drawn = [(p.x, getattr(p, name)) for p in of if getattr(p, name) is not None]
            axes.plot(
                [x for x, _ in drawn], [t for _, t in drawn], "o-", color=color, label=name, markersize=3
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(sweep)
        axes.set_ylabel("seconds a call")
        axes.legend(fontsize=7, frameon=False)
    _draw_threads(grid[3], [p for p in points if p.sweep == "threads"])
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _draw_threads(axes: Any, points: list[Point]) -> None:
    """How many times faster more threads are than one."""
    titles = list(dict.fromkeys(p.label.split(",")[0] for p in points))
    counts = sorted({p.x for p in points})
    for k, n in enumerate(counts):
        height = []
        for title in titles:
            times = {p.x: p.traced for p in points if p.label.startswith(title)}
            height.append(times[1] / times[n])
        offset = (k - (len(counts) - 1) / 2) * 0.8 / len(counts)
        bars = axes.bar(
            np.arange(len(titles)) + offset, height, 0.8 / len(counts), color=TRACED, alpha=(k + 1) / len(counts),
            label=f"{n} thread{'s' * (n > 1)}",
        )  # fmt: skip
        axes.bar_label(bars, [f"{h:.2f} x" for h in height], fontsize=7)
    axes.set_xticks(range(len(titles)), titles, fontsize=7)
    axes.set_ylim(0, math.ceil(max(counts, default=1)) + 0.3)
    axes.set_title("traced, against one thread", fontsize=9)
    axes.legend(fontsize=7, frameon=False)


if __name__ == "__main__":
    main()
