"""A processor's vectors: what the code that is written in them is made for."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hybridml.kernels import host

TILE_VECTORS = 2  # of columns for each row of a matrix product's register tile


@dataclass(frozen=True)
class Vectors:
    """
    bytes       of the widest vectors
    registers   that hold them
    free_masks  masked loads and stores take no longer than others
    arguments   the calling convention for a whole tile of vectors: on x86 this one takes sixteen of them in registers; elsewhere some are
                on the stack
    """

    bytes: int
    registers: int
    free_masks: bool
    arguments: str

    @property
    def costly_masks(self) -> bool:
        """Masked loads and stores are a branch for each lane."""
        return self.bytes == 16

    @property
    def tile_rows(self) -> int:
        """Rows of a register tile, each with `TILE_VECTORS` to add to: with 16 registers six leave room for two vectors of B, one element
        of A and the mask of a last column; with 32 eight are enough to hide how long a multiply-add takes."""
        return 8 if self.registers == 32 else 6


@functools.cache
def vectors() -> Vectors:
    """Those of this processor."""
    features = host.features()
    wide = bool(features.get("avx512f"))
    is_x86 = host.host().triple.startswith(("x86", "i686", "i386", "amd64"))
    return Vectors(
        bytes=64 if wide else 32 if features.get("avx2") else 16,
        registers=32 if wide or not is_x86 else 16,
        free_masks=wide,
        arguments="x86_regcallcc" if is_x86 else "",
    )
