"""The one way passes make a new graph from an old one: walk the nodes, map old values to new operands, emit what is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml.errors import SourceLine
from hybridml.ops.registry import Op
from hybridml.trace.graph import Graph, Node, Operand, Value


class Rewriter:
    """New nodes under construction. `self[x]` is the new operand for an old one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.constants: dict[Value, np.ndarray] = dict(graph.constants)
        self.producer: dict[Value, Node] = {}
        self._map: dict[Value, Operand] = {}

    def __getitem__(self, x: Operand) -> Operand:
        return self._map.get(x, x) if isinstance(x, Value) else x

    def replace(self, old: Value, new: Operand) -> None:
        self._map[old] = new

    def emit(
        self, op: Op, inputs: tuple[Operand, ...], attrs: dict[str, Any], source: SourceLine | None = None
    ) -> Value:
        """Append a node with one output and return that."""
        specs = [x.spec if isinstance(x, Value) else x for x in inputs]
        out = Value(op.infer(*specs, **attrs))
        self.append(Node(op, inputs, attrs, (out,), source))
        return out

    def append(self, node: Node) -> None:
        self.nodes.append(node)
        for v in node.outputs:
            self.producer[v] = node

    def keep(self, n: Node) -> Node:
        """Append an old node with its operands renewed; its outputs keep their identity."""
        if self._map and not self._map.keys().isdisjoint(n.values):
            n = Node(n.op, tuple([self[x] for x in n.inputs]), n.attrs, n.outputs, n.source)
        self.append(n)
        return n

    def constant(self, array: np.ndarray, like: Value) -> Value:
        v = Value(like.spec)
        self.constants[v] = array
        return v

    def finish(self) -> Graph:
        def value(x: Value) -> Value:
            new = self[x]
            assert isinstance(new, Value)
            return new

        g = self.graph
        return g.replace(
            constants=self.constants,
            nodes=tuple(self.nodes),
            outputs=tuple([value(v) for v in g.outputs]),
            updates=tuple([(i, value(v)) for i, v in g.updates]),
        )


def rewrite(graph: Graph, visit: Callable[[Rewriter, Node], bool]) -> Graph:
    """Apply `visit` to every node; it returns True if it has dealt with the node, else the node is kept."""
    r = Rewriter(graph)
    for n in graph.nodes:
        if not visit(r, n):
            r.keep(n)
    return r.finish()
