"""Rows that recognise a call's arguments: each kind fits what it describes and nothing else. What is made for a call: as NumPy makes it."""

import gc
import os
import sys
import weakref

import numpy as np
import pytest

from hybridml import buffers
from hybridml.kernels import driver, jit, objects, pool
from hybridml.kernels.driver import Table
from hybridml.kernels.recognise import NO_ANSWER, Form, Rows

ADD_ONE = """
from hybridml.kernels.pointer import DTYPE_in, DTYPE_out
def add_one(args, begin, end):
    x0 = DTYPE_in(args, 0, 0)
    o0 = DTYPE_out(args, 1, 1)
    for i in range(begin, end):
        o0[i] = x0[i] + 1
"""

F64 = np.dtype("float64")


class Held:
    """Stands for a tensor: an object with an array in a slot, and another slot."""

    __slots__ = ("array", "name")

    def __init__(self, array):
        self.array, self.name = array, None


SLOT = objects.slot_of(Held, (h := Held(np.zeros(1))), h.array)
FORM = Form(Held, SLOT, objects.slot_of(Held, h, None))


def program(n=3, dtype=F64, chunks=1):
    table = Table()
    block = table.block([0, 0])
    table.patch(0, block, 0)
    table.patch(1, block, 1)
    table.run(jit.load(ADD_ONE.replace("DTYPE", dtype.name), "add_one").address, block, n, chunks)
    return table.finish()


def rows():
    return Rows(FORM)


def finished(r, shape=(3,), dtype=F64, chunks=1):
    """The call of a program that adds one to array 0."""
    r.result(dtype, shape, 1)
    return r.finish(program(int(np.prod(shape)), dtype, chunks), single=True)


def run(call, args):
    """The result, or None where the arguments do not fit."""
    answer = call(args)
    assert answer is NO_ANSWER or answer.name is None
    return None if answer is NO_ANSWER else answer.array.tolist()


class Pair(tuple):
    pass


X = np.array([1.0, 2.0, 3.0])


def of_arrays(*nest):
    """A call whose one array is in a nest of arguments."""
    r = rows()
    first = r.items(nest, r.root)

    def walk(x, place):
        if isinstance(x, (list, tuple, dict)):
            inner = r.items(x, place)
            for i, y in enumerate(x.values() if isinstance(x, dict) else x):
                walk(y, inner + i)
        elif x is not None:
            r.array(place, F64, (3,), 0)

    for i, x in enumerate(nest):
        walk(x, first + i)
    return finished(r)


@pytest.mark.parametrize(
    "given",
    [X.astype("float32"), X.astype(">f8"), X[:2], X.reshape(1, 3), np.arange(6.0)[::2], np.zeros(()), np.zeros((0, 3)), X.view(np.matrix).T,
     X.view(np.recarray), Held(X[:2]), Held([1, 2, 3]), [1.0, 2.0, 3.0], None, 1.0, object()],
    ids=lambda x: f"{type(x).__name__}{getattr(x, 'shape', '')}",
)  # fmt: skip
def test_an_array_of_another_kind_does_not_fit(given):
    call = of_arrays(X)
    assert run(call, (given,)) is None
    assert run(call, (X,)) == run(call, (Held(X),)) == [2, 3, 4]


@pytest.mark.parametrize(
    "nest, others",
    [
        ((X,), [(), (X, X), ([X],)]),
        (([X, None],), [((X, None),), ([X],), ([X, None, None],), (X,), (None,)]),
        (((None, X),), [([None, X],), (Pair([None, X]),), ((X,),)]),
        (
            ({"a": None, "b": X},),
            [({"b": X, "a": None},), ({"a": None},), ({"a": None, "c": X},), ([X],), ({},)],
        ),
        (({"n": [({"m": X},)]},), [({"n": [({"k": X},)]},), ({"n": [{"m": X}]},), ({"n": []},)]),
    ],
)
def test_a_nest_fits_its_own_form_only(nest, others):
    call = of_arrays(*nest)
    assert run(call, nest) == [2, 3, 4]
    for other in others:
        assert run(call, other) is None
    assert run(call, nest) == [2, 3, 4]


