"""Half precision: sums in single, one rounding a step, and Python scalars that give way."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import dtypes
from hybridml.ops.halves import in_single
from hybridml.ops.registry import OPS
from hybridml.testing import widened

halves = pytest.mark.parametrize("d", dtypes.HALVES, ids=str)


def every_number(d):
    return np.arange(2**16, dtype=np.uint16).view(d)


@pytest.mark.parametrize(
    "op", [op for op in OPS.values() if op.ufunc is not None and op.ufunc.nin == 1], ids=repr
)
def test_a_function_of_every_bfloat16_is_that_of_the_float32_rounded(op):
    x = every_number(hml.bfloat16)
    wide = x.astype(np.float32)
    with np.errstate(all="ignore"):
        try:
            want = op.ufunc(wide)
        except TypeError:
            pytest.skip("not of floats")
        got = op.eager(np, x)
        want = want.astype(hml.bfloat16) if want.dtype == np.float32 else want
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(widened(got), widened(want))


@halves
def test_sums_and_products_are_taken_in_single_and_rounded_once(d):
    ones = hml.ones((5000, 3), dtype=d)
    for x, axis in ((ones, 0), (ones.T, 1)):
        assert hml.sum(x, axis=axis).astype(hml.float32).tolist() == [float(np.asarray(5000.0).astype(d))] * 3
    assert hml.cumsum(ones[:, 0])[-1].item() == float(np.asarray(5000.0).astype(d))
    assert hml.matmul(ones.T, ones)[0, 0].item() == float(np.asarray(5000.0).astype(d))
    steps = hml.full((64,), 1.01, dtype=d)
    assert hml.prod(steps).item() == float(np.asarray(np.float32(steps[0].item()) ** 64).astype(d))
    rows = hml.scatter_add(hml.zeros((1,), dtype=d), np.zeros(5000, np.int64), ones[:, 0])
    assert rows.item() == float(np.asarray(5000.0).astype(d))


@halves
def test_a_python_scalar_is_rounded_to_the_dtype_first(d):
    x = hml.asarray([1.0, 3.0], dtype=d)
    tenth = hml.asarray(0.1, dtype=d)
    assert (x * 0.1).tolist() == (x * tenth).tolist()
    assert (0.1 - x).tolist() == (tenth - x).tolist()
    assert hml.where([True, False], x, 0.1).tolist() == [1.0, tenth.item()]
    assert (x * 10**30).dtype == d


def test_operations_that_are_not_of_halves_are_left_alone():
    seen = []
    f = in_single(lambda xp, *xs: seen.append([getattr(x, "dtype", x) for x in xs]) or xs[0])
    f(np, np.ones(2, np.int16), np.ones(2, np.float32), 0.1)
    assert seen == [[np.int16, np.float32, 0.1]]


@halves
def test_composites_give_the_dtype_they_take(d):
    x = hml.asarray([[300.0, 400.0, 500.0]], dtype=d)
    for f in (
        hml.mean,
        hml.var,
        hml.std,
        hml.nn.layer_norm,
        hml.nn.rms_norm,
        hml.nn.softmax,
        hml.nn.gelu,
        hml.nn.standardize,
    ):
        out = f(x)
        assert out.dtype == d and bool(hml.isfinite(out.astype(hml.float32)).all()), f.__name__


@halves
def test_sorting_puts_nan_last(d):
    x = hml.asarray([2.0, np.nan, -np.inf, 1.0], dtype=d)
    assert hml.argsort(x).tolist() == [2, 3, 0, 1]
    assert str(hml.sort(x).tolist()) == "[-inf, 1.0, 2.0, nan]"
    assert hml.top_k(x, 2)[1].tolist() == [1, 0]
