"""What costs one multiplication is computed again where it is read later, rather than kept in memory until then.

A gradient reads what the forward pass computed: of `gelu(z)` the half of z, z / sqrt(2) and 1 + erf(...), three arrays where z and the
last would do. A value that is made of one tensor of its own shape and dtype by plain arithmetic is not kept across a matrix product:
whoever reads it on the other side makes it of that tensor, which takes no more reading than it would. (Chen et al., Training Deep Nets
with Sublinear Memory Cost, 2016, go much further; XLA's pass of this name does so where memory runs out.)
"""

from __future__ import annotations

import itertools

from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

WALLS = (Kind.EXTERN, Kind.CONTROL, Kind.EFFECT)  # nothing is fused across them
FUSED = (Kind.ELEMENTWISE, Kind.REDUCTION)


def rematerialize(graph: Graph) -> Graph:
    walls = dict(zip(graph.nodes, itertools.accumulate(n.op.kind in WALLS for n in graph.nodes), strict=True))
    cheap = _cheap(graph)
    made: dict[tuple[Value, int], Value] = {}

    def visit(r: Rewriter, n: Node) -> bool:
        far = [v for v in n.values if v in cheap and walls[cheap[v]] != walls[n]]
        if not far:
            return False
        for v in far:
            at = (v, walls[n])
            if at not in made:
                old = cheap[v]
                made[at] = r.emit(old.op, tuple([r[x] for x in old.inputs]), old.attrs, n.source)
        own = {v: made[v, walls[n]] for v in far}
        inputs = tuple([own[x] if x in own else r[x] for x in n.inputs])  # type: ignore[index]  # constants are never in it
        r.append(Node(n.op, inputs, n.attrs, n.outputs, n.source))
        return True

    return rewrite(graph, visit)


def _cheap(graph: Graph) -> dict[Value, Node]:
    """Values that are worth it, and how they are made."""
    readers, results, state = graph.readers(), set(graph.results), set(graph.variables)
    return {
        n.out: n
        for n in graph.nodes
        if n.op.kind is Kind.ELEMENTWISE and _is_plain(n) and len(set(n.values)) == 1
        and n.values[0].spec == n.out.spec and n.values[0] not in state and n.out not in results
        and all(m.op.kind in FUSED for m in readers.get(n.out, []))
    }  # fmt: skip


def _is_plain(n: Node) -> bool:
    """True for arithmetic that is written down without calling a function."""
    text = n.op.scalar
    return isinstance(text, str) and "(" not in text
