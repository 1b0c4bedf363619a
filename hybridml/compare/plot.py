"""Draw a report: total time against number of calls, and loss curves.

Figures are made without pyplot, so that no global state of matplotlib changes and no display is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybridml.compare.report import Report, Result, Run
from hybridml.compare.table import seconds

EAGER, TRACED, GREY = "#D55E00", "#0072B2", "#666666"  # two colours that everybody can tell apart
PANEL = (4.6, 3.5)  # inches


def draw(report: Report, path: str | Path | None = None) -> Any:
    """First the total times of each workload, then the losses of those that train; returns the matplotlib Figure.

    path: ends in a format's name (.png, .svg, .pdf), or has no ending, and then both .png and .svg are written.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[Callable[[Any, Result], None], Result]] = [(_total_times, r) for r in report.results]
    panels += [(_losses, r) for r in report.results if len(r.eager.losses) > 1]
    columns = min(len(panels), {1: 1, 2: 2, 4: 2}.get(len(panels), 3 if len(panels) <= 9 else 4))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (paint, r) in zip(grid, panels, strict=False):
        paint(axes, r)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if path is not None:
        save(figure, Path(path))
    return figure


def save(figure: Any, path: Path) -> list[Path]:
    """Write a figure and say where: in the ending's format, or as .png and .svg where there is no ending."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path] if path.suffix else [path.with_suffix(".png"), path.with_suffix(".svg")]
    # Text stays text, and the same figure gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hybridml"}):
        for p in written:
            extra = {"metadata": {"Date": None}} if p.suffix == ".svg" else {}
            figure.savefig(p, dpi=150, **extra)
    return written


def crossing(eager: Run, traced: Run) -> float | None:
    """Where the two measured curves cross, in calls; None if they do not, or if tracing is ahead from the first call."""
    behind = None
    for (n, e), (m, t) in zip(eager.curve, traced.curve, strict=False):
        if t > e:
            behind = (n, t - e)
        elif behind is not None:
            # Straight between the last point where tracing was behind and the first where it is not.
            lag, lead = behind[1], e - t
            return behind[0] + (m - behind[0]) * lag / (lag + lead)
        else:
            return None
    return None


def _total_times(axes: Any, r: Result) -> None:
    for run, label, style in (
        (r.eager, "eager", {"color": EAGER}),
        (r.traced, "traced, cold caches", {"color": TRACED}),
        (r.warm, "traced, kernels on disk", {"color": TRACED, "linestyle": ":"}),
    ):
        axes.plot(*zip(*run.curve, strict=True), label=label, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** 0.35)  # room for the legend
    for run in (r.traced, r.warm):
        n = crossing(r.eager, run)
        if n is not None:
            height = float(np.interp(n, [m for m, _ in run.curve], [s for _, s in run.curve]))
            axes.plot([n], [height], "o", color=GREY, markersize=5)
            _mark(axes, f"pays off after {n:,.0f} calls", n, height, right_half=n * n > r.calls[-1])
    axes.set_title(f"{r.title}\none call: {_steady(r.eager)} eager, {_steady(r.traced)} traced", fontsize=9)
    axes.set_xlabel("calls")
    axes.set_ylabel("seconds since the start")
    axes.legend(fontsize=7, frameon=False, loc="upper left")


def _mark(axes: Any, text: str, x: float, y: float, *, right_half: bool) -> None:
    """Label a crossing where no line is: above and left of it, or below and right."""
    x_shift, y_shift, ha, va = (-5, 4, "right", "bottom") if right_half else (6, -4, "left", "top")
    label = axes.annotate(
        text,
        (x, y),
        xytext=(x_shift, y_shift),
        textcoords="offset points",
        ha=ha,
        va=va,
        fontsize=7,
        color=GREY,
    )
    label.set_in_layout(False)  # a label must not squeeze its panel


def _steady(run: Run) -> str:
    return seconds(run.steady.median if run.steady is not None else None)


def _losses(axes: Any, r: Result) -> None:
    axes.plot(r.eager.losses, color=EAGER, linewidth=3, alpha=0.5, label="eager")
    axes.plot(r.traced.losses, color=TRACED, linewidth=1, label="traced")
    if min(r.eager.losses) > 0:
        axes.set_yscale("log")
    axes.set_title(f"{r.title}\nlosses differ by at most {r.largest_loss_difference:.1e}", fontsize=9)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(fontsize=7, frameon=False, loc="upper right")
