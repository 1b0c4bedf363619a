"""The native side of `recognise`: make the arrays of a call and, after it has run, the tensors that are its answer.

What is made here is what Python code would make by `buffers.empty` and `wrap`. Whatever may collect garbage, and so run other Python
code, happens before the arguments are looked at. `layout` says what lies where.
"""

from hybridml.buffers import LINE, PAGE, STAGGER
from hybridml.kernels.language.functions import device
from hybridml.kernels.layout import (
    ANSWER_COUNT,
    ARRAY_COUNT,
    ARRAY_DATA,
    ARRAY_TYPE,
    BYTE_DTYPE,
    CARRAY,
    DECREF,
    INCREF,
    IS_TUPLE,
    MADE,
    MADE_AXES,
    MADE_BYTES,
    MADE_COUNT,
    MADE_DTYPE,
    MADE_INDEX,
    MADE_ROW_BYTES,
    MADE_SIZES,
    MEMORY_TYPE,
    NEW_ARRAY,
    NEW_LIST,
    NEW_OBJECT,
    NEW_TUPLE,
    NONE,
    SET_BASE,
    TENSOR_NONE,
    TENSOR_SLOT,
    TENSOR_TYPE,
    TUPLE_ITEMS,
    TURN,
)
from hybridml.kernels.native import (
    call_new_array,
    call_pointer,
    call_two_pointers_int,
    call_two_words_word,
    call_word_word,
    load,
    store,
)


@device
def held(call, x):
    """The object, with one reference more."""
    call_pointer(load(call + INCREF), x)
    return x


@device
def new_array(call, cls, dtype, axes, sizes, data, flags):
    """PyArray_NewFromDescr, which takes over a reference to the dtype; 0 where there is no memory."""
    return call_new_array(load(call + NEW_ARRAY), cls, held(call, dtype), axes, sizes, 0, data, flags, 0)


@device
def new_memory(call, row):
    """The memory of a large array."""
    return new_array(call, load(call + MEMORY_TYPE), load(call + BYTE_DTYPE), 1, row + MADE_BYTES, 0, 0)


@device
def place_in(call, memory):
    """Where an array begins in its memory: what `buffers.empty` does."""
    start = load(memory + ARRAY_DATA)
    turn = load(load(call + TURN))
    store(load(call + TURN), turn + 1)
    skip = (turn * STAGGER - start) & (PAGE - 1)
    return start + skip - (skip & (LINE - 1)) + (-start & (LINE - 1))


@device
def make_arrays(call, items):
    """The arrays that no argument gives, into the list; 0 where there is no memory."""
    row = load(call + MADE)
    for _ in range(load(call + MADE_COUNT)):
        memory, data, flags = 0, 0, 0
        if load(row + MADE_BYTES) != 0:
            memory = new_memory(call, row)
            if memory == 0:
                return 0
            data, flags = place_in(call, memory), CARRAY
        cls, dtype = load(call + ARRAY_TYPE), load(row + MADE_DTYPE)
        array = new_array(call, cls, dtype, load(row + MADE_AXES), load(row + MADE_SIZES), data, flags)
        store(items + 8 * load(row + MADE_INDEX), array)
        if array == 0:
            call_pointer(load(call + DECREF), memory)
            return 0
        if memory != 0 and call_two_pointers_int(load(call + SET_BASE), array, memory) != 0:
            return 0  # the memory is the array's in any case
        row += MADE_ROW_BYTES
    return 1


@device
def new_tensor(call):
    """A tensor without an array."""
    x = call_two_words_word(load(call + NEW_OBJECT), load(call + TENSOR_TYPE), 0)
    if x != 0:
        store(x + load(call + TENSOR_NONE), held(call, load(call + NONE)))
    return x


@device
def new_answer(call):
    """A tensor or a tuple of them, without arrays; 0 where there is no memory."""
    answer = 0
    if load(call + IS_TUPLE) != 0:
        answer = call_word_word(load(call + NEW_TUPLE), load(call + ANSWER_COUNT))
        if answer == 0:
            return 0
    for i in range(load(call + ANSWER_COUNT)):
        x = new_tensor(call)
        if answer == 0:
            return x
        store(answer + load(call + TUPLE_ITEMS) + 8 * i, x)
        if x == 0:
            call_pointer(load(call + DECREF), answer)
            return 0
    return answer


@device
def fill_answer(call, answer, items):
    """The last arrays of the list into the tensors."""
    count = load(call + ANSWER_COUNT)
    array = items + 8 * (load(call + ARRAY_COUNT) - count)
    for i in range(count):
        x = answer
        if load(call + IS_TUPLE) != 0:
            x = load(answer + load(call + TUPLE_ITEMS) + 8 * i)
        store(x + load(call + TENSOR_SLOT), held(call, load(array)))
        array += 8


@device
def new_list(call):
    """A list with an empty place for each array."""
    return call_word_word(load(call + NEW_LIST), load(call + ARRAY_COUNT))
