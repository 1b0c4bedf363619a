"""Passes: pure functions Graph -> Graph, in one ordered list.

Each is small and named, makes a new graph, and keeps its meaning: running the slow interpreter on either side gives the same
results. The tests verify the graph after each of them.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridml import collection
from hybridml.trace.graph import Graph, Node, subgraphs
from hybridml.trace.passes.control import control
from hybridml.trace.passes.cse import cse
from hybridml.trace.passes.dce import dce
from hybridml.trace.passes.expand import expand
from hybridml.trace.passes.fold import fold
from hybridml.trace.passes.halves import apart, halves
from hybridml.trace.passes.joins import joins
from hybridml.trace.passes.layout import layout
from hybridml.trace.passes.masks import masks
from hybridml.trace.passes.materialize import materialize
from hybridml.trace.passes.positions import positions
from hybridml.trace.passes.rematerialize import rematerialize
from hybridml.trace.passes.rewrite import Rewriter, rewrite
from hybridml.trace.passes.simplify import simplify
from hybridml.trace.passes.slices import slices
from hybridml.trace.passes.split import split
from hybridml.trace.passes.tiles import tiles

Pass = Callable[[Graph], Graph]


def nested(graph: Graph) -> Graph:
    """Every pass on the sub-graphs of branches and loops."""

    def visit(r: Rewriter, n: Node) -> bool:
        inner = {k: optimize(g) for k, g in subgraphs(n).items()}
        if inner:
            r.keep(Node(n.op, n.inputs, n.attrs | inner, n.outputs, n.source))
        return bool(inner)

    return rewrite(graph, visit)


PASSES: tuple[Pass, ...] = (
    dce,
    control,
    dce,
    masks,
    halves,
    expand,
    fold,
    simplify,
    positions,
    layout,
    slices,
    tiles,
    joins,
    cse,
    split,
    simplify,
    dce,
    nested,
    rematerialize,
    apart,
    dce,
    materialize,
)


def optimize(graph: Graph) -> Graph:
    """Run every pass in order."""
    with collection.held():
        for p in PASSES:
            graph = p(graph)
    return graph