def constant(describe):
    r = rows()
    first = r.items((None, None), r.root)
    describe(r, first)
    r.array(first + 1, F64, (3,), 0)
    call = finished(r)
    return lambda x: run(call, (x, X)) is not None


def test_constants_fit_by_identity():
    a, b = "".join(["a", "bc"]), "".join(["a", "bc"])
    fits = constant(lambda r, place: r.the(a, place))
    assert fits(a) and not fits(b) and not fits(None)
    assert constant(lambda r, place: r.the(True, place))(True)
    assert not constant(lambda r, place: r.the(True, place))(1)


@pytest.mark.parametrize("value", [0, -7, 2**62, -(2**63)])
def test_ints_fit_by_value(value):
    fits = constant(lambda r, place: r.equals(value, place))
    assert fits(int(str(value))) and not fits(value + 1)
    assert not fits(float(value)) and not fits(value + 2**64) and not fits(value == 1)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, float("inf"), float("nan")])
def test_floats_fit_to_the_last_bit(value):
    fits = constant(lambda r, place: r.equals(value, place))
    assert fits(float(str(value))) and not fits(np.float64(value)) and not fits(2.5)
    assert not fits(-value if value == value else 0.0)


def test_an_object_known_weakly_is_not_taken_for_one_in_its_place():
    class Thing:
        pass

    thing = Thing()
    ref = weakref.ref(thing)
    fits = constant(lambda r, place: r.alive(ref, place))
    assert fits(thing) and not fits(Thing())
    del thing
    gc.collect()
    assert not any(fits(Thing()) for _ in range(100)) and not fits(None)


def test_numbers_of_any_value_go_into_arrays_of_their_own():
    for cls, dtype, values, others in (
        (float, F64, [1.5, -0.0, float("inf")], [1, True, "1"]),
        (int, np.dtype("int64"), [3, -(2**63)], [2.0, True, 2**63]),
    ):
        r = rows()
        first = r.items((0,), r.root)
        r.number(cls, first, 0)
        call = finished(r, (), dtype)
        for value in values:
            assert run(call, (value,)) == value + 1
        for other in others:
            assert run(call, (other,)) is None


@pytest.mark.parametrize("is_written", [True, False])
def test_state_that_somebody_holds_is_not_written(is_written):
    state = Held(np.arange(3.0))
    r = rows()
    r.items((), r.root)
    r.state(state, SLOT, 0, is_written)
    call = finished(r)
    assert run(call, ()) == [1, 2, 3]
    holder = state.array
    assert (run(call, ()) is None) is is_written
    del holder
    state.array = np.arange(3.0) + 1  # another array is found in its turn
    assert run(call, ()) == [2, 3, 4]
    state.array = state.array.view(np.recarray)
    assert run(call, ()) is None


def test_what_a_call_holds_it_gives_back():
    call, x = of_arrays([X, None]), Held(X.copy())
    other = [x, None, None]

    def counts():
        return [sys.getrefcount(o) for o in (x, x.array, X, NO_ANSWER, call)]

    shared = (None, Held, np.ndarray, F64)  # others hold them, and let go of them now and then
    before, of_shared = counts(), list(map(sys.getrefcount, shared))
    for _ in range(10_000):
        answer = call(([x, None],))
        references = sys.getrefcount(answer), sys.getrefcount(answer.array)
        assert references == (2, 2)
        assert call((other,)) is call(([x],)) is NO_ANSWER
    del answer
    assert counts() == before
    assert all(abs(sys.getrefcount(o) - n) < 1000 for o, n in zip(shared, of_shared, strict=True))


@pytest.mark.parametrize("shape, dtype", [((), "float64"), ((0, 3), "int8"), ((3,), "bool"), ((4, 5, 6), "float64"), ((40_000,), "float32"),
                                          ((150, 120), "int64"), ((1, 1 << 20), "uint8")])  # fmt: skip
