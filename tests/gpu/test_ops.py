"""Every row of the registry on a device whose arrays are not NumPy's: no use of NumPy on them goes unnoticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_cupy import FakeArray
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import dtypes, pytree
from hybridml.eager.tensor import Tensor, wrap
from hybridml.errors import DTypeError
from hybridml.ops.registry import OPS, Op
from hybridml.testing import public_functions, recast, samples_of, widened

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None]
rows = pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)


def on_device(args: Any) -> Any:
    return pytree.map(
        lambda x: wrap(FakeArray(np.array(x))) if isinstance(x, (np.ndarray, np.generic)) else x, args
    )


def on_cpu(args: Any) -> Any:
    return pytree.map(lambda x: wrap(np.array(x)) if isinstance(x, (np.ndarray, np.generic)) else x, args)


def assert_equal(op: Op, got: np.ndarray, expected: np.ndarray, label: str) -> None:
    """The same bits, except where sums are taken in another order."""
    tolerance = (
        {2: 4e-3, 4: 2e-6}.get(got.dtype.itemsize, 0) if "scatter" in op.name or "take" in op.name else 0
    )
    got, expected = widened(got), widened(expected)
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=f"{op.name}: {label}")


@rows
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "bool"])
def test_values_are_those_of_the_cpu_and_stay_on_the_device(op: Op, dtype: str, gpu: FakeGpu) -> None:
    for sample in samples_of(op):
        args = recast(sample.args, dtype)
        try:
            expected = FUNCTIONS[op.name](*on_cpu(args), **sample.kwargs)
        except DTypeError:
            continue
        tensors = [x for x in pytree.leaves(list(args)) if isinstance(x, np.ndarray)]
        with hml.device("gpu:0" if not tensors else "cpu:0"):
            got = FUNCTIONS[op.name](*on_device(args), **sample.kwargs)
        for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
            assert g.device == "gpu:0", f"{op.name}: {sample.label}"
            assert_equal(op, g.numpy(), e.numpy(), sample.label)


@pytest.mark.parametrize("op", [op for op in ROWS if op.vjps is not None], ids=lambda op: op.name)
def test_gradients_are_those_of_the_cpu_and_stay_on_the_device(op: Op, gpu: FakeGpu) -> None:
    for sample in samples_of(op):
        args = recast(sample.args, "float32")
        if not sample.differentiable:
            continue
        found = []
        for place in (on_device, on_cpu):
            given = place(args)
            sources = [x for x in pytree.leaves(given) if isinstance(x, Tensor) and dtypes.is_float(x.dtype)]
            with hml.GradientTape() as tape:
                tape.watch(sources)
                out = FUNCTIONS[op.name](*given, **sample.kwargs)
            targets = [t for t in pytree.leaves(out) if dtypes.is_float(t.dtype)]
            if not targets or not sources:
                continue
            found.append(tape.gradient(targets, sources, unconnected_gradients="zero"))
        for g, e in zip(*found, strict=True) if found else ():
            assert g.device == "gpu:0", f"{op.name}: {sample.label}"
            assert_equal(op, g.numpy(), e.numpy(), sample.label)


@pytest.mark.parametrize("rows", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("columns", [(), (3,)], ids=str)
def test_scattered_rows_do_not_touch_each_other(rows: int, columns: tuple[int, ...], gpu: FakeGpu) -> None:
    """Sums of runs are exact where whole numbers are, whatever lies in the rows beside them: not differences of running sums."""
    rng = np.random.default_rng(rows)
    target = np.zeros((9, *columns), np.float32)
    index = rng.integers(0, 9, rows)
    updates = rng.integers(-9, 9, (rows, *columns)).astype(np.float32)
    updates[index == 2] = 1e30
    updates[index == 4] = np.nan
    updates[index == 6] = np.inf
    expected = target.copy()
    np.add.at(expected, index, updates)
    got = hml.scatter_add(*on_device([target, index, updates]), axis=0).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    if not columns:
        along = hml.scatter_add_along_axis(*on_device([target, index, updates]), axis=0).numpy()
        np.testing.assert_allclose(along, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_quotients_are_numpys(dtype: str, gpu: FakeGpu) -> None:
    values = [1, 0.1, 0.3, -0.3, 5, -5, 7, 1e3, -1e3, 0, -0.0, 1e-3] + [np.inf, -np.inf, np.nan] * (
        dtype != "int32"
    )
    x, y = (a.ravel() for a in np.meshgrid(*2 * [np.asarray(values).astype(dtype)]))
    a, b = on_device([x, y])
    with np.errstate(all="ignore"):
        for got, f in (
            (a // b, np.floor_divide),
            (hml.floor_divide(a, b), np.floor_divide),
            (a % b, np.remainder),
        ):
            np.testing.assert_array_equal(got.numpy(), f(x, y), err_msg=f.__name__)
            assert got.dtype == dtype
            np.testing.assert_array_equal(np.signbit(got.numpy()), np.signbit(f(x, y)))
        scalar = 2 if dtype == "int32" else 0.1
        np.testing.assert_array_equal((a % scalar).numpy(), x % x.dtype.type(scalar))
        np.testing.assert_array_equal((scalar // a).numpy(), x.dtype.type(scalar) // x)
