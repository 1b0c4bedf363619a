"""Stores that go past the caches, for kernels that would push out of them what they read.

An ordinary store first reads the cache line that it is about to overwrite, and what it writes takes the place of something else. Where
what a kernel reads fits into the last-level cache, but not together with what it writes, non-temporal stores leave it there: for the
next one who reads it, which in a training step is the backward pass. They want whole aligned vectors, which the compiler's
vectorised loops do not promise. So the loop that stores runs in pieces: what it makes for the output goes to a near buffer, and from
there past the caches.

Only rows that are walked several times are stored so: the passes before leave the memory bus idle, and the last one asks for the row
after the next meanwhile, so that a whole row's work lies between asking and reading. It asks in pieces, too: the bus is never given more
at once than the processor can go on computing beside. A loop that goes on and on would wait for the bus at every piece. And only rows
that begin at cache lines: a line that is stored in part is the slowest of all. And no pass that sums up what it stores: pieces would
round otherwise, and a result should not depend on how it is stored.

The last pass of a normalisation, for example, becomes

            for jp in range(0, n_j, PIECE):
                ahead(x0, (i + 2) * x0_i + jp, min(PIECE, n_j - jp))
                for j in range(jp, jp + min(PIECE, n_j - jp)):
                    ...
                    w0[j - jp] = v6
                stream(o0, i * o0_i + jp, w0, min(PIECE, n_j - jp))

`worthwhile` says which outputs these are, `streamed` rewrites a kernel's loops.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace

from hybridml.buffers import LINE
from hybridml.kernels.host import last_level_cache
from hybridml.kernels.lower import Lowered
from hybridml.kernels.spec import Ahead, KernelSpec, Load, Loop, Mode, Operand, Statement, Store, Stream
from hybridml.symbolic import hint
from hybridml.trace.graph import Value

LEAST = 1 << 20  # bytes of an output: smaller ones fit beside whatever else goes by
ROWS_AHEAD = 2


def worthwhile(low: Lowered, kept: Collection[Value]) -> tuple[str, ...]:
    """The names of the outputs whose stores had better go past the caches.

    `kept` are inputs whose memory no output can take over: where one may, the line is in the cache anyway.
    """
    if low.spec.mode is not Mode.ROW or not low.spec.parallel:
        return ()
    read = {v: hint(v.spec.nbytes) for o, (v, _) in _operands(low) if not o.written}
    written = {v: hint(v.spec.nbytes) for o, (v, _) in _operands(low) if o.written}
    there, cache = sum(read.values()), last_level_cache()
    if not there <= cache < there + sum(written.values()):
        return ()
    taken = {o for x, o in low.in_place if x not in kept}
    names = _streamable(low.spec)
    return tuple([
        o.name for o, (v, offset) in _operands(low)
        if o.name in names and v not in taken and written[v] >= LEAST and hint(offset) % LINE == 0 and _row_bytes(v) % LINE == 0
    ])  # fmt: skip


def _row_bytes(v: Value) -> int:
    return int(hint(v.shape[-1])) * v.dtype.itemsize


def streamed(spec: KernelSpec, names: tuple[str, ...]) -> KernelSpec:
    """The same kernel with the stores of these outputs in pieces, past the caches."""
    written = [o for o in spec.operands if o.name in names]
    near = {o.name: Operand(f"w{k}", o.dtype, written=True) for k, o in enumerate(written)}
    body = _with_rows_ahead([_in_pieces(s, near) for s in spec.body], spec.parallel[-1].name)
    return replace(spec, body=body, near=tuple(near.values()))


def _operands(low: Lowered) -> Iterator[tuple[Operand, tuple[Value, int]]]:
    return zip(low.spec.operands, low.operands, strict=True)


def _streamable(spec: KernelSpec) -> set[str]:
    """The outputs that are stored once, in order, by the last of a row's passes, where it is no reduction, and not read back."""
    stores = [
        s
        for body in _passes(spec.body)
        if not body[-1].reduces
        for s in body[-1].body
        if isinstance(s, Store) and _in_order(s, body[-1])
    ]
    times = Counter(s.operand.name for s in _statements(spec.body) if isinstance(s, Store))
    read = {s.operand.name for s in _statements(spec.body) if isinstance(s, Load)}
    return {s.operand.name for s in stores if times[s.operand.name] == 1} - read


def _passes(body: list[Statement]) -> Iterator[list[Loop]]:
    """The innermost loops of each place that has several of them and no others."""
    loops = [s for s in body if isinstance(s, Loop)]
    if any(_nested(s) for s in loops):
        for s in loops:
            yield from _passes(s.body)
    elif len(loops) > 1:
        yield loops


def _nested(s: Statement) -> bool:
    return isinstance(s, Loop) and any(isinstance(t, Loop) for t in s.body)


def _statements(body: list[Statement]) -> Iterator[Statement]:
    for s in body:
        yield s
        if isinstance(s, Loop):
            yield from _statements(s.body)


def _in_order(access: Load | Store, loop: Loop) -> bool:
    """True if the index is the loop's variable, or ends with it."""
    *others, last = access.index.split(" + ")
    return last == loop.axis.name and not any(_mentions(t, last) for t in others)


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def _in_pieces(s: Statement, near: dict[str, Operand]) -> Statement:
    if not isinstance(s, Loop):
        return s
    j, streams = s.axis.name, []
    body: list[Statement] = []
    for t in s.body:
        if isinstance(t, Store) and t.operand.name in near:
            buffer = near[t.operand.name]
            streams.append(Stream(t.operand, _at_piece(t.index, j, j), buffer))
            t = Store(buffer, f"{j} - {j}p", t.value)
        body.append(_in_pieces(t, near))
    return replace(s, body=body, streams=tuple(streams))


def _at_piece(index: str, j: str, other: str) -> str:
    """Where a piece begins of a loop over `other`, for an index that a loop over `j` has."""
    return f"{index.removesuffix(j)}{other}p"


def _with_rows_ahead(body: list[Statement], row: str) -> list[Statement]:
    """The last pass over a row asks for what the first one reads of a row to come."""
    if any(_nested(s) for s in body):
        return [
            replace(s, body=_with_rows_ahead(s.body, s.axis.name)) if isinstance(s, Loop) and _nested(s) else s for s in body
        ]  # fmt: skip
    passes = [k for k, s in enumerate(body) if isinstance(s, Loop)]
    if len(passes) < 2:
        return body
    first, last = body[passes[0]], body[passes[-1]]
    assert isinstance(first, Loop) and isinstance(last, Loop)
    if not last.streams or first.axis.size != last.axis.size:
        return body
    ahead = tuple([
        Ahead(s.operand, re.sub(rf"\b{row}\b", f"({row} + {ROWS_AHEAD})", _at_piece(s.index, first.axis.name, last.axis.name)))
        for s in first.body
        if isinstance(s, Load) and _in_order(s, first) and _mentions(s.index, row)
    ])  # fmt: skip
    return [replace(s, ahead=ahead) if s is last and isinstance(s, Loop) else s for s in body]
