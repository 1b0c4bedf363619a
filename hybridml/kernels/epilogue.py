"""Epilogues: what happens to a matrix product's result element by element, done on each piece of it as soon as that is summed up.

Bias, activation, an activation's gradient, scaling, a residual, dropout, the update of a weight from its gradient, and sums down the
columns (a bias's gradient): a fusion group over the product's elements that nothing else has to wait for rides in its pieces.

Most ride in register tiles: their function takes the tile's vectors as arguments, so that no number passes through memory between the
product and what follows it (`emit_tile`). What has many operands, as an optimiser's state, or long arithmetic rides in blocks of up to
256 rows and 128 columns (`emit_block`), whose numbers lie in a near cache. Either way a result that nobody else reads goes no farther.

No product is compiled for an epilogue: the group becomes a kernel of its own, whose address is a word of the product's argument block
(cuBLASLt's and CUTLASS's epilogues are the same idea, fixed when the library is compiled).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

from hybridml.kernels.fuser import MAX_OPERANDS, Fuser
from hybridml.kernels.gemm_cost import Split
from hybridml.kernels.geometry import Geometry
from hybridml.kernels.group import Group
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Lowered
from hybridml.kernels.space import canonical, stretch, strides_over
from hybridml.kernels.spec import Mode
from hybridml.kernels.walk import Walk
from hybridml.ops.registry import Kind
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Node, Value


@dataclass
class Epilogue:
    """The kernel that visits a product's blocks. Its first operand is the product's result, which comes from the block.

    place    the buffer that the product is summed up in: its own, or that of an output; None for the block alone
    in_tile  the kernel takes register tiles (`emit_tile`) in place of blocks
    """

    lowered: Lowered
    kernel: Kernel
    source: str
    reads: tuple[Value, ...]  # beside the product's result
    writes: tuple[Value, ...]
    product: Value
    place: Value | None
    in_tile: bool = False

    def at(self, sizes: Sizes) -> Epilogue:
        """For these sizes."""
        place = None if self.place is None else sizes.value(self.place)
        return replace(
            self, lowered=self.lowered.at(sizes), reads=sizes.all(self.reads), writes=sizes.all(self.writes),
            product=sizes.value(self.product), place=place,
        )  # fmt: skip

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        own = [self.product] if self.place is self.product and self.product not in self.writes else []
        return [(v, v.spec.nbytes) for v in (*own, *self.lowered.temporaries)]

    @cached_property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory; sums are made in `place` before inputs are read."""
        return [(x, o) for x, o in self.lowered.in_place if x is not self.product and o is not self.place]

    @property
    def prefetched(self) -> Value | None:
        """An output that lies as the product would: its lines can be asked for before a tile is summed up."""
        return next((o for x, o in self.lowered.in_place if x is self.product), None)

    def walks(self, split: Split) -> list[Walk]:
        """How the kernel goes through its operands while the product runs over its rows, its columns or its batch of whole rows."""
        by_columns = self.lowered.spec.mode is Mode.COLUMN
        given = self.lowered.walks[1:]
        if by_columns is (split is Split.COLUMNS):
            return list(given)
        return [replace(w, outer=w.inner, inner=w.outer) for w in given]


def place_of(lowered: Lowered, product: Value, writes: tuple[Value, ...], fits_block: bool) -> Value | None:
    """Where the product is summed up: its own buffer if others read it, else the block, else an output that takes its place anyway."""
    if product in writes:
        return product
    if fits_block:
        return None
    hosts = [o for x, o in lowered.in_place if x is product]
    taken = {o for x, o in lowered.in_place if x is not product}
    return next((o for o in hosts if o not in taken), product)


class Carry(IntEnum):
    """What can ride in the blocks of a product."""

    NOTHING = 0
    ELEMENTS = 1
    SUMS = 2  # and sums down the columns


Riders = list[tuple[int, int]]  # a product's node, and the first node of the group that rides in it


