"""A fusion group: nodes of one kernel, and what a node must be to be in one.

A group has one iteration space. Its nodes live on one of two levels: *full*, one element per point of the space, or *kept*, one per
point of the axes that the group's reductions keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.kernels.space import Space
from hybridml.kernels.views import Place
from hybridml.ops.registry import Kind
from hybridml.trace.graph import Node, Value, sorted_attributes

NATIVE = frozenset("?bBhHiIlLqQfd")  # dtype characters of accumulators


@dataclass(eq=False, slots=True)
class Group:
    """Nodes of one kernel. `kept` are the nodes that live on the kept level; `reduced` are axes of `space`.

    `crossing` are reductions over `crossed`, axes of the rows: one result for each point of the other axes. `product` is a matrix product
    in whose blocks all others ride (`epilogue`), but for those of the groups that it `packs` (`prologue`: by the number of its operand).
    The last `columns` axes are a block's columns.
    """

    nodes: list[int]
    space: Space
    reduced: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()
    crossing: frozenset[int] = frozenset()
    crossed: frozenset[int] = frozenset()
    fusible: bool = True
    product: int | None = None
    packs: tuple[tuple[int, Group], ...] = ()
    columns: int = 0
    form: int = -1  # groups of one form are alike but for the buffers, which have places here
    buffers: dict[Value, int] = field(default_factory=dict, repr=False)
    before: set[Group] = field(default_factory=set, repr=False)
    after: set[Group] = field(default_factory=set, repr=False)
    walls_before: int = (
        0  # routines of their own that lead here, as bits; what merging adds is not among them
    )
    walls_after: int = 0

    @property
    def packed(self) -> bool:
        """True if its one result goes into the blocks that a matrix product packs."""
        return self.product is None and self.columns > 0

    @property
    def kept_axes(self) -> tuple[int, ...]:
        return tuple([k for k in range(len(self.space)) if k not in self.reduced])

    @property
    def first(self) -> int:
        return self.nodes[0]


def reduction_axes(n: Node) -> tuple[Space, frozenset[int]]:
    """A reduction's squeezed space and the axes of it that it reduces."""
    shape, wanted = n.values[0].shape, set(n.attrs["axis"])
    space: list[int] = []
    reduced: set[int] = set()
    for a, d in enumerate(shape):
        if d != 1:
            if a in wanted:
                reduced.add(len(space))
            space.append(d)
    return tuple(space), frozenset(reduced)


def is_native(dtype: np.dtype) -> bool:
    """True for dtypes whose elements kernels compute with."""
    return dtype.char in NATIVE or dtypes.is_half(dtype)


def can_fuse(n: Node) -> bool:
    """True for nodes that kernels are generated for."""
    if n.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION, Kind.RANDOM) or len(n.outputs) != 1:
        return False
    if n.op.scalar is None and n.op.reduce is None:
        return False
    specs = [v.spec for v in (*n.values, n.out)]
    if not all(is_native(s.dtype) and 0 not in s.shape for s in specs):
        return False
    return n.op.reduce is None or (n.out.dtype.char in NATIVE and bool(reduction_axes(n)[1]))


def node_form(n: Node, numbers: dict[Value, int], places: dict[Value, Place]) -> tuple[Any, ...]:
    """What a node computes, its operands by number. A buffer that has no number yet gets the next one."""
    operands: list[Any] = []
    for x in n.inputs:
        if isinstance(x, Value):
            base, layout = places[x]
            number = numbers.get(base)
            if number is None:
                number = numbers[base] = len(numbers)
            operands.append((number, base.dtype, layout))
        else:
            operands.append((type(x), repr(x)))  # 0.0 and -0.0 are equal, and so are 1 and True
    out = n.out
    numbers[out] = len(numbers)
    return n.op, sorted_attributes(n.attrs) if n.attrs else (), tuple(operands), out.dtype, out.shape
