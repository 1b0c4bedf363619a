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
