"""The memory that Python and native code share: where each word lies, as byte offsets.

Both `driver` and `pool`, which fill these blocks, and `loops`, which is compiled and reads them, take the
numbers from here.
"""

from __future__ import annotations

from enum import IntEnum

# -- the header of a program: words ------------------------------------------------------------------------

INSTRUCTION_COUNT = 0
INSTRUCTIONS = 8
PATCH_COUNT = 16
PATCHES = 24
POOL = 32
BUSY = 40  # process id of whoever runs the program; a number left by a fork's parent means free
LIST_ITEMS = 48  # where a Python list keeps its array of item pointers
ARRAY_DATA = 56  # where a NumPy array keeps its data pointer
HEADER_WORDS = 8

# -- an instruction: a row of eight words ------------------------------------------------------------------


class Opcode(IntEnum):
    """What a row ``[opcode, function, args, extent, chunks, a, b, c]`` does."""

    RUN = 0  # function(args, begin, end) over [0, extent), in chunks whose bounds are multiples of a
    JUMP = 1  # to row a
    JUMP_IF_FALSE = 2  # to row a if the byte at address b is zero
    COUNT_JUMP = 3  # add 1 to the counter at address b; to row a while it is less than the limit at address c
    SET = 4  # the word at address b becomes the value c
    COPY = 5  # c bytes from address b to address a
    STOP = 6  # leave the program with code a (0..2**31)
    MOVE = 7  # the word at address b becomes the word at address c plus a


OPCODE, FUNCTION, ARGS, EXTENT, CHUNKS, A, B, C = range(0, 64, 8)
ROW_WORDS = 8
ROW_BYTES = 64

PATCH_INDEX, PATCH_SLOT, PATCH_OFFSET = 0, 8, 16
PATCH_BYTES = 24

# -- what a run returns: -1, or a stop code times two plus the flag ----------------------------------------

PROGRAM_BUSY = -1
POOL_WANTED = 1  # chunks ran one after the other because no worker is started

# -- the thread pool's block: three cache lines, then one for each worker ----------------------------------

OWNER = 0  # process id of whoever shares out work, as for BUSY
WORKERS = 8
SPIN_LIMIT = 16  # looks for work before a worker sleeps
ACQUIRE_LOCK = 24  # addresses of PyThread_acquire_lock, PyThread_release_lock and sched_yield
RELEASE_LOCK = 32
YIELD_THREAD = 40
PROCESS = 48
STOPPING = 56
TICKET = 64  # serial number of the job << 32 | number of its chunks << 16 | next chunk to take
JOB_FUNCTION = 72
JOB_ARGS = 80
JOB_EXTENT = 88
JOB_GRAIN = 96
DONE = 128
WORKER_LINES = 192
WORKER_BYTES = 64
ASLEEP = 0  # in a worker's line
WAKE_LOCK = 8

MAX_CHUNKS = 0xFFFF
