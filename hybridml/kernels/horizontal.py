"""Horizontal fusion: the same kernel over many buffers, as one launch.

The update of a hundred parameters is a hundred short kernels of one text. Here their extents are laid end to end and run as one
instruction, so that threads share the whole rather than each piece (TensorFlow and PyTorch call this a multi-tensor or foreach kernel).
"""

from __future__ import annotations

SOURCE = '''\
from hybridml.kernels.native import call_kernel


def horizontal(args, begin, end):
    """args: kernel address, number of parts, then (argument block, first, last) of each part."""
    kernel = args[0]
    for part in range(args[1]):
        first = max(begin, args[3 + 3 * part])
        last = min(end, args[4 + 3 * part])
        if first < last:
            start = args[3 + 3 * part]
            call_kernel(kernel, args[2 + 3 * part], first - start, last - start)
'''


def words(kernel: int, blocks: list[int], extents: list[int]) -> list[int]:
    """The argument block of a horizontal launch."""
    found, start = [kernel, len(blocks)], 0
    for block, extent in zip(blocks, extents, strict=True):
        found += [block, start, start + extent]
        start += extent
    return found
