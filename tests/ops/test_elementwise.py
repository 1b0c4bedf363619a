"""Eager forms that do something else for many elements than for few."""

from __future__ import annotations

import numpy as np
import pytest

import hybridml as hml
from hybridml.ops import elementwise

AWKWARD = np.array([np.nan, -np.inf, np.inf, -0.0, 0.0, 1e-45, 3e38])


def _many(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 50
    if dtype.startswith("f"):
        x.flat[::5] = rng.choice(AWKWARD, x.flat[::5].size)
    with np.errstate(over="ignore"):
        return x.astype(dtype)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool"])
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda a: a, id="contiguous"),
        pytest.param(lambda a: a.T, id="transposed"),
        pytest.param(lambda a: a[::2, ::-1], id="strided"),
        pytest.param(lambda a: a[:, :1], id="broadcast"),
        pytest.param(lambda a: a[3, 4], id="0-d"),
    ],
)
def test_where_of_many_elements_is_numpys(dtype: str, view: object) -> None:
    assert callable(view)
    condition = np.random.default_rng(2).normal(size=(90, 90)) > 0
    condition = np.broadcast_to(view(condition), view(condition).shape)
    x, y = view(_many(dtype, (90, 90), 0)), view(_many(dtype, (90, 90), 1))
    if np.ndim(condition) < 2 or condition.shape[1] == 1:
        condition = np.random.default_rng(3).normal(size=(90, 90)) > 0  # only the operands are stretched
    before = x.tobytes(), y.tobytes(), condition.tobytes()
    got = hml.where(condition, x, y).numpy()
    expected = np.where(condition, x, y)
    assert got.dtype == expected.dtype and got.tobytes() == expected.tobytes()
    assert before == (x.tobytes(), y.tobytes(), condition.tobytes())


def test_where_with_a_scalar_keeps_the_arrays_dtype() -> None:
    x = _many("f4", (elementwise._MANY,), 0)
    got = hml.where(x > 0, x, 0).numpy()
    assert got.dtype == np.float32 and got.tobytes() == np.where(x > 0, x, np.float32(0)).tobytes()


def test_sigmoid_keeps_its_tail() -> None:
    """Small results are precise relative to themselves, and nothing overflows."""
    x = np.array([-np.inf, -100, -80, -20, -1, 0, 1, 20, 100, np.inf, np.nan], np.float32)
    with np.errstate(all="raise", under="ignore"):
        got = hml.sigmoid(x[:-1]).numpy()
    expected = [0.0, *(np.exp(v) / (1 + np.exp(v)) for v in x[1:5].astype(np.float64)), 0.5]
    np.testing.assert_allclose(got[:6], np.array(expected, np.float32), rtol=4e-7)
    np.testing.assert_allclose(got[6:], 1 / (1 + np.exp(-x[6:-1].astype(np.float64))), rtol=4e-7)
    assert np.isnan(hml.sigmoid(x[-1:]).numpy()).all()
