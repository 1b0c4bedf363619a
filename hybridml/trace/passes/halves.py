"""What rows do to half precision in single becomes part of the graph: operands are cast to float32, and results back.

sum of bfloat16[8, 100] becomes a cast, a sum of float32 and a cast. Kernels need no accumulators of half precision then, and fusion makes
the casts part of the kernels around them. It is what `ops.halves.in_single` does around the row's eager form, so no bit changes.
Elementwise rows stay: kernels round after each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from hybridml import dtypes
from hybridml.ops.elementwise import CAST
from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def halves(graph: Graph) -> Graph:
    """All but products and convolutions. Before composites are written out in simpler ops, which would round one by one."""
    return in_single(graph, lambda n: n.op.kind is not Kind.ELEMENTWISE and not _is_product(n))


def apart(graph: Graph) -> Graph:
    """A float32 copy of half precision is made by each operation that reads it: kernels that do not fuse had better read the few bytes."""
    state, shared = set(graph.variables), {v for v, nodes in graph.readers().items() if len(nodes) > 1}
    wide = {
        n.out: n for n in graph.nodes
        if n.op is CAST and n.out in shared and n.out.dtype == dtypes.float32
        and dtypes.is_half(n.values[0].dtype) and n.values[0] not in state
    }  # fmt: skip

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION) or wide.keys().isdisjoint(n.values):
            return False
        own = {
            v: r.emit(CAST, (r[wide[v].values[0]],), wide[v].attrs, n.source) for v in n.values if v in wide
        }
        inputs = tuple([own.get(x, r[x]) if isinstance(x, Value) else x for x in n.inputs])
        r.append(Node(n.op, inputs, n.attrs, n.outputs, n.source))
        return True

    return rewrite(graph, visit)


def widen_products(graph: Graph) -> Graph:
    """Products and convolutions, for a target whose routines know no half precision."""
    return in_single(graph, _is_product)


def _is_product(n: Node) -> bool:
    return n.op.kind is Kind.EXTERN and n.op.provider is not None


def in_single(graph: Graph, wanted: Callable[[Node], bool]) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        half = _half(n, n.op.widened) if n.op.widened and wanted(n) else None
        if half is None:
            return False
        inputs = tuple([_cast(r, r[x], half, dtypes.float32, n) for x in n.inputs])
        specs = n.op.infer(*[x.spec if isinstance(x, Value) else x for x in inputs], **n.attrs)
        outputs = tuple(map(Value, specs if isinstance(specs, tuple) else (specs,)))
        r.append(Node(n.op, inputs, n.attrs, outputs, n.source))
        for old, new in zip(n.outputs, outputs, strict=True):
            r.replace(old, _cast(r, new, dtypes.float32, half, n) if old.dtype == half else new)
        return True

    return rewrite(graph, visit)


def _half(n: Node, widened: Collection[np.dtype]) -> np.dtype | None:
    return next((v.dtype for v in n.values if v.dtype in widened), None)


def _cast(r: Rewriter, x: Operand, dtype: np.dtype, to: np.dtype, n: Node) -> Operand:
    """An operand of one dtype as another; every other one as it is."""
    if not isinstance(x, Value) or x.dtype != dtype:
        return x
    return r.emit(CAST, (x,), {"dtype": to}, n.source)
