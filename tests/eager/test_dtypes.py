"""Promotion: tensors of two dtypes, weak Python scalars, and rows that ask for floats or numbers."""

import itertools

import numpy as np
import pytest

import hybridml as hml
from hybridml import dtypes
from hybridml.errors import DTypeError

NUMBERS = [d for d in dtypes.ALL if d != dtypes.bool_]


def expected(a, b):
    if {a, b} == {hml.float16, hml.bfloat16}:
        return hml.float32
    if dtypes.is_float(a) and dtypes.is_float(b):
        return max(a, b, key=lambda d: d.itemsize)
    if dtypes.is_float(a) or dtypes.is_float(b):
        return a if dtypes.is_float(a) else b
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
    assert (2.5 * x).dtype == (d if dtypes.is_float(d) else np.float32)
    assert hml.where([True, False], x, 1.0).dtype == (d if dtypes.is_float(d) else np.float32)


@pytest.mark.parametrize("d", dtypes.ALL, ids=str)
def test_functions_of_floats_and_of_numbers(d):
    x = hml.ones(2, dtype=d)
    floating = d if dtypes.is_float(d) else np.float32
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
    if dtypes.is_float(d):
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


@pytest.mark.parametrize("d", dtypes.FLOATING, ids=str)
def test_gradients_have_the_dtype_of_their_source(d):
    x, w = hml.ones(3, dtype=d), hml.ones(3, dtype=hml.float32)
    gx, gw = hml.grad(lambda x, w: (hml.exp(x) * w * 2.5).sum(), argnums=(0, 1))(x, w)
    assert (gx.dtype, gw.dtype) == (d, np.float32)


def test_questions_about_bfloat16():
    assert dtypes.as_dtype("bfloat16") is hml.bfloat16
    assert hml.isdtype(hml.bfloat16, "real floating") and hml.isdtype(hml.bfloat16, ("bool", "numeric"))
    assert hml.isdtype(hml.bfloat16, hml.bfloat16) and not hml.isdtype(
        hml.bfloat16, ("integral", hml.float16)
    )
    assert not hml.isdtype(hml.float32, hml.bfloat16)
    limits = hml.finfo(hml.bfloat16)
    assert (float(limits.eps), float(limits.smallest_normal), limits.bits) == (2.0**-7, 2.0**-126, 16)
    assert float(limits.max) == -float(limits.min) == 255 * 2.0**120
    assert hml.result_type(hml.bfloat16, 2.5) is hml.bfloat16
    assert hml.can_cast(hml.bfloat16, hml.float32) and not hml.can_cast(hml.bfloat16, hml.float16)
    with pytest.raises(ValueError):
        hml.iinfo(hml.bfloat16)


@pytest.mark.parametrize("d", [d for d in dtypes.ALL if d != hml.bfloat16], ids=str)
def test_bfloat16_is_cast_both_ways(d):
    x = hml.asarray([0.0, 1.0, 3.0, 96.0]).astype(d)
    there = x.astype(hml.bfloat16)
    assert there.dtype is hml.bfloat16 and there.tolist() == [float(v) for v in x.tolist()]
    assert there.astype(d).dtype is d and there.astype(d).tolist() == x.tolist()
    if dtypes.is_float(d):
        beyond = hml.asarray([np.inf, -np.inf, np.nan, 1 + 2.0**-8, 1 + 3 * 2.0**-8]).astype(d)
        np.testing.assert_array_equal(
            beyond.astype(hml.bfloat16).astype(hml.float64).numpy(),
            [np.inf, -np.inf, np.nan, 1.0, 1 + 2.0**-6],
        )


def test_bfloat16_comes_from_numpy_and_goes_there():
    given = np.arange(6).astype(hml.bfloat16).reshape(2, 3)
    x = hml.asarray(given[:, ::2])
    assert x.dtype is hml.bfloat16 and x.numpy().dtype == hml.bfloat16 and x.tolist() == [[0, 2], [3, 5]]
    assert repr(x) == "Tensor([[0., 2.],\n        [3., 5.]], shape=(2, 2), dtype=bfloat16)"
    assert (x[0, 1].item(), float(x[1, 1]), f"{x[1, 0]:.2f}") == (2.0, 5.0, "3.00")
