"""A pass: a reduction of a reduction is one reduction again.

The pass `split` makes two of a long one, so that the CPU's threads can share the first. A GPU needs no such help: its kernels cut long
rows into parts themselves (`launch.Launch.parts`), and a row that is whole can wait in shared memory for the next pass over it.
"""

from __future__ import annotations

from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.dce import dce
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def join(graph: Graph) -> Graph:
    """The graph with both steps in one, where they are of one op and dtype. Sums of floats are then added up in another order."""
    producers = graph.producers()

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.kind is not Kind.REDUCTION or n.op.reduce is None:
            return False
        first = producers.get(n.values[0])
        if first is None or first.op is not n.op or not first.attrs["keepdims"]:
            return False
        x = first.values[0]
        if not x.dtype == first.out.dtype == n.out.dtype:
            return False
        new = r[x]
        assert isinstance(new, Value)
        axes = tuple(sorted({*first.attrs["axis"], *n.attrs["axis"]}))
        r.replace(n.out, r.emit(n.op, (new,), {**n.attrs, "axis": axes}, n.source))
        return True

    return dce(rewrite(graph, visit))
