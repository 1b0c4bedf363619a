"""What cuBLAS, cuBLASLt and cuDNN do, in NumPy, on "device" memory by address, from the same plans."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.cudnn import CONVOLUTION, ConvolutionPlan
from hybridml.kernels.cuda.epilogue import PRODUCT


def device_memory(
    address: int, shape: tuple[int, ...], dtype: Any, strides: tuple[int, ...] | None = None
) -> np.ndarray:
    """Memory as an array that does not own it."""
    dtype = np.dtype(dtype)
    if 0 in shape:
        return np.zeros(shape, dtype)
    if strides is None:
        strides = np.zeros(shape, dtype).strides
    reach = [(d - 1) * s for d, s in zip(shape, strides, strict=True)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * (high - low + dtype.itemsize)).from_address(address + low))
    return np.ndarray(shape, dtype, raw, -low, strides)


def call(plan: Any, reads: Sequence[int], writes: Sequence[int]) -> None:
    """A library call as its plan says."""
    if isinstance(plan, ConvolutionPlan):
        convolution(plan, reads, writes)
    else:
        product(plan, reads, writes)


def convolution(p: ConvolutionPlan, reads: Sequence[int], writes: Sequence[int]) -> None:
    """By the definition of the row."""
    shapes = {"conv": (p.x, p.w), "conv_input": (p.g, p.w), "conv_filter": (p.x, p.g)}[p.direction]
    more = [p.g] * p.epilogue.residual + [(p.n,)] * p.epilogue.bias
    operands = [device_memory(at, shape, p.dtype) for at, shape in zip(reads, (*shapes, *more), strict=True)]
    device_memory(writes[0], p.shape, p.dtype)[...] = CONVOLUTION.eager(np, *operands, plan=p)


def product(p: ProductPlan, reads: Sequence[int], writes: Sequence[int]) -> None:
    """A (batched) matrix product, and what its epilogue asks for by the definition of the row."""
    dtype = np.dtype(p.dtype)

    def matrix(at: int, rows: int, columns: int, ld: int, step: int, transposed: bool) -> np.ndarray:
        rows, columns = (columns, rows) if transposed else (rows, columns)
        strides = (step * dtype.itemsize, ld * dtype.itemsize, dtype.itemsize)
        view = device_memory(at, (p.batch, rows, columns), dtype, strides)
        return view.swapaxes(1, 2) if transposed else view

    a, b = (
        matrix(reads[0], p.m, p.k, p.lda, p.strides[0], p.ta),
        matrix(reads[1], p.k, p.n, p.ldb, p.strides[1], p.tb),
    )
    out = matrix(writes[0], p.m, p.n, p.n, p.strides[2], False)
    if not p.epilogue:
        out[...] = (a @ b) if p.dtype in ("float32", "float64") else (a.astype("f") @ b.astype("f"))
        return
    e = p.epilogue
    whole = ((p.batch, p.m, p.n), dtype)
    kept = whole
    if "relu" in (e.function, e.derivative):
        kept = ((p.batch * p.m, -(-p.n // 128) * 16), np.dtype(np.uint8))
    asked = [
        (e.residual, whole),
        (e.bias, ((p.batch, p.n) if e.each else (p.n,), dtype)),
        (e.derivative, kept),
    ]
    more = [
        device_memory(at, *spec)
        for at, spec in zip(reads[2:], [spec for wanted, spec in asked if wanted], strict=True)
    ]
    how = {"ta": False, "tb": False, "shape": (p.batch, p.m, p.n), "batch": p.batch, "epilogue": e}
    found = PRODUCT.eager(np, a, b, *more, **how)
    specs = [whole, *([kept] if e.keeps else []), *([((p.batch, p.n), dtype)] if e.sums else [])]
    for at, where, result in zip(writes, specs, found, strict=True):
        device_memory(at, *where)[...] = result.reshape(where[0])