def riders(fuser: Fuser, carries: Callable[[Node], Carry]) -> Riders:
    """Which groups may ride in the blocks of the products (and convolutions) that they read; `carries` says what a product takes.

    A group that reads several products rides on the last of them.
    """
    found: Riders = []
    taken: set[Group] = set()
    for i in reversed(range(len(fuser.nodes))):
        n = fuser.nodes[i]
        if n.op.kind is not Kind.EXTERN or len(n.outputs) != 1:
            continue
        readers = dict.fromkeys(fuser.owner[r] for r in fuser.readers(n.out))
        able = carries(n) if any(g.fusible for g in readers) else Carry.NOTHING
        for g in readers:
            if not g.fusible or g in taken:
                continue
            merged: Group | str = "its product is not made of tiles"
            if able is Carry.SUMS or (able and not g.reduced):
                merged = _riding(fuser, i, g)
            elif able:
                merged = "its sums would be shared by threads"
            if isinstance(merged, Group):
                found.append((i, g.first))
                taken.add(g)
                break
            fuser.refuse(i, g.first, merged)
    return found


def ride(fuser: Fuser, wanted: Riders) -> None:
    """Put groups into the blocks of products, where that is legal."""
    found = False
    for i, first in wanted:
        g = fuser.owner[first]
        merged = _riding(fuser, i, g) if g.fusible else "it rides already"
        if isinstance(merged, Group):
            fuser.join(fuser.owner[i], g, merged)
            found = True
        else:
            fuser.refuse(i, first, merged)
    if found:
        fuser.forget_joined()
        _update_last(fuser)


def _riding(fuser: Fuser, i: int, g: Group) -> Group | str:
    """The group with the product of node i, or why it cannot ride."""
    product = fuser.owner[i]
    out = fuser.nodes[i].out
    width, size = out.shape[-1], out.spec.size
    if fuser.between(product, g) or fuser.between(g, product):
        return "another kernel lies between them"
    if g.crossing:
        return "it walks along whole rows"
    if math.prod(g.space) != size:
        return "it has another number of elements than the product"
    columns = trailing(g.space, width)
    if columns is None:
        return "its axes do not end with the product's columns"
    rows = frozenset(range(len(g.space) - columns))
    if g.reduced and g.reduced != rows:
        return "it reduces other axes than the product's rows"
    made = {v for k in g.nodes for v in fuser.nodes[k].outputs}
    read = {fuser.places[v][0] for v in fuser.nodes[i].values}
    if any(not read.isdisjoint(fuser.updates.get(v, ())) for v in made):
        return "it would write over a variable that the product reads"
    whole = canonical(g.space)
    operands = set()
    for k in g.nodes:
        n = fuser.nodes[k]
        for v in n.values:
            base, layout = fuser.places[v]
            operands.add(base)
            if base is not out:
                continue
            domain = v.shape if n.op.reduce is not None else n.out.shape
            if k in g.kept or layout.offset or strides_over(stretch(layout, domain), g.space) != whole:
                return "it reads the product in another order than it is made in"
    if len(operands) + len(fuser.outputs(g)) > MAX_OPERANDS:
        return f"the epilogue would have more than {MAX_OPERANDS} operands"
    merged = replace(
        g, nodes=sorted([*g.nodes, i]), fusible=False, product=i, columns=columns, before=set(), after=set()
    )
    geometry = Geometry(fuser.graph, merged, fuser.places, [])
    if len(geometry.sizes) != 2:
        return "an operand is not walked along rows and columns alone"
    if g.reduced and (
        geometry.mode is not Mode.COLUMN
        or geometry.last_stage > 2
        or any(geometry.stage[k] and k not in g.kept for k in g.nodes)
    ):
        return "a value of every element waits for the sums of all rows"
    return merged


def trailing(space: tuple[int, ...], width: int) -> int | None:
    """How many axes at the end of a space make up `width` elements; at least one is left for rows."""
    product = 1
    for count, d in enumerate(reversed(space[1:]), start=1):
        product *= d
        if product == width:
            return count
        if product > width:
            return None
    return None


def _update_last(fuser: Fuser) -> None:
    """Let a product that updates a variable in its blocks wait for who still reads the old value, so that it can write over it."""
    wanted: list[tuple[Group, Group]] = []
    for k, v in fuser.graph.updates:
        base = fuser.places[v][0]
        writer = fuser.writer(base)
        if writer is None or writer.product is None:
            continue
        readers = {fuser.owner[r] for r in fuser.readers(fuser.graph.variables[k])}
        wanted += [(r, writer) for r in readers if r is not writer]
    fuser.order(wanted)


__all__ = ["Epilogue", "place_of", "ride", "riders", "trailing"]
