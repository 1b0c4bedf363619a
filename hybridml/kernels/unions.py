"""What becomes of two groups that merge, asked once for each pair of forms.

A graph repeats its layers, and so the search for what to fuse asks the same again and again. What may become one kernel depends on the
groups' forms, on how far apart they lie, and on which buffers they share; the answer holds wherever the same meets.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hybridml.kernels.group import Group, node_form
from hybridml.kernels.space import Space
from hybridml.kernels.views import Place
from hybridml.trace.graph import Node, Value


class Union(NamedTuple):
    """One kernel of two: `kept` and `crossing` are nodes, counted from the first one."""

    way: int
    space: Space
    reduced: frozenset[int]
    kept: tuple[int, ...]
    crossing: tuple[int, ...]
    crossed: frozenset[int]
    form: int


class Unions:
    """The answers so far. A form is a number: that of a node's text, or of what two forms became."""

    def __init__(self) -> None:
        self._forms: dict[Any, int] = {}
        self._known: dict[Any, Union | str] = {}
        self._nodes: dict[Node, tuple[int, dict[Value, int]]] = {}

    def node(self, n: Node, places: dict[Value, Place]) -> tuple[int, dict[Value, int]]:
        """The form of what a node computes, and the places of its buffers in it. Where sums are cut, all other nodes stay as they are."""
        known = self._nodes.get(n)
        if known is None:
            buffers: dict[Value, int] = {}
            text = node_form(n, buffers, places)
            known = self._nodes[n] = self.form((text, tuple([v.shape for v in buffers]))), buffers
        return known

    def form(self, text: Any) -> int:
        return self._forms.setdefault(text, len(self._forms))

    def get(self, a: Group, b: Group) -> Union | str | None:
        """What becomes of the two, or why they stay apart; None where that was not asked yet."""
        return self._known.get(_meeting(a, b))

    def put(self, a: Group, b: Group, found: tuple[int, Group] | str) -> Union | str:
        """Keep the answer for these two: a way to merge them and the merged group, or why they stay apart."""
        meeting = _meeting(a, b)
        if isinstance(found, str):
            self._known[meeting] = found
            return found
        way, g = found
        kept, crossing = [tuple([i - g.first for i in some]) for some in (g.kept, g.crossing)]
        union = Union(way, g.space, g.reduced, kept, crossing, g.crossed, self.form(meeting))
        self._known[meeting] = union
        return union

    def made(self, a: Group, b: Group, u: Union) -> Group:
        """The two as one."""
        nodes = sorted(a.nodes + b.nodes)
        first = nodes[0]
        buffers = dict(a.buffers) if len(a.nodes) == 1 else a.buffers  # nobody asks for those of `a` any more
        for v in b.buffers:
            if v not in buffers:
                buffers[v] = len(buffers)
        return Group(
            nodes, u.space, u.reduced, frozenset([first + i for i in u.kept]), frozenset([first + i for i in u.crossing]), u.crossed,
            form=u.form, buffers=buffers,
        )  # fmt: skip


def _meeting(a: Group, b: Group) -> tuple[Any, ...]:
    shared = a.buffers
    return (
        a.form,
        b.form,
        b.first - a.first,
        tuple([(k, shared[v]) for v, k in b.buffers.items() if v in shared]),
    )
