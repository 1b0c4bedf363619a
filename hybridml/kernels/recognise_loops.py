"""The native side of `recognise`: recognise a call's arguments, and find the arrays in them.

The interpreter lock is held and no Python code runs here: dictionaries are walked, not searched, and their keys are compared by identity.
`layout` says what lies where.
"""

from hybridml.kernels.language.functions import device
from hybridml.kernels.layout import (
    ARRAY_DATA,
    ARRAY_DIMS,
    ARRAY_DTYPE,
    ARRAY_FLAGS,
    ARRAY_NDIM,
    ARRAY_TYPE,
    C_CONTIGUOUS,
    CHECK_A,
    CHECK_B,
    CHECK_BYTES,
    CHECK_C,
    CHECK_COUNT,
    CHECK_D,
    CHECKS,
    DECREF,
    DICT_LENGTH,
    DICT_NEXT,
    FLOAT_VALUE,
    FOUND,
    INCREF,
    KIND,
    LENGTH,
    LIST_ITEMS,
    OBJECT_TYPE,
    REFERENCES,
    SCRATCH,
    SOURCE,
    TENSOR_SLOT,
    TENSOR_TYPE,
    TO_INT,
    TUPLE_ITEMS,
    WEAKREF_OBJECT,
    Check,
)
from hybridml.kernels.native import (
    call_four_pointers_int,
    call_pointer,
    call_two_words_word,
    load,
    load_half,
    store,
)

TUPLE = int(Check.TUPLE)
LIST = int(Check.LIST)
DICT = int(Check.DICT)
IS = int(Check.IS)
IS_ALIVE = int(Check.IS_ALIVE)
IS_FLOAT = int(Check.IS_FLOAT)
IS_INT = int(Check.IS_INT)
ARRAY = int(Check.ARRAY)
FLOAT = int(Check.FLOAT)
INT = int(Check.INT)
STATE = int(Check.STATE)


@device
def put(call, items, index, array):
    """Let the list hold this array instead of what it holds at the index."""
    place = items + 8 * index
    call_pointer(load(call + INCREF), array)
    call_pointer(load(call + DECREF), load(place))
    store(place, array)


@device
def take_items(items, row, found):
    """The items of a list or a tuple to the places that the row names."""
    first = found + 8 * load(row + CHECK_C)
    for i in range(load(row + CHECK_B)):
        store(first + 8 * i, load(items + 8 * i))


@device
def take_values(call, row, found, x):
    """The values of a dictionary likewise; 0 if its keys are not the row's."""
    first = found + 8 * load(row + CHECK_C)
    keys = load(row + CHECK_D)
    position = call + SCRATCH
    store(position, 0)
    for i in range(load(row + CHECK_B)):
        got = call_four_pointers_int(load(call + DICT_NEXT), x, position, position + 8, position + 16)
        if got == 0 or load(position + 8) != load(keys + 8 * i):
            return 0
        store(first + 8 * i, load(position + 16))
    return 1


@device
def take_array(call, items, row, x):
    """A tensor's array, or the array that the argument is, to its place in the list; 0 if it is another kind of array."""
    array = x
    if load(x + OBJECT_TYPE) == load(call + TENSOR_TYPE):
        array = load(x + load(call + TENSOR_SLOT))
    if load(array + OBJECT_TYPE) != load(call + ARRAY_TYPE):
        return 0
    axes = load(row + CHECK_B)
    if (
        load(array + ARRAY_DTYPE) != load(row + CHECK_A)
        or load_half(array + ARRAY_NDIM) != axes
        or load_half(array + ARRAY_FLAGS) & C_CONTIGUOUS == 0
    ):
        return 0
    sizes, expected = load(array + ARRAY_DIMS), load(row + CHECK_C)
    for axis in range(axes):
        if load(sizes + 8 * axis) != load(expected + 8 * axis):
            return 0
    put(call, items, load(row + CHECK_D), array)
    return 1


@device
def take_state(call, items, row):
    """A variable's array likewise; 0 if somebody else holds an array that is to be written."""
    array = load(load(row + CHECK_A) + load(row + CHECK_B))
    if load(array + OBJECT_TYPE) != load(call + ARRAY_TYPE):
        return 0
    if load(row + CHECK_C) != 0 and load_half(array + REFERENCES) != 1:
        return 0
    put(call, items, load(row + CHECK_D), array)
    return 1


@device
def take_number(items, row, bits):
    """A number to the array that waits for it in the list."""
    store(load(load(items + 8 * load(row + CHECK_D)) + ARRAY_DATA), bits)


@device
def to_int(call, x):
    """A Python int, as a word; whether it is none of 64 bits is in the scratch."""
    return call_two_words_word(load(call + TO_INT), x, call + SCRATCH)


@device
def meets(call, items, found, row):
    """1 if the object that a row asks about is what it expects."""
    kind = load(row + KIND)
    x = load(found + 8 * load(row + SOURCE))
    a = load(row + CHECK_A)
    result = 0
    if kind == ARRAY:
        result = take_array(call, items, row, x)
    elif kind == STATE:
        result = take_state(call, items, row)
    elif kind == IS:
        result = 1 if x == a else 0
    elif kind == IS_ALIVE:
        result = 1 if load(a + WEAKREF_OBJECT) == x and x != load(row + CHECK_B) else 0
    elif load(x + OBJECT_TYPE) != a:
        result = 0
    elif kind == DICT:
        if load(x + DICT_LENGTH) == load(row + CHECK_B):
            result = take_values(call, row, found, x)
    elif kind == TUPLE:
        if load(x + LENGTH) == load(row + CHECK_B):
            take_items(x + load(call + TUPLE_ITEMS), row, found)
            result = 1
    elif kind == LIST:
        if load(x + LENGTH) == load(row + CHECK_B):
            take_items(load(x + LIST_ITEMS), row, found)
            result = 1
    elif kind == IS_FLOAT:
        result = 1 if load(x + FLOAT_VALUE) == load(row + CHECK_B) else 0
    elif kind == FLOAT:
        take_number(items, row, load(x + FLOAT_VALUE))
        result = 1
    else:
        value = to_int(call, x)
        if load_half(call + SCRATCH) == 0:
            if kind == INT:
                take_number(items, row, value)
                result = 1
            else:
                result = 1 if value == load(row + CHECK_B) else 0
    return result


@device
def fit(call, items, arguments):
    """Put the arrays of this call's arguments, and those of the program's variables, into the list; 0 if the arguments are others."""
    found = load(call + FOUND)
    store(found, arguments)
    row = load(call + CHECKS)
    for _ in range(load(call + CHECK_COUNT)):
        if meets(call, items, found, row) == 0:
            return 0
        row += CHECK_BYTES
    return 1
