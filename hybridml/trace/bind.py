"""Putting sizes into a symbolic graph: the same nodes over whole shapes. No tracing and no passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridml.ops.spec import spec
from hybridml.symbolic import has_dims, substitute
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.graph import Graph, Node, Operand, Value


def bound(graph: Graph, values: Mapping[Symbol, Any]) -> Graph:
    """The graph for these sizes (numbers, or sizes of another trace); what holds no size is shared with the symbolic one."""
    return _Binding(values).graph(graph)


class _Binding:
    def __init__(self, values: Mapping[Symbol, Any]) -> None:
        self._values = values
        self._new: dict[Value, Value] = {}

    def graph(self, g: Graph) -> Graph:
        return g.replace(
            inputs=tuple(map(self._value, g.inputs)),
            nodes=tuple(map(self._node, g.nodes)),
            outputs=tuple(map(self._value, g.outputs)),
            updates=tuple([(i, self._value(v)) for i, v in g.updates]),
        )

    def _value(self, v: Value) -> Value:
        new = self._new.get(v)
        if new is None:
            new = v
            if has_dims(v.shape):
                new = Value(spec(substitute(v.shape, self._values), v.dtype), v.name)
            self._new[v] = new
        return new

    def _operand(self, x: Operand) -> Operand:
        return self._value(x) if isinstance(x, Value) else substitute(x, self._values)

    def _attribute(self, a: Any) -> Any:
        return bound(a, self._values) if isinstance(a, Graph) else substitute(a, self._values)

    def _node(self, n: Node) -> Node:
        return Node(
            n.op,
            tuple(map(self._operand, n.inputs)),
            {k: self._attribute(a) for k, a in n.attrs.items()},
            tuple(map(self._value, n.outputs)),
            n.source,
        )
