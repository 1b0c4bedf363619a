"""Where a value lies: its base buffer and the layout of the views between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hybridml.errors import GraphError
from hybridml.ops.registry import Kind, Layout
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Value

Place = tuple[Value, Layout]


class Places(Mapping[Value, Place]):
    """The places of a graph's values with sizes put in, each when it is asked for: running a program needs few of them."""

    def __init__(self, open_places: Mapping[Value, Place], sizes: Sizes) -> None:
        self._open, self._sizes = open_places, sizes

    def __getitem__(self, v: Value) -> Place:
        base, at = self._open[self._sizes.before(v)]
        return self._sizes.value(base), Layout(*self._sizes((at.shape, at.strides, at.offset)))

    def __iter__(self) -> Iterator[Value]:
        return map(self._sizes.value, self._open)

    def __len__(self) -> int:
        return len(self._open)


def places(graph: Graph) -> dict[Value, Place]:
    """Base and layout of every value; a value that is no view is its own base."""
    whole: dict[tuple[int, ...], Layout] = {}  # graphs have few shapes

    def own(v: Value) -> Place:
        layout = whole.get(v.shape)
        if layout is None:
            layout = whole[v.shape] = Layout.contiguous(v.shape)
        return v, layout

    found: dict[Value, Place] = {v: own(v) for v in graph.sources}
    for n in graph.nodes:
        if n.op.kind is Kind.VIEW and n.op.view is not None:
            base, layout = found[n.values[0]]
            seen = n.op.view(layout, **n.attrs)
            if seen is None:
                raise GraphError(f"{n.op} needs a copy before it: the pass `materialize` has not run")
            found[n.out] = (base, seen)
        else:
            found.update({v: own(v) for v in n.outputs})
    return found
