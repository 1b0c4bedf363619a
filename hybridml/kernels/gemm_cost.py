"""What a matrix product costs: how it is best split over threads, and whether the tiles or the process's BLAS do it faster.

The unit is a cycle of a core that starts two vector multiply-adds in each. The figures of `Machine` were fitted on one machine for each
width of vectors and need only be right relative to each other; `python benchmarks/gemm_model.py` measures how far the choices they lead
to fall short of the best one on the machine at hand.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from enum import IntEnum

LATENCY = 4
"""Cycles until a multiply-add's result can be added to: a tile of fewer rows of two vectors waits that long at each step."""

STEPS = 256
"""Elements along the summed axis that are summed up in registers; longer sums are made of parts.

A packed panel of B, two vectors wide, takes half of a first-level cache of 32 KiB, or two thirds of one of 48 KiB.
"""

BLOCK_ROWS = 256
"""Rows of A that share one packed panel of B."""

PASS = 0.25
"""Cycles an element to store it and load it again in a kernel of its own, which an epilogue or a prologue saves."""

SHORT = 0.15
"""The part of its time that a prologue takes longer than one long loop. So what is dear to compute is not worth it: dropout, gelu."""


SHARED_LINE = 30.0
"""Cycles to write a line of 64 bytes that another core has read, and holds still."""

NEAR = 2 << 20
"""Bytes of an operand of which much is still in a core's own cache when it is written."""


class Split(IntEnum):
    """What an extent of a matrix product counts."""

    ROWS = 0
    COLUMNS = 1
    BATCH = 2


RELUCTANCE = {Split.BATCH: 1.0, Split.ROWS: 1.15, Split.COLUMNS: 1.2}
"""What a split's cycles count for: other steps go over the batch, or else by rows too, and can share a sweep with such a split."""


@dataclass(frozen=True)
class Machine:
    """What the costs depend on.

    lanes           elements of a vector
    library_share   the part of the tiles' peak rate that a BLAS reaches on large products
    tile_rows       rows of a tile, at most
    start           cycles of a tile besides its multiply-adds: from its call to its first load, and storing C
    pack            cycles an element of B to copy it where the tile reads it fast; a transposed A takes twice, a transposed B four
                    times that
    hand_over       cycles to share a product with other threads and wait for the last
    library_call    cycles of a call of a BLAS besides its arithmetic
    library_pack    cycles an element of A and B to copy it, as a BLAS does always
    """

    lanes: int
    library_share: float
    tile_rows: int = 8
    start: float = 45.0
    pack: float = 0.1
    hand_over: float = 1500.0
    library_call: float = 5000.0
    library_pack: float = 0.0

    @property
    def panel(self) -> int:
        """Columns of a tile."""
        return 2 * self.lanes


@dataclass(frozen=True)
class Product:
    """C = op(A) @ op(B), op(A) of m x k and op(B) of k x n, `batch` times."""

    m: int
    n: int
    k: int
    transa: bool = False
    transb: bool = False
    batch: int = 1

    def size(self, axis: Split) -> int:
        return (self.m, self.n, self.batch)[axis]

    def grain(self, axis: Split, chunks: int, machine: Machine) -> int:
        """Where pieces of an axis begin: anywhere among rows, which tiles share evenly, and at whole panels of columns unless these are
        fewer than the pieces."""
        tile = (1, machine.panel, 1)[axis]
        return tile if -(-self.size(axis) // tile) >= chunks else 1

    def pieces(self, axis: Split, chunks: int, machine: Machine) -> set[Product]:
        """The pieces of a split as the driver makes them, those of one size once."""
        grain = self.grain(axis, chunks, machine)
        units = -(-self.size(axis) // grain)
        bounds = [min(units * c // chunks * grain, self.size(axis)) for c in range(chunks + 1)]
        sizes = {end - begin for begin, end in itertools.pairwise(bounds)}
        if axis is Split.ROWS:
            return {replace(self, m=size) for size in sizes}
        if axis is Split.COLUMNS:
            return {replace(self, n=size) for size in sizes}
        return {replace(self, batch=size) for size in sizes}


def tiled(p: Product, machine: Machine) -> float:
    """Cycles of one thread for a product in tiles."""
    row_tiles = max(1, -(-p.m // machine.tile_rows))
    rows, higher = divmod(p.m, row_tiles)
    panels, narrow = divmod(-(-p.n // machine.lanes), 2)

    def step(vectors: int) -> float:
        """Cycles of all rows' tiles, so many vectors wide, for one step along the summed axis."""
        high, low = max(LATENCY, (rows + 1) * vectors / 2), max(LATENCY, rows * vectors / 2)
        return higher * high + (row_tiles - higher) * low

    arithmetic = p.k * (panels * step(2) + narrow * step(1))
    pack_b = (4 if p.transb else 1) * p.k * p.n * -(-p.m // BLOCK_ROWS)
    pack_a = 2 * p.k * p.m if p.transa else 0
    parts = max(1, -(-p.k // STEPS))
    return p.batch * (
        arithmetic + machine.start * row_tiles * (panels + narrow) * parts + machine.pack * (pack_a + pack_b)
    )


def library(p: Product, machine: Machine) -> float:
    """Cycles of one thread for a product by a BLAS, which rounds sizes up to vectors only along one axis."""
    work = p.m * p.k * -(-p.n // machine.lanes) / 2
    pack = machine.library_pack * p.k * (p.m + p.n)
    return p.batch * (machine.library_call + work / machine.library_share + pack)


def saved_by_epilogue(p: Product, machine: Machine) -> float:
    """Cycles that a kernel of its own after the product would take more than an epilogue, which only tiles take."""
    return machine.hand_over + PASS * p.m * p.n * p.batch


def saved_by_depth(p: Product, itemsize: int, machine: Machine) -> float:
    """Cycles that an update of B takes less if no two threads have read the same of it: a product of two parts along the summed axis is
    written, read and added up instead."""
    nbytes = p.k * p.n * itemsize
    if nbytes > NEAR or worthwhile_chunks(p, 2, machine) == 1:
        return 0.0
    return SHARED_LINE * nbytes / 64 - machine.hand_over - 3 * PASS * p.m * p.n


def saved_by_prologue(elements: int, cycles: float, times: int, machine: Machine) -> float:
    """Cycles that a kernel of its own would take more than computing an operand where it is packed, `times` over: it is stored and
    loaded once less, but moved through a block. `cycles` are those of computing it once, in one long loop."""
    return machine.hand_over + (PASS - machine.pack) * elements - (times * (1 + SHORT) - 1) * cycles


@functools.lru_cache(4096)  # nets repeat their layers
def best_split(p: Product, chunks: int, machine: Machine) -> Split:
    """The axis whose slowest piece is done first; where it makes no difference the batch, then rows."""

    def slowest(axis: Split) -> float:
        return RELUCTANCE[axis] * max(tiled(piece, machine) for piece in p.pieces(axis, chunks, machine))

    axes = (Split.ROWS, Split.COLUMNS)
    return min((Split.BATCH, *axes) if p.batch > 1 else axes, key=slowest)


def worthwhile_chunks(p: Product, threads: int, machine: Machine, beside: float = 0.0) -> int:
    """How many threads are worth handing a share to, with so many cycles of an epilogue beside the product."""
    cycles = tiled(p, machine) + beside
    return max(1, min(threads, int(cycles // (2 * machine.hand_over))))
