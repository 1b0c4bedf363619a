"""Rows that recognise a call's arguments: each kind fits what it describes and nothing else."""

import gc
import sys
import weakref

import numpy as np
import pytest

from hybridml.kernels import jit, layout, objects
from hybridml.kernels.driver import Table
from hybridml.kernels.recognise import Rows

ADD_ONE = """
from hybridml.kernels.pointer import float64_in, float64_out
def add_one(args, begin, end):
    x0 = float64_in(args, 0, 0)
    o0 = float64_out(args, 1, 1)
    for i in range(begin, end):
        o0[i] = x0[i] + 1.0
"""

F64 = np.dtype("float64")


class Held:
    """Stands for a tensor: an object with an array in a slot."""

    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array


SLOT = objects.slot_of(Held, (h := Held(np.zeros(1))), h.array)


def program(n=3):
    table = Table()
    block = table.block([0, 0])
    table.patch(0, block, 0)
    table.patch(1, block, 1)
    table.run(jit.load(ADD_ONE, "add_one").address, block, n)
    return table.finish()


def rows():
    return Rows(Held, SLOT)


def run(call, args, first=None):
    """The result, or None where the arguments do not fit."""
    out = np.zeros(3)
    code = call([first, out], args)
    assert code in (0, layout.MISFIT)
    return None if code else out.tolist()


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
    return r.finish(program())


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
    call = r.finish(program())
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


def test_numbers_of_any_value_go_into_their_arrays():
    for cls, values, others in (
        (float, [1.5, -0.0], [1, True, "1"]),
        (int, [3, -(2**63)], [2.0, True, 2**63]),
    ):
        r = rows()
        first = r.items((0,), r.root)
        r.number(cls, first, 0)
        call = r.finish(program(1))
        for value in values:
            waiting = np.zeros((), F64 if cls is float else np.int64)
            assert run(call, (value,), waiting) is not None and waiting[()] == value
        for other in others:
            assert run(call, (other,), np.zeros(())) is None


@pytest.mark.parametrize("is_written", [True, False])
def test_state_that_somebody_holds_is_not_written(is_written):
    state = Held(np.arange(3.0))
    r = rows()
    r.items((), r.root)
    r.state(state, SLOT, 0, is_written)
    call = r.finish(program())
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
    before = sys.getrefcount(x), sys.getrefcount(x.array), sys.getrefcount(X)
    nothing = sys.getrefcount(None)
    for _ in range(10_000):
        arrays = [None, np.zeros(3)]
        assert call(arrays, ([x, None],)) == 0 and arrays[0] is x.array
        call(arrays, (other,))
        call([None, X], ([x],))
    del arrays
    assert (sys.getrefcount(x), sys.getrefcount(x.array), sys.getrefcount(X)) == before
    assert abs(sys.getrefcount(None) - nothing) < 1000


def test_rows_live_as_long_as_the_function():
    call = of_arrays({"some": [X], "key": None})
    gc.collect()
    junk = [np.zeros(8, np.int64) for _ in range(1000)]
    assert run(call, ({"some": [X], "key": None},)) == [2, 3, 4] and len(junk) == 1000
