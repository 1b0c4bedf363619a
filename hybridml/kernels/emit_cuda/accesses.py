"""Which accesses of a kernel touch neighbouring elements, and how many of them one instruction may move.

An operand whose index has a stride of 1 on the innermost axis is read and written in runs: 16 bytes of the widest dtype at once, if all
other strides are multiples of that run, and so is a row's length. Whether addresses are, the kernel sees at run time. Operands that do not
vary along the innermost axis are loaded once for a run; others, element by element.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Literal

from hybridml.kernels.emit_cuda.tree import axes, innermost, loops, names
from hybridml.kernels.spec import Accumulate, Flag, KernelSpec, Let, Load, Loop, Mode, Statement, Store

WIDEST = 16  # bytes of one access

Kind = Literal["same", "unit", "strided"]


def kind(index: str, axis: str) -> Kind:
    """How an index moves along an axis."""
    addends = list(terms(index))
    if axis in addends and sum(axis in names([t]) for t in addends) == 1:
        return "unit"
    return "strided" if axis in names([index]) else "same"


def width(spec: KernelSpec, words: Sequence[int]) -> int:
    """Elements that one access may move: 16 bytes of the widest operand, or fewer; 1 where the kernel takes them one by one."""
    if not is_grouped(spec):
        return 1
    value = dict(zip(spec.words, words, strict=True))
    axis = _innermost(spec)
    found = [s for s in _accesses(spec) if kind(s.index, axis) == "unit"]
    kept, reduced = axes(spec)
    steps = [_step(t, value) for s in found for t in terms(s.index) if t != axis]
    if spec.mode is Mode.ROW or len(kept) > 1:
        steps.append(value[(reduced or kept)[-1].size])
    moved = [
        s for s in found if spec.mode is Mode.MAP or s.index != axis
    ] or found  # what all rows share is read from a cache
    most = WIDEST // max(s.operand.dtype.itemsize for s in moved) if moved else 1
    while most > 1 and any(step % most for step in steps):
        most //= 2
    return max(most, 1)


def is_grouped(spec: KernelSpec) -> bool:
    """True if a thread can take several neighbouring elements of the innermost axis together: first all loads, then all results."""
    if spec.mode is Mode.COLUMN or spec.crossed:
        return False
    axis = _innermost(spec)
    stored: set[str] = set()
    for body in bodies(spec):
        if any(isinstance(s, Loop) and s.running for s in body):
            return False
        computed = {s.name for s in _varying(body, axis) if isinstance(s, (Let, Load, Accumulate))}
        for s in body:
            if isinstance(s, Store) and kind(s.index, axis) != "unit":
                return False
            if isinstance(s, Flag) and (spec.mode is Mode.ROW or computed & set(names([s.when]))):
                return False
            if isinstance(s, Load) and (computed & set(names([s.index])) or s.operand.name in stored):
                return False
        if spec.mode is Mode.MAP:
            stored |= {s.operand.name for s in body if isinstance(s, Store)}
            if any(isinstance(s, Load) and s.operand.name in stored for s in body):
                return False
    return any(isinstance(s, Store) or spec.mode is Mode.ROW for s in _accesses(spec))


def held_words(spec: KernelSpec) -> int:
    """Registers that an element of a row needs for it to be read once and written once; 0 where rows cannot be held.

    They are counted where a pass has loaded what it needs, and where it ends.
    """
    if spec.mode is not Mode.ROW or len(axes(spec)[1]) != 1 or not is_grouped(spec):
        return 0
    passes = bodies(spec)
    loaded = [{s.operand for s in body if isinstance(s, Load)} for body in passes]
    stored = [{s.operand for s in body if isinstance(s, Store)} for body in passes]
    most = 1
    for k in range(len(passes)):
        before = set().union(*loaded[:k], *stored[:k])
        needed_here, needed_later = set().union(*loaded[k:]), set().union(*loaded[k + 1 :])
        during = loaded[k] | before & needed_here
        after = (before | loaded[k] | stored[k]) & needed_later
        most = max(most, *[sum(-(-o.dtype.itemsize // 4) for o in live) for live in (during, after)])
    return most


def unit_operands(spec: KernelSpec) -> list[str]:
    """The operands that are read and written in runs."""
    axis = _innermost(spec)
    return list(dict.fromkeys(s.operand.name for s in _accesses(spec) if kind(s.index, axis) == "unit"))


def levels(spec: KernelSpec) -> tuple[list[Statement], list[Statement]]:
    """A MAP kernel's statements: those that vary along the innermost axis, and those that do not."""
    (body,) = bodies(spec)
    varying = _varying(body, _innermost(spec))
    return varying, [s for s in body if s not in varying]


def _innermost(spec: KernelSpec) -> str:
    kept, reduced = axes(spec)
    return (reduced or kept)[-1].name if reduced or kept else ""


def bodies(spec: KernelSpec) -> list[list[Statement]]:
    """The statements of each pass over the elements."""
    if spec.mode is Mode.MAP:
        return [_flat(spec.body)]
    return [innermost(loop) for loop in loops(spec)]


def _flat(body: list[Statement]) -> list[Statement]:
    found: list[Statement] = []
    for s in body:
        found += [s] if not isinstance(s, Loop) or s.running else _flat(s.body)
    return found


def _accesses(spec: KernelSpec) -> list[Load | Store]:
    axis = _innermost(spec)
    return [
        s
        for body in bodies(spec)
        for s in body
        if isinstance(s, (Load, Store)) and (isinstance(s, Store) or kind(s.index, axis) != "same")
    ]


def _varying(body: list[Statement], axis: str) -> list[Statement]:
    known, found = {axis}, []
    for s in body:
        if isinstance(s, (Load, Store)):
            reads = names([s.index, s.value] if isinstance(s, Store) else [s.index])
        elif isinstance(s, Accumulate):
            reads = [axis]
        else:
            reads = names([s.text if isinstance(s, Let) else s.when]) if not isinstance(s, Loop) else [axis]
        if isinstance(s, Store) or known & set(reads):
            found.append(s)
            if isinstance(s, (Load, Let)):
                known.add(s.name)
    return found


def terms(index: str) -> Iterator[str]:
    """The addends of an index."""
    waiting = [ast.parse(index, mode="eval").body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            waiting += [node.right, node.left]
        else:
            yield ast.unparse(node)


def _step(term: str, value: dict[str, int]) -> int:
    """A number that divides what the term adds to an index."""
    node = ast.parse(term, mode="eval").body
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for side in (node.right, node.left):
            if isinstance(side, ast.Name) and side.id in value:
                return value[side.id]
    return 1
