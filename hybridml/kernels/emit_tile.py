"""KernelSpec to the text of an epilogue that takes a register tile, or of a prologue that makes a panel: the same statements as those that
`emit_block` prints, for one element.

Bias and ReLU, for example, are

    def add_maximum(args, x0, i, j):
        o0 = float32_out(args, 0, 1)
        x1 = float32_in(args, 1, 2)
        ...
        v1 = x1[j]
        v2 = x0 + v1  # add
        ...
        o0[i * o0_i + j] = v3

where `x0` is the product's element in row i and column j. The text is translated once for a whole vector of neighbouring columns
(`translate.tile`): no number passes through memory between the product and what follows it. Sums over the rows are returned element by
element; the translator adds them up over the rows of a tile, and hands their totals to a second function, which adds them to those of the
tiles before. That one also begins with the first row and does with the last what waits for all of them:

    def add_maximum_sums(args, begin, end, j, s0):
        ...
        b0 = c0 if begin == 0 else o1[j]
        v2 = b0 + s0  # sum
        o1[j] = v2

A prologue of panels is printed in the same way: a function of i and j that returns the element of the operand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from hybridml import dtypes
from hybridml.kernels.emit import finished, read_arguments, statements
from hybridml.kernels.emit_block import Way
from hybridml.kernels.spec import KernelSpec, Let, Load, Loop, Mode, Statement, Store
from hybridml.kernels.text import CALL, SHORT, Lines
from hybridml.kernels.vectors import vectors

MOST_STATEMENTS = 24
MOST_LONG = 2
"""Calls of scalar functions that are polynomials, in single precision. A tile has sixteen vectors, each with code of its own, and half as
many elements in double precision: where that would be long, a block's loop is as fast and sooner compiled."""
MOST_STREAMS = 2
"""Operands with an element for each of the product's. A tile is narrow: rows that lie a power of two apart meet in one set of the cache,
and many streams, as those of an optimiser's state, would be cut into pieces of two lines each."""

LONG = frozenset(
    "acos asin atan atan2 cosh erf exp exp2 expm1 hypot log log10 log1p log2 logaddexp pow sigmoid sinh tanh".split()
)
"""Scalar functions that all lanes compute at once, beside the short ones. Others branch, call a library, or want integers of 64 bits."""

_FLOATS = ("float32", "float64")
_INTEGERS = re.compile(r"//|%")  # divisions that lanes do not have


@dataclass
class _Parts:
    """The statements of an element, what it adds to sums, how these begin and go on, and what is done with them in the end.

    `steps` are (what is added, the accumulator's place, its step), `identities` by the accumulators' names.
    """

    body: list[Statement]
    steps: list[tuple[str, Load, Let]] = field(default_factory=list)
    identities: dict[str, str] = field(default_factory=dict)
    end: list[Statement] = field(default_factory=list)
    rows: str = ""


def tile_way(spec: KernelSpec) -> Way | None:
    """How an epilogue of tiles is made for this processor, if it is short, walks along rows of few operands, and has nothing but what lanes
    compute well; else None."""
    parts, product = _parts(spec), spec.operands[0].dtype
    if parts is None:
        return None
    everything = [*parts.body, *parts.end]
    fits = (
        _in_lanes(spec, everything)
        and {o.dtype.name for o in spec.operands} <= {product.name, "bool"}
        and len(everything) <= MOST_STATEMENTS
        and len(LONG.intersection(_called(everything))) <= (MOST_LONG if product.itemsize == 4 else 0)
        and _streams(spec, everything) <= MOST_STREAMS
    )
    kind = f"Tile({_lanes(spec)}, {vectors().tile_rows}, {len(parts.steps)})"
    return (emit_tile, kind) if fits else None


def panel_way(spec: KernelSpec) -> Way | None:
    """How a prologue of panels is made for this processor, if it walks along rows, and has nothing but what lanes compute well."""
    parts = _parts(spec) if spec.mode is Mode.MAP else None
    fits = parts is not None and _in_lanes(spec, parts.body)
    return (emit_panel, f"Panel({_lanes(spec)})") if fits else None


def emit_panel(spec: KernelSpec) -> tuple[str, str]:
    """(name, source) of a prologue that makes panels: a function of the row and the column that returns the element."""
    parts = _parts(spec)
    assert parts is not None, "panel_way was asked"
    block = spec.operands[0]
    (made,) = [s.value for s in parts.body if isinstance(s, Store)]
    out = Lines()
    out.depth = 1
    read_arguments(out, spec, given=1)
    statements(out, [s for s in parts.body if not (isinstance(s, Store) and s.operand is block)])
    out(f"return ({made},)")
    return finished(out, spec, f"args, {', '.join(_axes(spec))}")


