"""Groups of one form are lowered once.

A group's form is all that its kernel depends on, but for which values it reads and makes: graphs repeat their layers, so hundreds of groups
have a dozen forms. A group of a known form gets the kernel of the first one, with its own values in their places.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hybridml.kernels.group import Group, node_form
from hybridml.kernels.lower import Lowered, lower
from hybridml.kernels.views import Place
from hybridml.trace.graph import Graph, Value


class Forms:
    """The kernels of a graph's groups."""

    def __init__(self, graph: Graph, places: dict[Value, Place]) -> None:
        self.graph, self.places = graph, places
        self._known: dict[Any, tuple[list[Value], Lowered]] = {}

    def lowered(self, group: Group, outputs: list[Value]) -> Lowered:
        """The kernel of one group; `outputs` are the values that others need."""
        key, values = self._form(group, outputs)
        known = self._known.get(key)
        if known is None:
            made = lower(self.graph, group, self.places, outputs)
            self._known[key] = values, made
            return made
        first, made = known
        return _renamed(made, dict(zip(first, values, strict=True)))

    def _form(self, g: Group, outputs: list[Value]) -> tuple[Any, list[Value]]:
        numbers: dict[Value, int] = {}
        nodes = [node_form(self.graph.nodes[i], numbers, self.places) for i in g.nodes]
        at = {i: k for k, i in enumerate(g.nodes)}
        values = list(numbers)
        shapes = [v.shape for v in values]
        key = (
            tuple(nodes), tuple(shapes), tuple([numbers[v] for v in outputs]), g.space, g.reduced, g.crossed, g.columns,
            frozenset([at[i] for i in g.kept]), frozenset([at[i] for i in g.crossing]),
            None if g.product is None else at[g.product],
        )  # fmt: skip
        return key, values


def _renamed(low: Lowered, new: dict[Value, Value]) -> Lowered:
    """The same kernel on other values."""
    return Lowered(
        low.spec,
        [(new[v], offset) for v, offset in low.operands],
        low.words,
        low.scalars,
        low.extent,
        low.work,
        [new[v] for v in low.temporaries],
        [(new[x], new[o]) for x, o in low.in_place],
        None,
        tuple([replace(w, value=new[w.value]) for w in low.walks]),
    )
