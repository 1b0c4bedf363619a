"""The loop of a sweep. `sweep` hands the text of this file to `jit`; `sweep_memory.OwnMemory.words` says what the argument block holds.

What only the steps of a sweep read and write lies on the stack of the thread at work, a part's share of it at a time. A kernel counts
rows from the buffer's beginning, so what it is given as that is as far before the share as the rows left out would take. The
argument blocks that say so are copies, one set for each call of this loop.
"""

from hybridml.kernels.gemm_tile import scratch
from hybridml.kernels.native import call_kernel, copy_bytes, store
from hybridml.kernels.sweep_layout import COPY_BYTES, OWN_BYTES


def sweep(args, begin, end):
    """Units from begin to end, a part of them at a time."""
    own = scratch(OWN_BYTES)
    copies = scratch(COPY_BYTES)
    steps, part, blocks, places, nested = args[0], args[1], args[2], args[3], args[4]
    first_block = 5 + 4 * steps
    first_place = first_block + 3 * blocks
    first_nested = first_place + 3 * places
    for k in range(first_block, first_place, 3):
        copy_bytes(copies + args[k], args[k + 1], args[k + 2])
    for k in range(first_nested, first_nested + 2 * nested, 2):
        store(copies + args[k], copies + args[k + 1])
    first = begin
    while first < end:
        last = min(first + part, end)
        for k in range(first_place, first_nested, 3):
            store(copies + args[k], own + args[k + 1] - first * args[k + 2])
        for k in range(5, first_block, 4):
            block = args[k + 1] + copies * args[k + 2]
            call_kernel(args[k], block, first * args[k + 3], last * args[k + 3])
        first = last
