"""The static graph: a list of nodes in single-assignment form.

A graph is a *pure function*. Variables are extra inputs, and what a function assigned is a list of extra outputs (`updates`), so no
pass ever has to think about order: a read after an assignment is simply the assigned value. Values and nodes are compared by
identity; a pass makes a new graph and never changes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hybridml.errors import GraphError, SourceLine
from hybridml.ops.registry import Kind, Op
from hybridml.ops.spec import Scalar, TensorSpec


class Value:
    """One tensor of a graph: known by identity, described by its spec."""

    __slots__ = ("__weakref__", "name", "spec")

    def __init__(self, spec: TensorSpec, name: str | None = None) -> None:
        self.spec = spec
        self.name = name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype:
        return self.spec.dtype

    def __repr__(self) -> str:
        return f"<value {self.name or ''}{self.spec}>"


Operand = Value | Scalar


@dataclass(frozen=True, eq=False)
class Node:
    """One operation: operands are values or weak Python scalars."""

    op: Op
    inputs: tuple[Operand, ...]
    attrs: dict[str, Any]
    outputs: tuple[Value, ...]
    source: SourceLine | None = None

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """The operands that are values."""
        return tuple([x for x in self.inputs if isinstance(x, Value)])

    @property
    def out(self) -> Value:
        return self.outputs[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """inputs, variables and constants go in; outputs and updates come out.

    `updates` are pairs (index into `variables`, new value).
    """

    name: str
    inputs: tuple[Value, ...]
    variables: tuple[Value, ...]
    constants: dict[Value, np.ndarray]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    updates: tuple[tuple[int, Value], ...] = ()
    _numbers: dict[Value, int] = field(default_factory=dict, repr=False)

    @property
    def results(self) -> tuple[Value, ...]:
        """Everything that must be computed: outputs, then new values of variables."""
        return self.outputs + tuple([v for _, v in self.updates])

    @property
    def sources(self) -> tuple[Value, ...]:
        """Everything that is there before the first node."""
        return self.inputs + self.variables + tuple(self.constants)

    def replace(self, **changes: Any) -> Graph:
        fields = {
            "name": self.name, "inputs": self.inputs, "variables": self.variables, "constants": self.constants,
            "nodes": self.nodes, "outputs": self.outputs, "updates": self.updates,
        }  # fmt: skip
        return Graph(**(fields | changes))

    def readers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value."""
        found: dict[Value, list[Node]] = {}
        for n in self.nodes:
            for v in n.values:
                found.setdefault(v, []).append(n)
        return found

    def producers(self) -> dict[Value, Node]:
        return {v: n for n in self.nodes for v in n.outputs}

    def numbers(self) -> dict[Value, int]:
        """A stable number for every value: sources first, then nodes' outputs in order."""
        if not self._numbers:
            for v in self.sources:
                self._numbers.setdefault(v, len(self._numbers))
            for n in self.nodes:
                for v in n.outputs:
                    self._numbers.setdefault(v, len(self._numbers))
        return self._numbers

    def label(self, x: Operand) -> str:
        if not isinstance(x, Value):
            return repr(x)
        return f"%{x.name}" if x.name else f"%{self.numbers().get(x, '?')}"

    def key(self) -> str:
        """sha256 of the structure: equal keys compute the same function (constants enter by value)."""
        numbers = self.numbers()
        h = hashlib.sha256()

        def feed(*parts: Any) -> None:
            h.update(repr(parts).encode())

        for v in self.inputs + self.variables:
            feed("in", v.spec)
        for v, a in self.constants.items():
            feed("constant", v.spec)
            h.update(np.ascontiguousarray(a).tobytes())
        for n in self.nodes:
            operands = [numbers[x] if isinstance(x, Value) else (type(x).__name__, x) for x in n.inputs]
            feed(n.op.name, operands, sorted_attributes(n.attrs), [v.spec for v in n.outputs])
        feed("out", [numbers[v] for v in self.outputs], [(i, numbers[v]) for i, v in self.updates])
        return h.hexdigest()

    def lines(self) -> Iterator[tuple[Node | None, str]]:
        """The printed graph, line by line, each with the node it shows."""
        args = ", ".join(f"{self.label(v)}: {v.spec}" for v in self.inputs)
        yield None, f"graph {self.name}({args}):"
        for v in self.variables:
            yield None, f"    {self.label(v)}: {v.spec} = variable"
        for v in self.constants:
            yield None, f"    {self.label(v)}: {v.spec} = constant"
        for n in self.nodes:
            operands = [self.label(x) for x in n.inputs] + [
                f"{k}={_attr_text(a)}" for k, a in n.attrs.items()
            ]
            left = ", ".join(f"{self.label(v)}: {v.spec}" for v in n.outputs)
            where = f"  # {n.source.file.rsplit('/', 1)[-1]}:{n.source.line}" if n.source else ""
            yield n, f"    {left} = {n.op.name}({', '.join(operands)}){where}"
            for inner in subgraphs(n).values():
                for _, text in inner.lines():
                    yield None, f"        {text}"
        for i, v in self.updates:
            yield None, f"    {self.label(self.variables[i])} <- {self.label(v)}"
        yield None, f"    return {', '.join(map(self.label, self.outputs))}"

    def __str__(self) -> str:
        return "\n".join(text for _, text in self.lines())


