"""This processor's vectors: what the code that is written in them is made for."""

from __future__ import annotations

from hybridml.kernels import host

_FEATURES = host.features()
_X86 = host.host().triple.startswith(("x86", "i686", "i386", "amd64"))

VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
REGISTERS = 32 if _FEATURES.get("avx512f") or not _X86 else 16
FREE_MASKS = bool(_FEATURES.get("avx512f"))
"""Masked loads and stores take no longer than others."""

TILE_ROWS = 8 if REGISTERS == 32 else 6
"""Rows of a matrix product's register tile.

Two vectors of columns for each row are added to: with 16 registers six rows leave room for two vectors of B, one element of A and the mask
of a last column; with 32 eight are enough to hide how long a multiply-add takes.
"""
TILE_VECTORS = 2

MANY_ARGUMENTS = "x86_regcallcc" if _X86 else ""
"""The calling convention for a whole tile: on x86 this one takes sixteen vectors in registers; elsewhere some are on the stack."""
