"""What ReLU's condition masks after it was scattered to the maxima of windows is masked before: at a window's size, not the image's.

The gradient of max_pool(relu(u)) is where(u <= 0, 0, scatter(g)). An element that g is scattered to is its window's maximum P, and
there u <= 0 says the same as P <= 0 (NaN included), so scatter(where(P <= 0, 0, g)) is the same, bit for bit. Nothing then reads u
in the backward pass, and what computes it can fuse with the pooling.
"""

from __future__ import annotations

from hybridml.ops.registry import NAMESPACES, PUBLIC
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def masks(graph: Graph) -> Graph:
    where, less_equal = PUBLIC["where"].op, PUBLIC["less_equal"].op  # type: ignore[attr-defined]  # public functions carry their row
    scatter, pool = [NAMESPACES["nn"][f].op for f in ("window_scatter", "max_pool2d_with_positions")]  # type: ignore[attr-defined]  # public functions carry their row

    def made_by(r: Rewriter, x: Operand, op: object) -> Node | None:
        n = r.producer.get(x) if isinstance(x, Value) else None
        return n if n is not None and n.op is op else None

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op is not where:
            return False
        condition, zero, scattered = [r[x] for x in n.inputs]
        test, back = made_by(r, condition, less_equal), made_by(r, scattered, scatter)
        if test is None or back is None or not _is_zero(zero) or not _is_zero(test.inputs[1]):
            return False
        pooling = made_by(r, back.inputs[1], pool)
        if pooling is None or back.attrs != {**pooling.attrs, "size": back.attrs["size"]}:
            return False
        activation = made_by(r, pooling.inputs[0], where)
        if activation is None or not _is_zero(activation.inputs[1]):
            return False
        if activation.inputs[0] is not condition or activation.inputs[2] is not test.inputs[0]:
            return False
        low = r.emit(less_equal, (pooling.outputs[0], 0), {}, n.source)
        g = r.emit(where, (low, 0, back.inputs[0]), {}, n.source)
        r.replace(n.out, r.emit(scatter, (g, back.inputs[1]), back.attrs, n.source))
        return True

    return rewrite(graph, visit)


def _is_zero(x: Operand) -> bool:
    return not isinstance(x, Value) and x == 0
