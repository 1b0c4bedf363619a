"""What a matrix product costs: how it is best split over threads, and whether the tiles or the process's BLAS do it faster.

The unit is a cycle of a core that starts two vector multiply-adds in each. The figures were fitted on one machine (Zen 5,
AVX-512) and need only be right relative to each other; `python benchmarks/gemm_model.py` measures how far the choices they lead to
fall short of the best one on the machine at hand.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from enum import IntEnum

TILE_ROWS = 8
START = 45.0
"""Cycles of a tile besides its multiply-adds: from its call to its first load, and storing C."""

PACK = 0.1
"""Cycles an element of B to copy it where the tile reads it fast; a transposed A takes twice, a transposed B four times that."""

BLOCK_ROWS = 256
"""Rows of A that share one packed panel of B."""

STEPS = 256
"""Elements along the summed axis that are summed up in registers; longer sums are made of parts."""

HAND_OVER = 1500.0
"""Cycles to share a product with other threads and wait for the last."""

PASS = 0.25
"""Cycles an element of C to store it and load it again in a kernel of its own, which an epilogue saves."""

LIBRARY_CALL = 5000.0
"""Cycles of a call of a BLAS besides its arithmetic."""


class Split(IntEnum):
    """What an extent of a matrix product counts."""

    ROWS = 0
    COLUMNS = 1
    BATCH = 2


@dataclass(frozen=True)
class Machine:
    """What the costs depend on.

    lanes           elements of a vector
    library_share   the part of the tiles' peak rate that a BLAS reaches on large products
    """

    lanes: int
    library_share: float

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
        """Where pieces of an axis begin: at whole tiles, or anywhere if there are fewer tiles than pieces."""
        tile = (TILE_ROWS, machine.panel, 1)[axis]
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
    # A tile of fewer than eight rows waits for its own results: four cycles a step, as long as a half of them.
    row_tiles = p.m // TILE_ROWS + (p.m % TILE_ROWS).bit_count()
    rows = p.m // TILE_ROWS * TILE_ROWS + 4 * (p.m % TILE_ROWS).bit_count()
    vectors = -(-p.n // machine.lanes)
    panels = -(-p.n // machine.panel)
    arithmetic = p.k * rows * vectors / 2
    pack_b = (4 if p.transb else 1) * p.k * p.n * -(-p.m // BLOCK_ROWS)
    pack_a = 2 * p.k * p.m if p.transa else 0
    return p.batch * (arithmetic + START * row_tiles * panels + PACK * (pack_a + pack_b))


def library(p: Product, machine: Machine) -> float:
    """Cycles of one thread for a product by a BLAS, which rounds sizes up to vectors only along one axis."""
    work = p.m * p.k * -(-p.n // machine.lanes) / 2
    return p.batch * (LIBRARY_CALL + work / machine.library_share)


def saved_by_epilogue(p: Product) -> float:
    """Cycles that a kernel of its own after the product would take more than an epilogue, which only tiles take."""
    return HAND_OVER + PASS * p.m * p.n * p.batch


def best_split(p: Product, chunks: int, machine: Machine) -> Split:
    """The axis whose slowest piece is done first; among equals the batch, then rows."""

    def slowest(axis: Split) -> float:
        return max(tiled(piece, machine) for piece in p.pieces(axis, chunks, machine))

    axes = (Split.ROWS, Split.COLUMNS)
    return min((Split.BATCH, *axes) if p.batch > 1 else axes, key=slowest)


def worthwhile_chunks(p: Product, threads: int, machine: Machine, beside: float = 0.0) -> int:
    """How many threads are worth handing a share to, with so many cycles of an epilogue beside the product."""
    cycles = tiled(p, machine) + beside
    return max(1, min(threads, int(cycles // (2 * HAND_OVER))))
