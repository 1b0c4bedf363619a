"""Promotion: tensors of two dtypes, weak Python scalars, and rows that ask for floats or numbers."""

import itertools

import numpy as np
import pytest

import hybridml as hml
from hybridml import dtypes
from hybridml.errors import DTypeError

NUMBERS = [d for d in dtypes.ALL if d != dtypes.bool_]


def expected(a, b):
    if a.kind == "f" and b.kind == "f":
        return max(a, b, key=lambda d: d.itemsize)
    if "f" in (a.kind, b.kind):
        return a if a.kind == "f" else b
    return np.promote_types(a, b)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(dtypes.ALL, repeat=2)), ids=str)
def test_two_tensors(a, b):
    x, y = hml.ones(2, dtype=a), hml.ones(2, dtype=b)
    if {a.kind, b.kind} == {"i", "u"} and dtypes.uint64 in (a, b):
        with pytest.raises(DTypeError, match="no integer type holds both"):
            x + y
        return
    assert (x + y).dtype == expected(a, b)
    assert hml.where([True, False], x, y).dtype == expected(a, b)
    assert hml.concat([x, y]).dtype == expected(a, b)


@pytest.mark.parametrize("d", dtypes.ALL, ids=str)
def test_scalars_are_weak(d):
    x = hml.ones(2, dtype=d)
    assert (x * True).dtype == d
    assert (x * 2).dtype == (np.int64 if d.kind == "b" else d)
    assert (2.5 * x).dtype == (d if d.kind == "f" else np.float32)
    assert hml.where([True, False], x, 1.0).dtype == (d if d.kind == "f" else np.float32)


@pytest.mark.parametrize("d", dtypes.ALL, ids=str)
def test_functions_of_floats_and_of_numbers(d):
    x = hml.ones(2, dtype=d)
    floating = d if d.kind == "f" else np.float32
    number = np.int64 if d.kind == "b" else d
    assert hml.exp(x).dtype == (x / x).dtype == hml.mean(x).dtype == hml.logsumexp(x).dtype == floating
    assert (x - x).dtype == (x // x).dtype == abs(x).dtype == (x**x).dtype == number
    assert (-x).dtype == number
    assert hml.floor(x).dtype == d
    total = np.int64 if d.kind in "bi" else np.uint64 if d.kind == "u" else d
    assert hml.sum(x).dtype == hml.prod(x).dtype == total
    assert hml.max(x).dtype == hml.sort(x).dtype == d
    assert hml.sum(x, dtype=hml.float64).dtype == np.float64


@pytest.mark.parametrize("d", NUMBERS, ids=str)
def test_scalars_that_do_not_fit(d):
    if d.kind == "f":
        assert float((hml.ones((), dtype=d) * 1e300).astype(hml.float64)) == (
            1e300 if d.itemsize == 8 else np.inf
        )
        return
    with pytest.raises(DTypeError, match=rf"add\({d.name}\[2\], \d+\)"):
        hml.ones(2, dtype=d) + (int(np.iinfo(d).max) + 1)


def test_names_and_hints():
    assert hml.zeros(1, dtype="int8").dtype is hml.int8
    assert hml.zeros(1, dtype=np.float64).dtype is hml.float64
    assert [dtypes.as_dtype(t) for t in (float, int, bool)] == [np.float32, np.int64, np.bool_]
    with pytest.raises(DTypeError, match="Did you mean 'float64'"):
        hml.zeros(1, dtype="flot64")
    with pytest.raises(DTypeError, match="unknown dtype"):
        hml.zeros(1, dtype=complex)
    with pytest.raises(DTypeError, match="at least one"):
        dtypes.promote([])


def test_big_endian_arrays_come_in():
    x = hml.asarray(np.array([1.0, 2.0], ">f4"))
    assert x.dtype is hml.float32
    assert (x + hml.asarray([1.0, 1.0])).tolist() == [2, 3]


@pytest.mark.parametrize("d", [hml.float16, hml.float32, hml.float64], ids=str)
def test_gradients_have_the_dtype_of_their_source(d):
    x, w = hml.ones(3, dtype=d), hml.ones(3, dtype=hml.float32)
    gx, gw = hml.grad(lambda x, w: (hml.exp(x) * w * 2.5).sum(), argnums=(0, 1))(x, w)
    assert (gx.dtype, gw.dtype) == (d, np.float32)
