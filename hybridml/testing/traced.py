"""Eager against traced: the same function, the same arguments, twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import pytree
from hybridml.eager.creation import asarray
from hybridml.eager.tensor import Tensor
from hybridml.trace.function import function

TOLERANCE = {"float16": 2e-3, "float32": 4e-6, "float64": 1e-12}


def check_traced(
    f: Callable[..., Any], args: Sequence[Any], *, rtol: float | None = None, calls: int = 2
) -> Any:
    """Run `f` eagerly, then traced `calls` times, and compare the results; returns the eager one.

    f: takes `args` (nested structures; arrays become tensors), returns a structure of tensors. Shapes, dtypes and integers must
    be equal, floats close: relative to each value, and to the largest one (up to 100) for what cancels. Raises AssertionError.

    >>> import hybridml as hml
    >>> check_traced(lambda x: hml.exp(x) + 1, (hml.asarray([0.0]),)).tolist()
    [2.0]
    """
    args = pytree.map(lambda x: asarray(x) if isinstance(x, np.ndarray) else x, tuple(args))
    want = f(*args)
    traced = function(f)
    for _ in range(calls):
        assert_close(traced(*args), want, rtol)
    return want


def assert_close(got: Any, want: Any, rtol: float | None = None) -> None:
    """Structures of tensors are equal in structure, shapes and dtypes, and close in values."""
    got_leaves, got_structure = pytree.flatten(got)
    want_leaves, want_structure = pytree.flatten(want)
    assert got_structure == want_structure, f"expected the structure {want_structure}, got {got_structure}"
    for g, w in zip(got_leaves, want_leaves, strict=True):
        if not isinstance(w, Tensor):
            assert g == w
            continue
        assert (g.shape, g.dtype) == (w.shape, w.dtype), f"expected {w.spec}, got {g.spec}"
        a, b = g.numpy(), w.numpy()
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            continue
        tolerance = TOLERANCE[b.dtype.name] if rtol is None else rtol
        largest = np.abs(b[np.isfinite(b)]).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * min(float(largest), 100.0))
