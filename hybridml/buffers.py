"""Memory for large arrays: where it begins decides how fast kernels walk it.

NumPy puts large arrays 16 bytes behind a page's beginning. Every 64-byte vector then straddles two cache lines, and equal indices of two
arrays agree in the twelve address bits by which a processor first tells a load from an older store ("4K aliasing"). Measured on
a Zen 5: a layer_norm's gradient over 12 MB arrays takes 2.2 ms at NumPy's places, 1.25 ms at multiples of 4096, 0.95 ms here.
"""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np

LARGE = 1 << 16  # bytes; below, the microsecond that this takes is worth more
LINE = 64
PAGE = 4096
STAGGER = 512 + LINE  # from one array to the next, modulo a page

turns = array("q", [0])  # how many large arrays were made


class Memory(np.ndarray[Any, Any]):
    """Bytes that arrays are made over. A slice's base is the array it was taken from only if that one's base has another type."""

    __slots__ = ()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray[Any, Any]:
    """An uninitialised C-contiguous array; a large one begins at a cache line, and away from where the last few began.

    Slices of it hold the array itself, as with any other: whether somebody still looks at an array is told by its references.

    >>> empty((1000, 1000), np.dtype("float32")).ctypes.data % 64
    0
    """
    room = spread_bytes(math.prod(shape) * dtype.itemsize)
    if not room:
        return np.empty(shape, dtype)
    raw = Memory(room, np.uint8)
    start = raw.ctypes.data
    skip = (turns[0] * STAGGER - start) % PAGE
    turns[0] += 1
    return np.ndarray(shape, dtype, raw, skip - skip % LINE + -start % LINE)


def spread_bytes(nbytes: int) -> int:
    """The memory that an array of so many bytes is given to begin somewhere in; 0 where NumPy may place it."""
    return 0 if nbytes < LARGE else nbytes + PAGE + LINE


def copy(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A C-contiguous copy in such memory."""
    if array.nbytes < LARGE:
        return np.array(array, order="C")
    new = empty(array.shape, array.dtype)
    np.copyto(new, array)
    return new
