"""Passes: pure functions Graph -> Graph, in one ordered list.

Each is small and named, makes a new graph, and keeps its meaning: running the slow interpreter on either side gives the same
results. The tests verify the graph after each of them.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridml.trace.graph import Graph
from hybridml.trace.passes.cse import cse
from hybridml.trace.passes.dce import dce
from hybridml.trace.passes.expand import expand
from hybridml.trace.passes.fold import fold
from hybridml.trace.passes.layout import layout
from hybridml.trace.passes.materialize import materialize
from hybridml.trace.passes.simplify import simplify
from hybridml.trace.passes.split import split

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (dce, expand, fold, simplify, layout, cse, split, simplify, dce, materialize)


def optimize(graph: Graph) -> Graph:
    """Run every pass in order."""
    for p in PASSES:
        graph = p(graph)
    return graph
