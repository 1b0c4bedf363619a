"""What is joined and then brought into another order is brought into it piece by piece, and joined there: it is moved once, not twice.

The gradients of an attention's queries, keys and values, for example, are joined to one array by heads, and read as one by positions.
"""

from __future__ import annotations

from hybridml.ops.registry import OPS
from hybridml.trace.graph import Graph, Node
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def joins(graph: Graph) -> Graph:
    concat, permute = OPS["concat"], OPS["permute_dims"]
    if all(n.op is not concat for n in graph.nodes):
        return graph
    readers, producers, results = graph.readers(), graph.producers(), set(graph.results)
    turned = {
        n.out
        for n in graph.nodes
        if n.op is concat and n.out not in results and len(readers.get(n.out, ())) == 1
        and readers[n.out][0].op is permute
    }  # fmt: skip

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op is concat and n.out in turned:
            return True  # where it is turned
        if n.op is not permute or n.inputs[0] not in turned:
            return False
        joined = producers[n.values[0]]
        axes = n.attrs["axes"]
        pieces = tuple([r.emit(permute, (r[x],), {"axes": axes}, n.source) for x in joined.inputs])
        axis = axes.index(joined.attrs["axis"] % len(axes))
        r.append(Node(concat, pieces, {"axis": axis}, n.outputs, n.source))
        return True

    return rewrite(graph, visit) if turned else graph
