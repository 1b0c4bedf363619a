"""How close two ways to compute one thing must be: one table, by dtype."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = {"float16": 2e-3, "float32": 2e-6, "float64": 2e-14}
"""Relative error of one op: a few units in the last place, sums in another order included."""


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
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want, err_msg=label)
        return
    tolerance = ops * TOLERANCE[got.dtype.name]
    finite = np.abs(want[np.isfinite(want)])
    size = float(finite.max(initial=0)) if scale is None else scale
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance * size, equal_nan=True, err_msg=label
        )
