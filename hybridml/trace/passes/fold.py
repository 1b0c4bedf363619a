"""Compute what depends on constants alone, once, while tracing.

Only where the result is not larger than what it is made of: a broadcast zero stays a broadcast.
"""

from __future__ import annotations

import numpy as np

from hybridml.ops.registry import Kind
from hybridml.symbolic import has_dims
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.interpret import run_eager
from hybridml.trace.passes.rewrite import Rewriter, rewrite

SMALL = 4096  # bytes that may always be folded

_FOLDABLE = (Kind.ELEMENTWISE, Kind.REDUCTION, Kind.VIEW, Kind.INDEX, Kind.EXTERN)


def fold(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.kind not in _FOLDABLE or len(n.outputs) != 1 or not n.inputs:
            return False
        operands = [r[x] for x in n.inputs]
        arrays = [r.constants.get(x) if isinstance(x, Value) else x for x in operands]
        if any([a is None for a in arrays]):
            return False
        if has_dims(n.out.shape) or has_dims(n.attrs) or has_dims(operands):
            return False  # it takes a size to compute it
        given = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
        if n.out.spec.nbytes > (given if n.op.kind is Kind.VIEW else max(given, SMALL)):
            return False
        with np.errstate(all="ignore"):
            result = run_eager(n.op, arrays, n.attrs)
        r.replace(n.out, r.constant(np.ascontiguousarray(result).reshape(result.shape), n.out))
        return True

    return rewrite(graph, visit)
