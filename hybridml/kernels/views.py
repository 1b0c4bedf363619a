"""Where a value lies: its base buffer and the layout of the views between."""

from __future__ import annotations

from hybridml.errors import GraphError
from hybridml.ops.registry import Kind, Layout
from hybridml.trace.graph import Graph, Value

Place = tuple[Value, Layout]


def places(graph: Graph) -> dict[Value, Place]:
    """Base and layout of every value; a value that is no view is its own base."""
    found: dict[Value, Place] = {v: (v, Layout.contiguous(v.shape)) for v in graph.sources}
    for n in graph.nodes:
        if n.op.kind is Kind.VIEW and n.op.view is not None:
            base, layout = found[n.values[0]]
            seen = n.op.view(layout, **n.attrs)
            if seen is None:
                raise GraphError(f"{n.op} needs a copy before it: the pass `materialize` has not run")
            found[n.out] = (base, seen)
        else:
            found.update({v: (v, Layout.contiguous(v.shape)) for v in n.outputs})
    return found
