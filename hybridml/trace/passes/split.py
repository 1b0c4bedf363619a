"""Long reductions to few results happen in two steps, so that several threads (or blocks of a GPU) can share the first.

sum of (1000, 1000) becomes sum over (40, 25, 1000) to 40 partial sums, then their sum. The cut depends on the shape alone, so
results are the same whatever the number of threads. An axis without a suitable divisor (a prime length) stays whole.
"""

from __future__ import annotations

import math

from hybridml.ops.registry import PUBLIC, Kind
from hybridml.symbolic import has_dims
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

LONG = 1 << 15  # elements that go into one result
FEW = 64  # results
BLOCKS = 32  # wanted
MOST_BLOCKS = 128


def split(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.kind is not Kind.REDUCTION or n.op.reduce is None:
            return False
        shape, axes = n.values[0].shape, n.attrs["axis"]
        length = math.prod(shape[a] for a in axes)
        if length < LONG or n.out.spec.size > FEW or n.values[0].dtype != n.out.dtype:
            return False
        cut = next(((a, b) for a in axes if not has_dims(shape[a]) and (b := _blocks(shape[a]))), None)
        if cut is None:
            return False
        axis, blocks = cut
        reshape = PUBLIC["reshape"].op  # type: ignore[attr-defined]
        x = r[n.values[0]]
        assert isinstance(x, Value)
        fine = (*shape[:axis], blocks, shape[axis] // blocks, *shape[axis + 1 :])
        first = tuple([a if a < axis else a + 1 for a in axes])
        parts = r.emit(reshape, (x,), {"shape": fine}, n.source)
        partial = r.emit(n.op, (parts,), {"axis": first, "keepdims": True}, n.source)
        whole = tuple(sorted((*first, axis)))
        total = r.emit(n.op, (partial,), {"axis": whole, "keepdims": False}, n.source)
        r.replace(n.out, r.emit(reshape, (total,), {"shape": n.out.shape}, n.source))
        return True

    return rewrite(graph, visit)


def _blocks(length: int) -> int | None:
    """The divisor of a length that is nearest to the wanted number of blocks."""
    fitting = [b for b in range(8, min(MOST_BLOCKS, length) + 1) if length % b == 0]
    return min(fitting, key=lambda b: abs(math.log(b / BLOCKS)), default=None)
