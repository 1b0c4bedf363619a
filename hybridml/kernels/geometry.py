"""A fusion group's iteration: which loops there are, who is computed in which pass, and how every operand is walked."""

from __future__ import annotations

from math import prod

from hybridml.kernels.group import Group
from hybridml.kernels.space import canonical, collapse, stretch, strides_over
from hybridml.kernels.spec import Mode
from hybridml.kernels.views import Place
from hybridml.ops.registry import Kind, Layout
from hybridml.trace.graph import Graph, Node, Value

Strides = tuple[int, ...]


def scalar_text(n: Node) -> str:
    """The row's kernel text for this node; empty for a reduction."""
    text = n.op.scalar
    if callable(text):
        text = text(tuple([x.dtype for x in n.values]), n.out.dtype, **n.attrs)
    return text or ""


class Geometry:
    """Axes are numbered innermost last.

    mode     how the space is walked
    sizes    of the axes, after all that every operand walks as one have been merged
    outer    axes that the kernel's extent runs over
    crossed  axes of its loops over rows, if something is added up across them
    inner    axes of its loops, outermost first
    stage    of a node: the pass over the row in which it is computed; of a kept node: the passes that come before it
    """

    def __init__(self, graph: Graph, group: Group, places: dict[Value, Place], outputs: list[Value]) -> None:
        self.nodes, self.group, self.places, self.outputs = graph.nodes, group, places, outputs
        self.members = [i for i in group.nodes if i != group.product]
        self._member_of = {self.nodes[i].out: i for i in self.members}
        self.stage: dict[int, int] = {}
        for i in self.members:
            waits = [
                self.stage[j] + self.reduces(j)
                for v in self.nodes[i].values
                if (j := self.member(v)) is not None
            ]
            self.stage[i] = max(waits, default=0)
        self._collapse()

    @property
    def product(self) -> Value | None:
        """The matrix product in whose blocks the group rides."""
        return None if self.group.product is None else self.nodes[self.group.product].out

    @property
    def packed(self) -> Value | None:
        """The one result, where it goes into the blocks that a matrix product packs."""
        return self.outputs[0] if self.group.packed else None

    @property
    def last_stage(self) -> int:
        return max(self.stage.values()) + 1

    def member(self, v: Value) -> int | None:
        """The node of this group that makes the value, or what it is a view of."""
        return self._member_of.get(self.places[v][0])

    def reduces(self, i: int) -> bool:
        return self.nodes[i].op.reduce is not None and not self.crosses(i)

    def crosses(self, i: int) -> bool:
        """True for a reduction across the rows: its result has one element for each element of a row."""
        return i in self.group.crossing

    def is_kept(self, i: int) -> bool:
        """True if the node's *result* has one element a row."""
        return i in self.group.kept or self.reduces(i)

    def is_output(self, i: int) -> bool:
        return self.nodes[i].out in self.outputs

    def uses_index(self, i: int) -> bool:
        return "{index}" in scalar_text(self.nodes[i])

    # strides

    def _over_space(self, layout: Layout, i: int) -> Strides:
        """Strides over the group's space for node i, 0 along reduced axes if it lives on the kept level."""
        g = self.group
        if i not in g.kept:
            return strides_over(layout, g.space)
        found = [0] * len(g.space)
        kept = tuple([g.space[k] for k in g.kept_axes])
        for k, s in zip(g.kept_axes, strides_over(layout, kept), strict=True):
            found[k] = s
        return tuple(found)

    def _raw(self, i: int, v: Value) -> Strides:
        n, layout = self.nodes[i], self.places[v][1]
        if n.op.kind is Kind.RANDOM:
            return (0,) * len(self.group.space)  # its state is read whole
        return self._over_space(stretch(layout, n.out.shape if n.op.reduce is None else v.shape), i)

    def _raw_index(self, i: int) -> Strides:
        n = self.nodes[i]
        axis = n.attrs.get("axis")
        if axis is None:
            return self._over_space(Layout.contiguous(n.out.shape), i)
        along = tuple([int(a == axis) for a in range(len(n.out.shape))])
        return self._over_space(Layout(n.out.shape, along), i)

    def _merged(self, strides: Strides) -> Strides:
        return tuple([0 if self.sizes[k] == 1 else strides[run[-1]] for k, run in enumerate(self._runs)])

    def strides(self, i: int, v: Value) -> Strides:
        """How node i walks a value from outside, over the merged axes."""
        return self._merged(self._raw(i, v))

    def index_strides(self, i: int) -> Strides:
        """The affine index that {index} stands for: along attrs["axis"], or linear where there is no axis."""
        return self._merged(self._raw_index(i))

    def own_strides(self, i: int) -> Strides:
        """How the result of node i is laid out: row-major over its level."""
        return self._merged(canonical(self.group.space, self._level(i)))

    def _level(self, i: int) -> tuple[int, ...] | None:
        """The axes of the group's space that the result of node i has; None for all of them."""
        g = self.group
        if self.crosses(i):
            return tuple([k for k in range(len(g.space)) if k not in g.crossed])
        return g.kept_axes if self.is_kept(i) else None

    # axes

    def _collapse(self) -> None:
        g = self.group
        walked = [
            self._raw(i, v) for i in self.members for v in self.nodes[i].values if self.member(v) is None
        ]
        walked += [self._raw_index(i) for i in self.members if self.uses_index(i)]
        if g.reduced:
            walked.append(canonical(g.space, g.kept_axes))
        walked += [canonical(g.space, self._level(i)) for i in g.crossing]
        if not g.reduced or any(self._level(i) is None and self.is_output(i) for i in self.members):
            walked.append(canonical(g.space))
        columns = len(g.space) - g.columns
        classes = tuple([
            4 * (k >= columns) + 2 * (k in g.crossed) + (k in g.reduced) for k in range(len(g.space))
        ])  # fmt: skip
        self._runs = collapse(g.space, classes, walked)
        self.sizes = [prod(g.space[k] for k in run) for run in self._runs]
        reduced = [run[0] in g.reduced for run in self._runs]
        self.crossed = [k for k, run in enumerate(self._runs) if run[0] in g.crossed]
        every, last = list(range(len(self._runs))), len(self._runs) - 1
        if not g.reduced:
            self.mode = Mode.MAP
            self.outer, self.inner = (every[:-1], [last]) if last > 0 else (every, [])
        elif reduced[last]:
            self.mode = Mode.ROW
            self.outer = [k for k in every if not reduced[k] and k not in self.crossed]
            self.inner = [k for k in every if reduced[k]]
        else:
            self.mode = Mode.COLUMN
            self.outer = [k for k in every if not reduced[k] and k != last]
            self.inner = [k for k in every if reduced[k]] + [last]

    @property
    def extent(self) -> int:
        """What [begin, end) of the kernel counts: rows, or columns where there are no rows."""
        if self.mode is Mode.COLUMN and not self.outer:
            return self.sizes[-1]
        return prod(self.sizes[k] for k in self.outer)
