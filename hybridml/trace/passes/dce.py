"""Drop nodes whose results nobody reads, and constants likewise. Effects stay."""

from __future__ import annotations

from hybridml.trace.graph import Graph, Node, Value, has_effects


def dce(graph: Graph) -> Graph:
    live: set[Value] = set(graph.results)
    kept: list[Node] = []
    for n in reversed(graph.nodes):
        if has_effects(n) or any(v in live for v in n.outputs):
            live.update(n.values)
            kept.append(n)
    constants = {v: a for v, a in graph.constants.items() if v in live}
    return graph.replace(nodes=tuple(reversed(kept)), constants=constants)
