"""A position compared with a number that is the same all along its axis is compared in 32 bits.

Masks such as `iota == label` sit in loops over float32, and how many elements a vector takes is decided by the widest type in the loop:
with 64-bit positions half as many, and each comparison is packed to the mask's width. The number is brought into 32 bits once, before
the loop: one that no position can be equal to stays one.
"""

from __future__ import annotations

import numpy as np

from hybridml.ops.registry import PUBLIC
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

LARGEST = 2**31 - 1


def positions(graph: Graph) -> Graph:
    iota, equal, astype, maximum, minimum = (
        PUBLIC[name].op  # type: ignore[attr-defined]  # public functions carry their row
        for name in ("iota", "equal", "astype", "maximum", "minimum")
    )
    int64, int32 = np.dtype("int64"), np.dtype("int32")

    def line(r: Rewriter, x: Operand) -> Node | None:
        n = r.producer.get(x) if isinstance(x, Value) else None
        if n is None or n.op is not iota or n.out.dtype != int64:
            return None
        return n if n.attrs["shape"][n.attrs["axis"]] <= LARGEST else None

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op is not equal:
            return False
        given = [r[x] for x in n.inputs]
        at = next((k for k, x in enumerate(given) if line(r, x) is not None), None)
        if at is None:
            return False
        position, number = line(r, given[at]), given[1 - at]
        assert position is not None
        if not isinstance(number, Value) or number.dtype != int64 or _varies(number, position):
            return False
        inside = r.emit(minimum, (r.emit(maximum, (number, -1), {}, n.source), LARGEST), {}, n.source)
        operands = [
            r.emit(iota, (), position.attrs | {"dtype": int32}, position.source),
            r.emit(astype, (inside,), {"dtype": int32}, n.source),
        ]
        r.replace(n.out, r.emit(equal, (operands[at], operands[1 - at]), {}, n.source))
        return True

    return rewrite(graph, visit)


def _varies(number: Value, position: Node) -> bool:
    """True if the number has an extent along the position's axis; axes count from the last, as in broadcasting."""
    behind = len(position.out.shape) - position.attrs["axis"]
    return len(number.shape) >= behind and number.shape[-behind] != 1
