"""Variables: assignment in place where nobody holds the value, copy on write where somebody does."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import ShapeError


def address_of(v):
    a = v._array
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


def test_a_value_read_earlier_does_not_change():
    v = hml.Variable([1.0, 2.0])
    old, row = v.value(), v[0]
    v.assign([5.0, 6.0])
    assert (old.tolist(), float(row), v.numpy().tolist()) == ([1, 2], 1.0, [5, 6])


def test_views_of_a_value_hold_it():
    v = hml.Variable(np.zeros((2, 3)))
    view = v.value().T
    assert v.is_held()
    v.assign(np.ones((2, 3)))
    assert view.numpy().sum() == 0
    del view
    assert not v.is_held()


def test_assignment_is_in_place_where_nobody_looks():
    v = hml.Variable(np.zeros(1000))
    address = address_of(v)
    for _ in range(3):
        v.assign(np.ones(1000))
        v.assign_add(1.0)
    assert address_of(v) == address
    held = v.value()
    v.assign_sub(1.0)
    assert address_of(v) != address
    assert held.numpy()[0] == 2.0


def test_the_initial_value_is_copied():
    a = np.ones(2)
    v = hml.Variable(a)
    a[0] = 9
    assert v.numpy().tolist() == [1, 1]
    w = hml.Variable(v)
    v.assign([3.0, 3.0])
    assert w.numpy().tolist() == [1, 1]
    assert hml.Variable(lambda: hml.ones(2)).shape == (2,)
    v.numpy()[0] = 100
    assert v.numpy().tolist() == [3, 3]


def test_assignments_read_the_new_value_and_return_the_variable():
    v = hml.Variable(1.0, name="w")
    assert v.assign(2.0).assign_add(3.0).assign_sub(1.0) is v
    assert float(v) == 4.0
    assert repr(v) == 'Variable("w", shape=(), dtype=float32)'


def test_shape_and_dtype_stay():
    v = hml.Variable([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"\(3,\).*equal"):
        v.assign([1.0, 2.0, 3.0])
    v.assign(np.array([1.5, 2.5]))
    assert v.dtype == np.float32
    assert hml.Variable([1, 2], dtype=hml.float16).dtype == np.float16


def test_only_floats_are_trainable():
    assert hml.Variable(1.0).trainable
    assert not hml.Variable(1).trainable
    assert not hml.Variable(1.0, trainable=False).trainable


def test_operators_and_methods():
    v = hml.Variable([1.0, 2.0])
    assert (v * 2 + v).tolist() == [3, 6]
    assert (2 - v).tolist() == [1, 0]
    assert (-v).tolist() == [-1, -2]
    assert float(v.sum()) == 3.0
    assert hml.exp(v).shape == np.asarray(v).shape == (2,)
    assert len(v) == 2 and bool(hml.Variable(1.0)) and int(hml.Variable(3)) == 3
    x = v
    x = x + 1
    assert v.numpy().tolist() == [1, 2]


def test_gradient_is_of_the_value_that_was_read():
    v = hml.Variable(3.0)
    with hml.GradientTape() as tape:
        y = v * v
    v.assign(100.0)
    assert float(tape.gradient(y, v)) == 6.0
