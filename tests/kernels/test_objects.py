"""Python's objects as native code reads them, and native code as a function of Python."""

import ctypes
import sys

import numpy as np
import pytest

from hybridml.kernels import jit, layout, objects

ECHO = """
from hybridml.kernels.layout import ARRAY_DATA
from hybridml.kernels.native import call_word_word, load
def echo(owner, arguments, count):
    words = load(owner + ARRAY_DATA)
    return call_word_word(load(words), load(words + 8) + count)
"""


def test_this_interpreter_is_as_native_code_expects():
    assert objects.known()


@pytest.mark.parametrize(
    "word", ["LIST_ITEMS", "DICT_LENGTH", "FLOAT_VALUE", "ARRAY_DIMS", "ARRAY_FLAGS", "WEAKREF_OBJECT"]
)
def test_a_layout_that_does_not_hold_is_noticed(monkeypatch, word):
    monkeypatch.setattr(
        layout, word, getattr(layout, word) + 8 if word != "ARRAY_FLAGS" else layout.ARRAY_NDIM
    )
    assert not objects.known.__wrapped__()


def test_a_numpy_that_keeps_its_functions_elsewhere_is_noticed(monkeypatch):
    def missing(number):
        raise AttributeError("_ARRAY_API")

    monkeypatch.setattr(objects, "numpy_function", missing)
    assert not objects.known.__wrapped__()


def test_another_interpreter_is_not_trusted(monkeypatch):
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    assert not objects.known.__wrapped__()


def test_native_code_is_a_built_in_function_of_its_owner():
    from_int = objects.function_address(ctypes.pythonapi.PyLong_FromLongLong)
    kernel = jit.load(ECHO, "echo", "int64(int64, int64, int64)")
    for base in (100, 2**40, -5):
        owner = np.array([from_int, base], np.int64)
        echo = objects.builtin(kernel.address, "echo", owner)
        assert type(echo) is type(len) and echo.__name__ == "echo"
        del owner  # the function holds it
        assert [echo(), echo(None, None)] == [base, base + 2]


def test_a_slot_is_found_where_it_is():
    class Thing:
        __slots__ = ("first", "second")

    thing = Thing()
    thing.first, thing.second = object(), object()
    first, second = (objects.slot_of(Thing, thing, x) for x in (thing.first, thing.second))
    assert first is not None and second is not None
    assert ctypes.c_int64.from_address(id(thing) + second).value == id(thing.second)
    assert objects.slot_of(Thing, thing, object()) is None
