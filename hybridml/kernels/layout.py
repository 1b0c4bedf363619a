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
SAVE_THREAD = 48  # address of PyEval_SaveThread, or 0: the interpreter lock is kept
RESTORE_THREAD = 56
WANTS_WORKERS = 64  # 1 if an instruction has several chunks
HEADER_WORDS = 9

# -- the block of a call, which Python hands over as the function's owner: words ----------------------------

PROGRAM = 0  # address of the header
FROM_INT = 8  # addresses of PyLong_FromLongLong and so on
INCREF = 16
DECREF = 24
DICT_NEXT = 32
TO_INT = 40
CHECKS = 48  # rows that recognise the arguments, and how many
CHECK_COUNT = 56
FOUND = 64  # scratch: the address of words for the objects that the rows find
TENSOR_TYPE = 72  # objects of this type have an array ...
TENSOR_SLOT = 80  # ... so many bytes from their beginning
ARRAY_TYPE = 88
TUPLE_ITEMS = 96
SCRATCH = 104  # three words for what C functions return by address
HITS = 128  # address of a word that counts the calls that were answered
NO_ANSWER = 136  # the object that stands for no answer
NONE = 144
TENSOR_NONE = 152  # a tensor's other slot, which holds None
ARRAY_COUNT = 160  # of the program's arrays: inputs, variables, results
ANSWER_COUNT = 168  # of the results, which come last
MADE = 176  # rows of the arrays that no argument gives, and how many
MADE_COUNT = 184
NEW_LIST = 192  # addresses of PyList_New, PyTuple_New, PyType_GenericAlloc, PyArray_NewFromDescr, PyArray_SetBaseObject
NEW_TUPLE = 200
NEW_OBJECT = 208
NEW_ARRAY = 216
SET_BASE = 224
MEMORY_TYPE = 232  # of what large arrays are made over, of bytes, with a turn each
BYTE_DTYPE = 240
TURN = 248
IS_TUPLE = 256  # 1 if the results are returned in a tuple, 0 for the one that there is, as it is
CALL_WORDS = 33

# -- Python objects: byte offsets, which `objects` compares with real ones ---------------------------------

REFERENCES = 0  # in the lower half of the word
OBJECT_TYPE = 8
OBJECT_HEAD = 16
LENGTH = 16  # of lists and tuples
LIST_ITEMS = 24  # a pointer; a tuple's items follow its head
DICT_LENGTH = 16
FLOAT_VALUE = 16
WEAKREF_OBJECT = 16  # the object, or None after its death
ARRAY_DATA = 16
ARRAY_NDIM = 24  # an int32
ARRAY_DIMS = 32
ARRAY_DTYPE = 56
ARRAY_FLAGS = 64
C_CONTIGUOUS = 1
CARRAY = 0x501  # C-contiguous, aligned, writeable
NEW_FROM_DESCR, SET_BASE_OBJECT = 94, 282  # where NumPy's table of functions has them

# -- a row that recognises an argument: eight words --------------------------------------------------------


class Check(IntEnum):
    """What a row ``[kind, source, a, b, c, d]`` asks of the object in place ``source`` of those found."""

    TUPLE = 0  # its type is a, its length b: its items go to the places from c
    LIST = 1
    DICT = 2  # likewise; its keys, in their order, are the very objects at address d
    IS = 3  # it is the object a
    IS_ALIVE = 4  # it is the object of the weak reference a, and not b: None, which the dead leave behind
    IS_FLOAT = 5  # its type is a, its bits b
    IS_INT = 6  # its type is a, its value b
    ARRAY = 7  # a tensor or an array of dtype a, b axes with the sizes at address c, C-contiguous: array d of the call
    FLOAT = 8  # its type is a: its value goes into array d of the call
    INT = 9
    STATE = 10  # the object `source` itself has an array a bytes from its beginning, for array d; c: nobody else may hold it


KIND, SOURCE, CHECK_A, CHECK_B, CHECK_C, CHECK_D = range(0, 48, 8)
CHECK_WORDS = 8
CHECK_BYTES = 64

# -- a row of an array to make: words ----------------------------------------------------------------------

MADE_INDEX = 0  # in the list of the program's arrays
MADE_DTYPE = 8
MADE_AXES = 16
MADE_SIZES = 24  # an address
MADE_BYTES = 32  # of the memory that it is spread in; 0: where NumPy puts it
MADE_WORDS = 5
MADE_ROW_BYTES = 40

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

# -- what a run returns: one of these, or a stop code times two plus the flag -------------------------------

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
