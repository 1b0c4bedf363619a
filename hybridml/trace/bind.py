"""Putting sizes into a symbolic graph: the same nodes over whole shapes. No tracing and no passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hybridml.ops.spec import spec
from hybridml.symbolic import Dim, has_dims, substitute
from hybridml.symbolic.polynomial import Polynomial, Symbol
from hybridml.trace.graph import Graph, Node, Value


class Sizes:
    """Numbers (or sizes of another trace) for the symbols of a graph; calling it puts them into a number or a nest.

    What holds no size is shared with the symbolic graph; what does is made once, however often it is asked for.
    """

    def __init__(self, values: Mapping[Symbol, Any]) -> None:
        self.values = values
        self._numbers: dict[Polynomial, Any] = {}
        self._made: dict[Value, Value] = {}
        self._open: dict[Value, Value] = {}
        self._graphs: dict[int, tuple[Graph, Graph]] = {}  # by identity, which the first of the pair keeps

    def __call__(self, x: Any) -> Any:
        kind = type(x)
        if kind is int:
            return x
        if kind is Dim:
            found = self._numbers.get(x.polynomial)
            if found is None:
                found = self._numbers[x.polynomial] = x.evaluate(self.values)
            return found
        if kind is tuple:
            return tuple([self(y) for y in x])
        return substitute(x, self.values)

    def value(self, v: Value) -> Value:
        """The value with its sizes put in."""
        new = self._made.get(v)
        if new is None:
            new = v
            if has_dims(v.shape):
                new = Value(spec(self(v.shape), v.dtype), v.name)
                self._open[new] = v
            self._made[v] = new
        return new

    def all(self, values: Iterable[Value]) -> tuple[Value, ...]:
        return tuple([self.value(v) for v in values])

    def before(self, v: Value) -> Value:
        """The value of the symbolic graph that this one was made of."""
        return self._open.get(v, v)

    def node(self, n: Node) -> Node:
        return Node(
            n.op,
            tuple([self.value(x) if isinstance(x, Value) else self(x) for x in n.inputs]),
            {k: self.graph(a) if isinstance(a, Graph) else self(a) for k, a in n.attrs.items()},
            self.all(n.outputs),
            n.source,
        )

    def graph(self, g: Graph) -> Graph:
        made = self._graphs.get(id(g))
        if made is None:
            new = g.replace(
                inputs=self.all(g.inputs),
                nodes=tuple([self.node(n) for n in g.nodes]),
                outputs=self.all(g.outputs),
                updates=tuple([(i, self.value(v)) for i, v in g.updates]),
            )
            made = self._graphs[id(g)] = (g, new)
        return made[1]


def bound(graph: Graph, values: Mapping[Symbol, Any]) -> Graph:
    """The graph for these sizes (numbers, or sizes of another trace)."""
    return Sizes(values).graph(graph)
