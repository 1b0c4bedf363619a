"""How close two ways to compute one thing must be: one table, by dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes

TOLERANCE = {"bfloat16": 1.6e-2, "float16": 2e-3, "float32": 2e-6, "float64": 2e-14}
"""Relative error of one op: a few units in the last place, sums in another order included."""


def widened(x: Any) -> Any:
    """An array that NumPy's own functions can compare: bfloat16 as float32, all else as it is.

    >>> widened(np.ones(2, dtypes.bfloat16)).dtype
    dtype('float32')
    """
    return x.astype(np.float32) if getattr(x, "dtype", None) == dtypes.bfloat16 else x


def assert_close(
    got: Any, want: Any, *, ops: float = 1.0, scale: float | None = None, label: str = ""
) -> None:
    """Raise AssertionError unless shape, dtype, NaNs and infinities are equal and values are near.

    Integers and bools must be equal. Floats may differ by `ops` times the table's entry, relative to the value itself or to
    `scale`, the size of the numbers they were computed from (default: the largest finite element).

    >>> assert_close(np.float32([1, np.nan]), np.float32([1.000001, np.nan]))
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{label}: shape {got.shape}, expected {want.shape}"
    assert got.dtype == want.dtype, f"{label}: dtype {got.dtype}, expected {want.dtype}"
    if not dtypes.is_float(got.dtype):
        np.testing.assert_array_equal(got, want, err_msg=label)
        return
    name, got, want = got.dtype.name, widened(got), widened(want)
    tolerance = ops * TOLERANCE[name]
    finite = np.abs(want[np.isfinite(want)])
    size = float(finite.max(initial=0)) if scale is None else scale
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance * size, equal_nan=True, err_msg=label
        )