def emit_tile(spec: KernelSpec) -> tuple[str, str]:
    """(name, source) of an epilogue that takes a register tile; its sums, if it has any, are the function `name_sums`."""
    parts = _parts(spec)
    assert parts is not None, "tile_way was asked"
    i, j = _axes(spec)
    out = Lines()
    out.depth = 1
    read_arguments(out, spec, given=1)
    statements(out, _given(parts.body, spec))
    if not parts.steps:
        return finished(out, spec, f"args, x0, {i}, {j}")
    out(f"return ({', '.join(value for value, _, _ in parts.steps)},)")
    sums = Lines()
    sums.depth = 1
    read_arguments(sums, spec, given=1)
    for number, (_, place, step) in enumerate(parts.steps):
        before, accumulator = f"b{number}", place.operand.name
        sums(f"{before} = {parts.identities[accumulator]} if begin == 0 else {accumulator}[{place.index}]")
        assert step.step is not None
        sums(f"{step.name} = {step.step.combine.format(before, f's{number}')}  # {step.note}")
        sums(f"{accumulator}[{place.index}] = {step.name}")
    if parts.end:
        sums.open(f"if end == {parts.rows}:")
        statements(sums, parts.end)
        sums.close()
    given = ", ".join(f"s{k}" for k in range(len(parts.steps)))
    return finished(out, spec, f"args, x0, {i}, {j}", (f"args, begin, end, {j}, {given}", sums))


def _lanes(spec: KernelSpec) -> str:
    dtype = spec.operands[0].dtype
    return f"lanes({dtype.name}, {vectors().bytes // dtype.itemsize})"


def _in_lanes(spec: KernelSpec, body: list[Statement]) -> bool:
    _, j = _axes(spec)
    return (
        spec.operands[0].dtype.name in _FLOATS
        and not any(map(dtypes.is_half, (o.dtype for o in spec.operands)))
        and SHORT.union(LONG).issuperset(_called(body))
        and not any(_INTEGERS.search(s.text) for s in body if isinstance(s, Let))
        and all(name == spec.operands[0].name or _walks(index, j) for name, index in _indices(body))
    )


def _called(body: list[Statement]) -> list[str]:
    """The scalar functions that statements call, without their dtypes."""
    calls = [c for s in body if isinstance(s, Let) for c in CALL.findall(s.text)]
    return [c.removeprefix("m_").rsplit("_", 1)[0] for c in calls if c.startswith("m_")]


def _parts(spec: KernelSpec) -> _Parts | None:
    """What a spec over rows and columns consists of, or None where it is of another shape."""
    if spec.mode is Mode.MAP:
        flat = _flat(spec.body) if len(spec.parallel) == 1 and _loops(spec.body) == 1 else None
        return None if flat is None else _Parts(flat)
    if spec.mode is not Mode.COLUMN:
        return None
    down = [k for k, s in enumerate(spec.body) if isinstance(s, Loop) and not s.split]
    if len(down) != 1:
        return None
    rows = spec.body[down[0]]
    assert isinstance(rows, Loop)
    body, start = _flat(rows.body), _flat(spec.body[: down[0]])
    end = _flat(spec.body[down[0] + 1 :])
    if body is None or start is None or end is None or _loops(rows.body) != 1:
        return None
    if not all(isinstance(s, Store) for s in start):
        return None
    parts = _Parts(
        [], [], {s.operand.name: s.value for s in start if isinstance(s, Store)}, end, rows.axis.size
    )
    loads = {s.name: s for s in body if isinstance(s, Load)}
    summed: set[str] = set()
    for s in body:
        if isinstance(s, Let) and s.step is not None:
            place = loads[s.step.name]
            if s.step.lanes != "add" or place.operand.name not in parts.identities:
                return None
            parts.steps.append((s.step.value, place, s))
            summed |= {s.name, s.step.name}
    for s in body:
        name = s.value if isinstance(s, Store) else s.name if isinstance(s, (Load, Let)) else ""
        if name not in summed:
            parts.body.append(s)
    return parts


def _loops(body: list[Statement]) -> int:
    return sum(isinstance(s, Loop) for s in body)


def _flat(body: list[Statement]) -> list[Statement] | None:
    """The statements of a row and of its one loop over columns; None where they are not so."""
    found: list[Statement] = []
    for s in body:
        if isinstance(s, (Load, Let, Store)):
            found.append(s)
        elif isinstance(s, Loop) and not s.reduces and not s.running:
            if not all(isinstance(t, (Load, Let, Store)) for t in s.body):
                return None
            found += s.body
        else:
            return None
    return found


def _axes(spec: KernelSpec) -> tuple[str, str]:
    """The names of a row's and of a column's number."""
    if spec.mode is Mode.MAP:
        (loop,) = [s for s in spec.body if isinstance(s, Loop)]
        return spec.parallel[0].name, loop.axis.name
    (rows,) = [s for s in spec.body if isinstance(s, Loop) and not s.split]
    (loop,) = [s for s in rows.body if isinstance(s, Loop)]
    return rows.axis.name, loop.axis.name


def _given(body: list[Statement], spec: KernelSpec) -> list[Statement]:
    """The statements with the product's element at hand."""
    block = spec.operands[0]
    return [
        Let(s.name, block.name, block.dtype) if isinstance(s, Load) and s.operand is block else s
        for s in body
    ]


def _indices(body: list[Statement]) -> Iterator[tuple[str, str]]:
    for s in body:
        if isinstance(s, (Load, Store)):
            yield s.operand.name, s.index


def _walks(index: str, j: str) -> bool:
    """True for an index along the row, column by column, or of one element for all columns."""
    terms = [t.strip() for t in index.split("+")]
    return all(t == j or not re.search(rf"\b{j}\b", t) for t in terms) and terms.count(j) <= 1


def _streams(spec: KernelSpec, body: list[Statement]) -> int:
    i, j = _axes(spec)
    whole = {
        name
        for name, index in _indices(body)
        if name != spec.operands[0].name and {i, j} <= set(re.findall(r"\w+", index))
    }
    return len(whole)
