"""What became of a traced function: as text at a prompt, as HTML in a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybridml.kernels.control import ControlStep
from hybridml.kernels.epilogue import Epilogue
from hybridml.kernels.products import GemmStep
from hybridml.kernels.prologue import Prologue
from hybridml.kernels.steps import EmptyStep, HorizontalStep, KernelStep, PythonStep, RoutineStep, Step
from hybridml.kernels.sweep import SweepStep

if TYPE_CHECKING:
    from hybridml.trace.concrete import ConcreteFunction, Stats


@dataclass(frozen=True)
class Explanation:
    """Sections of (title, text): the graph, the steps, refusals, memory, time, and each kernel's source."""

    name: str
    sections: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        parts = [f"{title}\n{'-' * len(title)}\n{text}" for title, text in self.sections]
        return "\n\n".join([f"{self.name}\n{'=' * len(self.name)}", *parts])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        first, *rest = self.sections
        folded = "".join(
            f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
            for title, text in rest
        )
        return f"<h4>{html.escape(self.name)}</h4><pre>{html.escape(first[1])}</pre>{folded}"


def explain(concrete: ConcreteFunction) -> Explanation:
    """Everything the compiler decided about one trace."""
    program, stats = concrete.program, concrete.stats
    saved = 1 - stats.bytes_traced / stats.bytes_eager if stats.bytes_eager else 0.0
    summary = [
        f"{len(concrete.graph.nodes)} operations became {stats.kernels} kernel launches"
        + (f" and {stats.python_steps} steps in Python" if stats.python_steps else ""),
        f"bytes moved a call: {_bytes(stats.bytes_eager)} eagerly, {_bytes(stats.bytes_traced)} traced ({saved:.0%} less)",
        f"intermediates share an arena of {_bytes(stats.arena_bytes)}",
        *([program.note] if program.note else []),
        f"before the first call: {_ms(sum(seconds for _, seconds in _stages(stats)))}, of which tracing {_ms(stats.trace_seconds)}",
    ]
    sections = [
        ("Summary", "\n".join(summary)),
        ("Steps", "\n".join(f"{k:3d}  {line}" for k, line in enumerate(map(_describe, program.steps)))),
        ("Not fused, and why", _refusals(program)),
        ("Memory", _memory(program)),
        ("Time before the first call", _time(program, stats)),
        ("Graph as traced", str(concrete.graph)),
        ("Graph as compiled", str(concrete.optimized)),
    ]
    kernels = [
        k for s in program.kernels for k in (s, getattr(s, "epilogue", None), *getattr(s, "prologues", ()))
    ]
    seen: dict[str, Any] = {
        s.kernel.name: s for s in kernels if isinstance(s, (KernelStep, HorizontalStep, Epilogue, Prologue))
    }
    sections += [(f"Kernel {name}", s.source) for name, s in seen.items()]
    return Explanation(concrete.name, tuple(sections))


def _describe(s: Step) -> str:
    if isinstance(s, PythonStep):
        where = f" ({s.node.source})" if s.node.source else ""
        return f"Python step: {s.node.op.name}{where} {s.reason}"
    if isinstance(s, EmptyStep):
        return f"{s.title}: no elements, nothing to do"
    if isinstance(s, ControlStep):
        inner = [f"\n       {name}: {_describe(t)}" for name, r in s.regions.items() for t in r.steps]
        return f"{s.node.op.name}, jumps around" + "".join(inner)
    if isinstance(s, GemmStep):
        product = (
            f"{s.title}: {s.flops / 1e6:.2f} Mflop, {s.plan.kernel.name} kernel in {s.plan.chunks} piece(s)"
        )
        return product + _prologues(s) + _epilogue(s)
    if isinstance(s, RoutineStep):
        work = f", {s.flops / 1e6:.2f} Mflop" if s.flops else ""
        return f"{s.title}{work}, in {s.pieces} piece(s)" + _epilogue(s)
    if isinstance(s, SweepStep):
        inner = [f"\n       {_describe(m)}" for m in s.members]
        own = f", {len(s.own)} buffers of its own" if s.own else ""
        return f"sweep of {s.units} units, {s.part} at a time{own}" + "".join(inner)
    if not isinstance(s, (KernelStep, HorizontalStep)):
        return s.title  # a library's call on a GPU
    kernel = s.kernel.name.rsplit("_", 1)[0]
    if isinstance(s, HorizontalStep):
        return f"{kernel}: one launch over {len(s.parts)} buffers, {sum(s.extents)} elements"
    spec = s.lowered.spec
    return f"{kernel}: {len(spec.notes)} operation{'s' * (len(spec.notes) != 1)} in one {spec.mode.value} kernel, {s.lowered.work} elements"


def _prologues(s: GemmStep) -> str:
    return "".join(
        f", its operand {'AB'[p.operand]} made in {'panels' if p.in_panels else 'blocks'} by {p.lowered.spec.title}"
        for p in s.prologues
    )


def _epilogue(s: GemmStep | RoutineStep) -> str:
    e = s.epilogue
    return "" if e is None else f", {'in its tiles' if e.in_tile else 'on its blocks'} {e.lowered.spec.title}"


def _refusals(program: Any) -> str:
    lines = [f"{r.producer} | {r.consumer}: {r.reason}" for r in program.refusals]
    return "\n".join(dict.fromkeys(lines)) or "everything that touches is in one kernel"


def _memory(program: Any) -> str:
    label = program.graph.label
    lines = [
        f"{label(v)} {v.spec}: arena at byte {at}"
        for v, at in sorted(program.offset.items(), key=lambda item: item[1])
    ]
    names = [*program.graph.inputs, *program.graph.variables]
    for v, number in program.external.items():
        if v not in names:
            place = (
                f"written into variable {label(names[number])}"
                if number < len(names)
                else f"output {number - len(names)}"
            )
            lines.append(f"{label(v)} {v.spec}: {place}")
    return "\n".join(lines) or "no buffers"


def _stages(stats: Stats) -> list[tuple[str, float]]:
    """Where the time went, in the order in which it did."""
    return [
        ("trace", stats.trace_seconds), ("passes", stats.passes_seconds), ("plan", stats.plan_seconds),
        ("emit", stats.emit_seconds), ("translate", stats.translate_seconds), ("LLVM", stats.llvm_seconds),
        ("Numba", stats.numba_seconds), ("load and link", stats.link_seconds),
    ]  # fmt: skip


def _time(program: Any, stats: Stats) -> str:
    """A line for each stage, then one for each kernel that was not in memory yet."""
    lines = [f"{name:15} {_ms(seconds):>10}" for name, seconds in _stages(stats)]
    lines.append(
        f"{'LLVM beside':15} {_ms(stats.llvm_beside_seconds):>10}  in other threads, while this one was at the above"
    )
    for k in sorted(program.loads, key=lambda k: -k.seconds):
        how = (
            f"{k.origin} by the {k.by}"
            if k.by == "translator"
            else f"{k.origin} by Numba"
            if k.by
            else "from disk"
        )
        lines.append(f"{_ms(k.seconds):>10}  {k.name}: {how}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"
