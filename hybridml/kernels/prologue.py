"""Prologues: what makes an operand of a matrix product element by element, done for each block of it where the product packs it.

The input's activation or cast, dropout's mask, an activation's gradient that one product alone reads: a fusion group whose one result is
read by one product, as it lies in memory or transposed, is computed into the blocks that the tiles read anyway, and is never stored. It
is the mirror of `epilogue`: the group becomes a kernel of its own over a rectangle of rows and columns, called by address.

A block that is packed more than once is computed more than once; `gemm_cost.saved_by_prologue` says where that still pays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hybridml.kernels import gemm, gemm_cost
from hybridml.kernels.epilogue import trailing
from hybridml.kernels.fuser import Fuser
from hybridml.kernels.gemm_cost import Split
from hybridml.kernels.geometry import Geometry
from hybridml.kernels.group import Group
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Lowered, lower
from hybridml.kernels.products import gemm_steps
from hybridml.kernels.steps import kernel_nanoseconds
from hybridml.kernels.walk import Walk
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Value

Feeders = list[
    tuple[int, int, int]
]  # a product's node, the number of its operand, and how many axes are columns of its blocks


@dataclass
class Prologue:
    """The kernel that makes the blocks of operand A (0) or B (1). Its first operand is what it makes, which goes into the block.

    in_panels  the kernel makes panels of B (`emit_tile.emit_panel`) in place of blocks that are copied into them
    """

    operand: int
    lowered: Lowered
    kernel: Kernel
    source: str
    reads: tuple[Value, ...]
    in_panels: bool = False

    def at(self, sizes: Sizes) -> Prologue:
        """For these sizes."""
        return replace(self, lowered=self.lowered.at(sizes), reads=sizes.all(self.reads))

    def walks(self, split: Split, turned: bool, extent: int) -> list[Walk]:
        """How the kernel goes through its operands while the product runs over its rows, its columns or its batch; `turned`: the
        operand lies in memory as its transpose."""
        given = self.lowered.walks[1:]
        own = (Split.ROWS, Split.COLUMNS)[self.operand]
        if split is Split.BATCH or (split is own and turned is (own is Split.COLUMNS)):
            return list(given)  # the extent runs over the block's rows
        if split is own:
            return [replace(w, outer=w.inner, inner=w.outer) for w in given]
        return [replace(w, outer=((extent, 0),), inner=(*w.outer, *w.inner)) for w in given]


def feeders(
    fuser: Fuser, width: Callable[[int, int], int | None], pays: Callable[[int, int, Lowered], bool]
) -> Feeders:
    """Which groups are to be computed where a product packs its operand.

    For a node and the number of an operand `width` says how long the rows of its blocks are as it lies in memory, None where it is not
    packed in blocks, and `pays` whether it is worth it with a kernel.
    """
    found: Feeders = []
    for i, n in enumerate(fuser.nodes):
        if n.op.provider != "gemm":
            continue
        for number, x in enumerate(n.values):
            base = fuser.places[x][0]
            g = fuser.writer(base)
            if g is None or not g.fusible or n.out.dtype.name not in ("float32", "float64"):
                continue
            row = width(i, number)
            columns = None if row is None else trailing(g.space, row)
            made: Group | str = "its product does not pack it in blocks"
            if columns is not None:
                made = _packed(fuser, i, number, columns)
                if isinstance(made, Group) and not pays(
                    i, number, lower(fuser.graph, made, fuser.places, [base])
                ):
                    made = "making it where it is packed takes longer"
            if isinstance(made, Group):
                found.append((i, number, made.columns))
            else:
                fuser.refuse(g.nodes[-1], i, made)
    return found


def feed(fuser: Fuser, wanted: Feeders) -> None:
    """Let products make their operands, where that is legal."""
    for i, number, columns in wanted:
        made = _packed(fuser, i, number, columns)
        if isinstance(made, str):
            fuser.refuse(i, i, made)
            continue
        product = fuser.owner[i]
        g = fuser.owner[made.first]
        merged = replace(
            product, nodes=sorted([*product.nodes, *g.nodes]), product=i, packs=(*product.packs, (number, made)),
            before=set(), after=set(),
        )  # fmt: skip
        fuser.join(g, product, merged)
    fuser.forget_joined()


def _packed(fuser: Fuser, i: int, number: int, columns: int) -> Group | str:
    """The group that makes an operand of node i, as a kernel over blocks of it, or why it cannot be that."""
    base = fuser.places[fuser.nodes[i].values[number]][0]
    g = fuser.writer(base)
    if g is None or not g.fusible:
        return "it runs with another product"
    if g.reduced or g.crossing:
        return "it walks along whole rows"
    operands = [fuser.places[v][0] for v in fuser.nodes[i].values]
    if (
        fuser.outputs(g) != [base]
        or fuser.readers(base) != [i]
        or operands.count(base) != 1  # x @ x.T: the other operand is read from memory
        or base in {fuser.places[v][0] for v in fuser.graph.results}
    ):
        return "others read it too, or what is made with it"
    read = {fuser.places[v][0] for k in g.nodes for v in fuser.nodes[k].values}
    made = {v for k in fuser.owner[i].nodes for v in fuser.nodes[k].outputs}
    if any(fuser.places[v][0] in made and fuser.graph.variables[k] in read for k, v in fuser.graph.updates):
        return "the product's epilogue would write over a variable that it reads"
    packed = replace(g, fusible=False, columns=columns, before=set(), after=set())
    if len(Geometry(fuser.graph, packed, fuser.places, [base]).sizes) != 2:
        return "an operand is not walked along rows and columns alone"
    return packed


class Packing:
    """What the products of a graph would pack, and whether it pays to make it there."""

    def __init__(self, fuser: Fuser, threads: int) -> None:
        self._fuser, self._threads = fuser, threads

    def width(self, i: int, number: int) -> int | None:
        """How long the rows of an operand's blocks are as it lies in memory; None where node i would not pack it, whatever that saved."""
        found = self._packs(i, number, self._plan(i, self._saved(i, number, 0.0, 1)))
        return None if found is None else found[0]

    def pays(self, i: int, number: int, lowered: Lowered) -> bool:
        """Whether the tiles are faster with a prologue than the best way is with a kernel of its own before it."""
        cycles = gemm.CYCLES * kernel_nanoseconds(lowered)
        found = self._packs(i, number, self._plan(i, self._saved(i, number, 0.0, 1)))
        assert found is not None, "its width was asked for"
        saved = self._saved(i, number, cycles, found[1])
        return saved > 0 and self._packs(i, number, self._plan(i, saved)) is not None

    def _saved(self, i: int, number: int, cycles: float, times: int) -> float:
        n = self._fuser.nodes[i]
        machine = gemm.machine(n.out.dtype.name)
        return gemm_cost.saved_by_prologue(n.values[number].spec.size, cycles, times, machine)

    def _packs(self, i: int, number: int, plan: gemm.Plan | None) -> tuple[int, int] | None:
        base = self._fuser.places[self._fuser.nodes[i].values[number]][0]
        return None if plan is None else gemm.packs(plan, number, base.spec.size)

    def _plan(self, i: int, saved: float) -> gemm.Plan | None:
        """The one product of node i, by whatever is fastest where tiles save so many cycles."""
        g = self._fuser.owner[i]
        options: dict[str, Any] = {"saved": saved} if g.product is None else {"provider": "tiled"}
        if g.product is not None and g.reduced:
            options["split"] = Split.COLUMNS
        steps = gemm_steps(
            self._fuser.graph, self._fuser.nodes[i], self._fuser.places, self._threads, **options
        )
        return steps[0].plan if steps is not None and len(steps) == 1 else None
