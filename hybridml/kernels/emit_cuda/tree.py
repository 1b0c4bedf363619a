"""Questions about a spec's tree of statements that every printer for CUDA asks."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from hybridml.kernels.spec import Accumulate, Axis, KernelSpec, Let, Load, Loop, Mode, Statement, Store


@dataclass(frozen=True)
class Reduction:
    """One accumulator of a pass: the variable that holds it, and the step that fills it."""

    name: str
    step: Accumulate


def reductions(spec: KernelSpec) -> list[Reduction]:
    """Every accumulator of the kernel, pass by pass."""
    return [r for loop in loops(spec) for r in reductions_of(innermost(loop))]


def reductions_of(body: list[Statement]) -> list[Reduction]:
    """Accumulators in registers (ROW) or in memory (COLUMN, where a register named after the operand stands for it)."""
    found = [Reduction(s.name, s) for s in body if isinstance(s, Accumulate)]
    loaded = {s.name: s.operand for s in body if isinstance(s, Load)}
    steps = [s.step for s in body if isinstance(s, Let) and s.step is not None]
    return found + [Reduction(register(loaded[s.name].name), s) for s in steps]


def is_splittable(spec: KernelSpec) -> bool:
    """True if the kernel is one pass of reductions, whose results no element waits for: it can run in two phases.

    What a ROW kernel stores an element, the first phase stores.
    """
    passes = [s for s in loops(spec) if not is_kept(spec, s)]
    if spec.mode is Mode.MAP or len(passes) != 1:
        return False
    inner = innermost(passes[0])
    found = reductions_of(inner)
    if spec.mode is Mode.ROW:
        return bool(found)
    stored = {register(s.operand.name) for s in inner if isinstance(s, Store)}
    return bool(found) and stored <= {r.name for r in found}  # a COLUMN kernel's text stores its accumulators


def space(spec: KernelSpec) -> tuple[list[str], list[str]]:
    """The names of the sizes that are kept (MAP: all but those that run in order) and of those that are reduced."""
    kept, reduced = axes(spec)
    return [a.size for a in kept], [a.size for a in reduced]


def axes(spec: KernelSpec) -> tuple[list[Axis], list[Axis]]:
    """(kept, reduced) axes; a MAP kernel keeps all but those that run in order."""
    if spec.mode is Mode.MAP:
        return spec.parallel + _mapped(spec.body), []
    if spec.mode is Mode.ROW:
        return spec.parallel, _nest(loops(spec)[0])
    full = next(s for s in loops(spec) if not is_kept(spec, s))
    *reduced, column = _nest(full)
    return [*spec.parallel, column], reduced


def loops(spec: KernelSpec) -> list[Loop]:
    """The outermost loops of the body, in order."""
    return [s for s in spec.body if isinstance(s, Loop)]


def innermost(loop: Loop) -> list[Statement]:
    """The statements of a nest of loops."""
    body = loop.body
    while len(body) == 1 and isinstance(body[0], Loop):
        body = body[0].body
    return body


def is_kept(spec: KernelSpec, loop: Loop) -> bool:
    """True for a COLUMN kernel's loop over the columns alone: its statements run once a column."""
    return spec.mode is Mode.COLUMN and not isinstance(loop.body[0], Loop)


def register(operand: str) -> str:
    """The variable that stands for an operand which lives in a register until it is stored."""
    return f"r_{operand}"


def names(texts: Iterable[str]) -> list[str]:
    """The variables that expressions read, in order of appearance; functions are none."""
    found: dict[str, None] = {}
    for text in texts:
        tree = ast.parse(text.strip(), mode="eval")
        functions = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        for n in ast.walk(tree):
            if isinstance(n, ast.Name) and id(n) not in functions:
                found.setdefault(n.id)
    return list(found)


def _nest(loop: Loop) -> list[Axis]:
    found = [loop.axis]
    body = loop.body
    while len(body) == 1 and isinstance(body[0], Loop):
        found.append(body[0].axis)
        body = body[0].body
    return found


def _mapped(body: list[Statement]) -> list[Axis]:
    """The axes of a MAP kernel's loops whose steps are threads."""
    return [a for s in body if isinstance(s, Loop) for a in ([] if s.running else [s.axis]) + _mapped(s.body)]
