"""A report as a table: for a terminal, as text, and as HTML."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hybridml.compare.report import Report, Result, Run

if TYPE_CHECKING:
    from rich.table import Table


def seconds(value: float | None) -> str:
    """A time with three digits and a unit.

    >>> seconds(0.0123), seconds(4.56e-6), seconds(None)
    ('12.3 ms', '4.56 us', '-')
    """
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{_digits(value / 1e-9)} ns"


def size(value: float | None) -> str:
    """A number of bytes with three digits and a unit.

    >>> size(512), size(1_500_000)
    ('512 B', '1.50 MB')
    """
    if value is None:
        return "-"
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{value:.0f} B"


def _digits(x: float) -> str:
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:.0f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


Cell = tuple[str, bool]  # text, and whether it is the better of two


def _pair(
    eager: float | None, traced: float | None, show: Callable[[float | None], str]
) -> tuple[Cell, Cell]:
    known = eager is not None and traced is not None
    return (
        (show(eager), bool(known and eager < traced)),  # type: ignore[operator]
        (show(traced), bool(known and traced < eager)),  # type: ignore[operator]
    )


def rows(r: Result) -> Iterator[tuple[str, Cell, Cell]]:
    """(what, eager, traced) for one workload."""

    def pair(what: str, of: Callable[[Run], Any], show: Callable[[Any], str]) -> tuple[str, Cell, Cell]:
        return (what, *_pair(of(r.eager), of(r.traced), show))

    c = r.compiled
    for n in r.calls:
        yield pair(f"{n:,} calls, from cold caches", lambda run, n=n: run.totals[n], seconds)  # type: ignore[misc]
    for n in r.calls:
        yield f"{n:,} calls, kernels on disk", ("", False), (seconds(r.warm.totals[n]), False)
    yield pair("first call", lambda run: run.first_call, seconds)
    yield "  of it tracing and passes", ("", False), (seconds(_sum(c.trace_seconds, c.passes_seconds)), False)
    yield (
        "  of it compiling",
        ("", False),
        (seconds(_sum(c.emit_seconds, c.native_seconds)), False),
    )
    yield pair("one call, warm (median)", lambda run: run.steady.median if run.steady else None, seconds)
    yield "times faster", ("", False), (f"{r.speedup:.2f}", r.speedup > 1)
    yield (
        "pays off after",
        ("", False),
        ("never" if r.break_even is None else f"{r.break_even:,} calls", False),
    )
    yield "kernels", ("", False), (_count(c.kernels), False)
    yield ("bytes moved a call", *_pair(c.bytes_eager, c.bytes_traced, size))
    yield pair("peak memory of a call", lambda run: run.peak_bytes, size)
    yield "largest difference of results", ("", False), (f"{r.largest_difference:.1e}", False)
    if r.largest_loss_difference is not None:
        yield "largest difference of losses", ("", False), (f"{r.largest_loss_difference:.1e}", False)
    if r.eager.score is not None:
        score = [(f"{run.score:.2%}" if run.score is not None else "-", False) for run in (r.eager, r.traced)]
        yield "accuracy on test images", score[0], score[1]


def _sum(*parts: float | None) -> float | None:
    known = [p for p in parts if p is not None]
    return sum(known) if known else None


def table(report: Report) -> Table:
    """All workloads in one rich table, one below the other; the better of two figures is green."""
    from rich.table import Table

    m = report.machine
    t = Table(
        title=f"hybridml: eager against traced ({m['processor']}, {m['cpus']} CPUs, numpy {m['numpy']}, numba {m['numba']})",
        title_style="bold",
    )
    t.add_column("")
    t.add_column("eager", justify="right")
    t.add_column("traced", justify="right")
    for r in report.results:
        t.add_section()
        t.add_row(f"[bold]{r.title}[/bold]")
        for what, eager, traced in rows(r):
            t.add_row(what, *[f"[green]{text}[/green]" if best else text for text, best in (eager, traced)])
    return t


def _console(stream: Any) -> Any:
    from rich.console import Console

    return Console(file=stream, width=100, color_system=None, force_jupyter=False)


def as_text(report: Report) -> str:
    """The table without colours, 100 columns wide."""
    out = io.StringIO()
    _console(out).print(table(report))
    return out.getvalue() + "".join(f"! {line}\n" for line in report.problems())


def as_html(report: Report) -> str:
    """The table for a notebook."""
    from html import escape

    parts = ["<table>"]
    for r in report.results:
        parts.append(
            f"<tr><th style='text-align:left'>{escape(r.title)}</th><th>eager</th><th>traced</th></tr>"
        )
        for what, eager, traced in rows(r):
            cells = "".join(
                f"<td style='text-align:right'>{'<b>' if best else ''}{escape(text)}{'</b>' if best else ''}</td>"
                for text, best in (eager, traced)
            )
            parts.append(f"<tr><td style='text-align:left'>{escape(what)}</td>{cells}</tr>")
    parts.append("</table>")
    parts += [f"<p><b>{escape(line)}</b></p>" for line in report.problems()]
    return "".join(parts)
