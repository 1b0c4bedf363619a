"""Who computes and who reads the values of a graph, through views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hybridml.kernels.space import stretch
from hybridml.kernels.views import places
from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Node, Value

REACH = 32  # nodes that are looked through for a pattern


class Uses:
    """One graph. Values are known by their base: a view of a value, whole and in order, is that value."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.places = places(graph)
        self._producer = graph.producers()
        self._results = {self.places[v][0] for v in graph.results}
        self._readers: dict[Value, list[Node]] = {}
        for n in graph.nodes:
            if n.op.kind is not Kind.VIEW or n.op.view is None:
                for v in dict.fromkeys(self.places[v][0] for v in n.values):
                    self._readers.setdefault(v, []).append(n)

    def _is_whole(self, v: Value) -> bool:
        base, layout = self.places[v]
        return layout.is_contiguous and not layout.offset and v.spec.size == base.spec.size

    def _is(self, x: Value, v: Value, columns: int) -> bool:
        """True if x is v, element for element, in rows of that many columns."""
        return self.places[x][0] is self.places[v][0] and self._is_whole(x) and x.shape[-1:] == (columns,)

    def _only_reader(self, v: Value) -> Node | None:
        readers = self._readers.get(v, [])
        return readers[0] if len(readers) == 1 and v not in self._results else None

    def _vector(self, x: Any, like: Value, columns: int) -> Value | None:
        """What has the elements of x as a vector, if x is the same for every row."""
        if not isinstance(x, Value) or x.dtype != like.dtype:
            return None
        base, layout = self.places[x]
        strides = stretch(layout, like.shape).strides
        rows = [s for s, d in zip(strides[:-1], like.shape[:-1], strict=True) if d != 1]
        if any(rows) or (strides[-1] != 1 and columns != 1):
            return None
        if len(x.shape) == 1 and layout.is_contiguous:
            return x
        return base if base.spec.size == columns and not layout.offset else None

    def _after(self, v: Value) -> Iterator[Node]:
        """Elementwise nodes that are computed from v, nearest first."""
        seen: dict[Node, None] = {}
        todo = [v]
        while todo and len(seen) < REACH:
            for n in self._readers.get(todo.pop(0), []):
                if n.op.kind is Kind.ELEMENTWISE and n not in seen:
                    seen[n] = None
                    todo.append(n.out)
        return iter(seen)

    def _row_sums(self, v: Value, columns: int) -> list[Node]:
        return [
            r for r in self._readers.get(v, [])
            if r.op.name == "sum" and self._is(r.values[0], v, columns) and r.out.shape == (columns,)
            and r.attrs["axis"] == tuple(range(len(r.values[0].shape) - 1)) and r.out.dtype == v.dtype
        ]  # fmt: skip

    def _needs(self, n: Node, other: Node) -> bool:
        """True if a node is computed from what another gives."""
        seen: set[Value] = set()
        todo = list(n.values)
        while todo:
            v = todo.pop()
            if v in seen or v not in self._producer:
                continue
            seen.add(v)
            if self._producer[v] is other:
                return True
            todo += self._producer[v].values
        return False
