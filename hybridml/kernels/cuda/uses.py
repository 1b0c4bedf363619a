"""Who computes and who reads the values of a graph, through views; and what is known of where their buffers begin."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hybridml.kernels.cuda.lt import ALIGNED
from hybridml.kernels.space import stretch
from hybridml.kernels.views import Place, places
from hybridml.ops.elementwise import CAST
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
        self._beside: dict[Node, list[Value]] = {}  # what nodes wait for that are no longer on their own
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

    def _vector(self, x: Any, like: Value, rows: int, columns: int) -> tuple[Value, bool] | None:
        """What has the elements of x as a vector, if x is the same for every row of a product's, and False; or as a vector for each product
        of a batch, and True. A product has that many rows."""
        if not isinstance(x, Value) or x.dtype != like.dtype:
            return None
        base, layout = self.places[x]
        *leading, last = stretch(layout, like.shape).strides
        if last != 1 and columns != 1:
            return None
        axes = [(d, s) for d, s in zip(like.shape[:-1], leading, strict=True) if d != 1]
        each = any(s for _, s in axes)
        size, step = 1, columns
        for d, s in reversed(axes if each else ()):
            if s != (0 if size < rows else step):
                return None
            step *= d if size >= rows else 1
            size *= d if size < rows else 1
        if size not in (1, rows):
            return None
        count = step if each else columns
        whole = x if layout.is_contiguous and x.spec.size == count else base
        return (whole, each) if whole.spec.size == count and (whole is x or not layout.offset) else None

    def _matrix(self, x: Any, like: Value) -> Value | None:
        """x, if it has the elements of a value's shape, one after the other."""
        if not isinstance(x, Value) or x.dtype != like.dtype or x.spec.size != like.spec.size:
            return None
        return x if self.places[x][1].is_contiguous else None

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

    def _row_sums(self, v: Value, batch: int, columns: int) -> list[Node]:
        """What gives the sums over rows, of all rows or of those of each product of a batch. Sums of 16-bit elements may be written as a
        sum of float32 between casts."""
        found = self._sums(v, batch, columns)
        for wide in self._readers.get(v, []):
            if (
                self._is_cast(wide, np.dtype(np.float32))
                and v.dtype.itemsize < 4
                and self._is_whole(wide.values[0])
            ):
                for s in self._sums(wide.out, batch, columns):
                    narrow = self._only_reader(s.out)
                    if (
                        narrow is not None
                        and self._is_cast(narrow, v.dtype)
                        and narrow.out.shape == s.out.shape
                    ):
                        found.append(narrow)
        return found

    def _is_cast(self, n: Node, dtype: np.dtype) -> bool:
        return n.op is CAST and n.out.dtype == dtype

    def _sums(self, v: Value, batch: int, columns: int) -> list[Node]:
        shape = (columns,) if batch == 1 else (batch, columns)
        return [
            r for r in self._readers.get(v, [])
            if r.op.name == "sum" and self._is(r.values[0], v, columns) and r.out.shape == shape and r.out.dtype == v.dtype
            and r.attrs["axis"] == tuple(range(0 if batch == 1 else 1, len(r.values[0].shape) - 1))
        ]  # fmt: skip

    def _needs(self, values: Sequence[Value], other: Node) -> bool:
        """True if one of the values is computed from what a node gives, `beside` which others may be waited for by now."""
        seen: set[Value] = set()
        todo = list(values)
        while todo:
            v = todo.pop()
            if v in seen or v not in self._producer:
                continue
            seen.add(v)
            n = self._producer[v]
            if n is other:
                return True
            todo += [*n.values, *self._beside.get(n, ())]
        return False


class Alignment:
    """Bytes that a value's buffer begins at a multiple of, as far as that is known and matters to a library.

    Buffers of a graph's own are aligned. What comes into it and goes out of it is so as far as `outside` says; the `rows` of a scan
    follow each other without gaps.
    """

    def __init__(self, graph: Graph, outside: int = ALIGNED, rows: bool = False) -> None:
        self._graph, self._outside, self._rows = graph, outside, rows

    @functools.cached_property
    def _places(self) -> dict[Value, Place]:
        return places(self._graph)

    @functools.cached_property
    def _external(self) -> set[Value]:
        g = self._graph
        return {self._places[v][0] for v in (*g.inputs, *g.variables, *g.results)}

    def __call__(self, v: Value) -> int:
        base, at = self._places[v]
        found = ALIGNED
        if base in self._external:
            found = min(self._outside, _power_of_two(base.spec.nbytes) if self._rows else ALIGNED)
        return min(found, _power_of_two(at.offset * v.dtype.itemsize))

    def inside(self, n: Node) -> tuple[int, bool]:
        """`outside` and `rows` for the sub-graphs of a node."""
        return min([ALIGNED, *map(self, (*n.values, *n.outputs))]), n.op.provider == "scan"


def _power_of_two(number: int) -> int:
    """The largest one that divides it, up to what matters."""
    return min(number & -number, ALIGNED) if number else ALIGNED