def sorted_attributes(attrs: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Attributes as a hashable key: by name, sub-graphs by structure, all else by its text."""
    return tuple(sorted((k, a.key() if isinstance(a, Graph) else repr(a)) for k, a in attrs.items()))


def subgraphs(node: Node) -> dict[str, Graph]:
    """The branches or bodies that a node holds, by attribute."""
    return {k: a for k, a in node.attrs.items() if isinstance(a, Graph)}


def has_effects(node: Node) -> bool:
    """True for what must run although nobody reads its results: an effect, or control flow with one inside."""
    if node.op.kind is Kind.EFFECT or not node.attrs:
        return node.op.kind is Kind.EFFECT
    return any(has_effects(m) for g in subgraphs(node).values() for m in g.nodes)


def runs_python(node: Node) -> bool:
    """True for an effect that is Python by nature."""
    return node.op.kind is Kind.EFFECT and node.op.provider is None


def without_silent_effects(graph: Graph) -> Graph:
    """The graph to be computed a second time: what it did for a side effect alone is done."""

    def kept(n: Node) -> bool:
        return bool(n.outputs) or n.op.kind is not Kind.EFFECT

    def renewed(n: Node) -> Node:
        inner = {k: without_silent_effects(g) for k, g in subgraphs(n).items()}
        return Node(n.op, n.inputs, n.attrs | inner, n.outputs, n.source) if inner else n

    return graph.replace(nodes=tuple([renewed(n) for n in graph.nodes if kept(n)]))


def _attr_text(a: Any) -> str:
    return f"<{a.name}>" if isinstance(a, Graph) else a.name if isinstance(a, np.dtype) else repr(a)


def verify(graph: Graph) -> Graph:
    """Check a graph's own rules; GraphError shows the lines around the fault. Returns the graph.

    Every value has one producer and is produced before it is read; every node's outputs are what the op's shape rule says.
    Sub-graphs obey the same rules, and read nothing but their own inputs and constants.
    """
    known = set(graph.sources)
    if len(known) != len(graph.sources):
        raise GraphError(f"graph {graph.name}: a source appears twice")
    for v, a in graph.constants.items():
        if a.shape != v.shape or a.dtype != v.dtype:
            raise GraphError(f"constant {graph.label(v)} is {v.spec} but holds {a.dtype}{list(a.shape)}")
    for n in graph.nodes:
        for inner in subgraphs(n).values():
            verify(inner)
        for x in n.values:
            if x not in known:
                raise GraphError(_around(graph, n, f"{graph.label(x)} is read before it is produced"))
        specs = [x.spec if isinstance(x, Value) else x for x in n.inputs]
        said = n.op.infer(*specs, **n.attrs)
        said = said if isinstance(said, tuple) else (said,)
        if list(said) != [v.spec for v in n.outputs]:
            raise GraphError(
                _around(
                    graph, n, f"outputs are {[v.spec for v in n.outputs]}, the shape rule says {list(said)}"
                )
            )
        for v in n.outputs:
            if v in known:
                raise GraphError(_around(graph, n, f"{graph.label(v)} is produced twice"))
            known.add(v)
    for v in graph.results:
        if v not in known:
            raise GraphError(f"graph {graph.name}: a result is never produced\n{graph}")
    for i, v in graph.updates:
        if v.spec != graph.variables[i].spec:
            raise GraphError(
                f"{graph.label(graph.variables[i])} is {graph.variables[i].spec} and is assigned {v.spec}"
            )
    return graph


def _around(graph: Graph, node: Node, fault: str, reach: int = 8) -> str:
    shown = list(graph.lines())
    at = next(i for i, (n, _) in enumerate(shown) if n is node)
    lines = [
        ("  > " if i == at else "    ") + text for i, (_, text) in enumerate(shown) if abs(i - at) <= reach
    ]
    return f"graph {graph.name}: {fault}\n" + "\n".join(lines)