def test_results_are_made_as_numpy_makes_them(shape, dtype):
    r = rows()
    r.items((), r.root)
    r.result(np.dtype(dtype), shape, 0)
    call = r.finish(Table().finish(), single=True)
    answers = [call(()) for _ in range(20)]
    for a in (x.array for x in answers):
        like = buffers.empty(shape, np.dtype(dtype))
        assert (a.shape, a.dtype, a.strides, str(a.flags)) == (
            like.shape,
            like.dtype,
            like.strides,
            str(like.flags),
        )
        assert type(a) is np.ndarray and type(a.base) is type(like.base)
        if like.nbytes >= buffers.LARGE:
            assert a.ctypes.data % buffers.LINE == 0 and a.base.ctypes.data <= a.ctypes.data
            assert a.ctypes.data + a.nbytes <= a.base.ctypes.data + a.base.nbytes
        a.fill(1)
    if like.nbytes >= buffers.LARGE:  # spread over the pages
        assert len({x.array.ctypes.data % buffers.PAGE for x in answers}) > 3
    memory = answers[0].array.base
    if memory is not None:
        count = sys.getrefcount(memory)
        del answers[0]
        a = None
        assert sys.getrefcount(memory) == count - 1


def test_several_results_come_in_a_tuple():
    for n in (0, 1, 3):
        r = rows()
        r.items((), r.root)
        for i in range(n):
            r.result(F64, (i,), i)
        call = r.finish(Table().finish(), single=False)
        answer = call(())
        assert type(answer) is tuple and [x.array.shape for x in answer] == [(i,) for i in range(n)]
        assert [sys.getrefcount(x) for x in answer] == [3] * n
        assert r.hits[0] == 1


def test_no_memory_is_an_error_and_nothing_else():
    for shape in ((2**58,), (3, 2**56)):
        r = rows()
        first = r.items((X,), r.root)
        r.array(first, F64, (3,), 0)
        r.result(F64, shape, 1)
        call = r.finish(program(), single=False)
        before, of_dtype = (sys.getrefcount(X), sys.getrefcount(NO_ANSWER)), sys.getrefcount(F64)
        for _ in range(1000):
            with pytest.raises(MemoryError, match="nable to allocate"):
                call((X,))
        assert (sys.getrefcount(X), sys.getrefcount(NO_ANSWER)) == before
        assert abs(sys.getrefcount(F64) - of_dtype) < 500  # others hold it, too
        assert r.hits[0] == 0


def test_a_program_without_its_workers_gets_no_answer(monkeypatch):
    """Python code starts them."""
    r = rows()
    first = r.items((X,), r.root)
    r.array(first, F64, (3,), 0)
    call = finished(r, chunks=3)
    workers = driver.layout.WORKERS // 8
    count = pool._block[workers]
    try:
        pool._block[workers] = 0
        assert run(call, (X,)) is None
        pool._block[workers] = count
        assert run(call, (X,)) == ([2, 3, 4] if count else None)
    finally:
        pool._block[workers] = count


def test_a_program_that_somebody_is_in_gives_no_answer():
    """Python code waits for its end."""
    r, p = rows(), program()
    first = r.items((X,), r.root)
    r.array(first, F64, (3,), 0)
    r.result(F64, (3,), 1)
    call = r.finish(p, single=True)
    busy = driver.layout.BUSY // 8
    p._header[busy] = os.getpid()
    assert run(call, (X,)) is None and r.hits[0] == 0
    p._header[busy] = os.getpid() + 1  # left by the process that this one was forked from
    assert run(call, (X,)) == [2, 3, 4] and r.hits[0] == 1


def test_calls_that_were_answered_are_counted():
    r = rows()
    first = r.items((X,), r.root)
    r.array(first, F64, (3,), 0)
    call = finished(r)
    for _ in range(5):
        call((X,)), call((X[:2],))
    assert r.hits[0] == 5


def test_garbage_may_be_collected_at_any_call():
    """What a call makes may start a collection, which may call the function again."""
    call, seen = of_arrays(X), []

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            seen.append(run(call, (X,)))

    before = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for _ in range(300):
            Cycle()
            assert run(call, (X,)) == [2, 3, 4]
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(seen) == 300 and all(x == [2, 3, 4] for x in seen)


def test_rows_live_as_long_as_the_function():
    call = of_arrays({"some": [X], "key": None})
    gc.collect()
    junk = [np.zeros(8, np.int64) for _ in range(1000)]
    assert run(call, ({"some": [X], "key": None},)) == [2, 3, 4] and len(junk) == 1000
