"""The matrix product, with transposes as flags so that no gradient copies a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops.door import call, lift
from hybridml.ops.halves import in_single
from hybridml.ops.registry import Kind, Op, Sample, Saves, public, register
from hybridml.ops.spec import TensorSpec, broadcast_shapes, spec
from hybridml.ops.view import reshape, sum_to


def _infer_matmul(x: TensorSpec, y: TensorSpec, *, ta: bool, tb: bool) -> TensorSpec:
    (m, k), (k2, n) = x.shape[-2:][:: -1 if ta else 1], y.shape[-2:][:: -1 if tb else 1]
    if k != k2:
        raise ShapeError(
            f"matmul of {x}{' transposed' if ta else ''} and {y}{' transposed' if tb else ''}: "
            f"the inner sizes {k} and {k2} must be equal"
        )
    return spec((*broadcast_shapes(x.shape[:-2], y.shape[:-2]), m, n), x.dtype)


def _eager_matmul(xp: Any, x: Any, y: Any, *, ta: bool, tb: bool) -> Any:
    return xp.matmul(x.swapaxes(-1, -2) if ta else x, y.swapaxes(-1, -2) if tb else y)


def _vjp_x(g: Any, out: Any, x: Any, y: Any, *, ta: bool, tb: bool) -> Any:
    gx = call(MATMUL, y, g, ta=tb, tb=True) if ta else call(MATMUL, g, y, ta=False, tb=not tb)
    return sum_to(gx, x.shape)


def _vjp_y(g: Any, out: Any, x: Any, y: Any, *, ta: bool, tb: bool) -> Any:
    if len(x.shape) > 2 and not ta and math.prod(y.shape[:-2]) == 1 and 0 not in (*x.shape, *y.shape):
        # One matrix for the whole batch: the sum over the batch is part of one product's own sum, so no product an entry is ever
        # written and read again.
        x, g = reshape(x, (-1, x.shape[-1])), reshape(g, (-1, g.shape[-1]))
        gy = call(MATMUL, g, x, ta=True, tb=False) if tb else call(MATMUL, x, g, ta=True, tb=False)
        return reshape(gy, y.shape)
    gy = call(MATMUL, g, x, ta=True, tb=ta) if tb else call(MATMUL, x, g, ta=not ta, tb=False)
    return sum_to(gy, y.shape)


def _samples(rng: np.random.Generator) -> Any:
    for a, b in (((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 3)), ((3, 4), (4,)), ((4,), (4,)),
                 ((0, 4), (4, 3)), ((3, 0), (0, 2)), ((1, 7), (7, 1)), ((33, 17), (17, 65))):  # fmt: skip
        yield Sample((rng.normal(size=a), rng.normal(size=b)), label=f"{a} @ {b}")


MATMUL = register(Op(
    "matmul", Kind.EXTERN, infer=_infer_matmul,
    eager=in_single(_eager_matmul, beyond_numpy=(dtypes.bfloat16,)),  # CuPy's products of float16 add up in single
    vjps=(_vjp_x, _vjp_y), saves=Saves.INPUTS,
    operator="matmul", provider="gemm", flags=("ta", "tb"),
    reads=lambda layout: layout.matrix is not None, samples=_samples, reference=np.matmul,
))  # fmt: skip


@public(MATMUL)
def matmul(x: Any, y: Any, /) -> Any:
    """The matrix product over the last two axes; leading axes broadcast; a vector is a row on the left, a column on the right.

    >>> import hybridml as hml
    >>> hml.matmul([[1., 2.]], [[3.], [4.]]).numpy()
    array([[11.]], dtype=float32)
    """
    x, y = lift(x, y), lift(y, x)
    if x.ndim == 0 or y.ndim == 0:
        raise ShapeError(
            f"matmul needs at least 1 dimension on both sides, got shapes {x.shape} and {y.shape}"
        )
    a = reshape(x, (1, -1)) if x.ndim == 1 else x
    b = reshape(y, (-1, 1)) if y.ndim == 1 else y
    out = call(MATMUL, a, b, ta=False, tb=False)
    if x.ndim == 1 and y.ndim == 1:
        return reshape(out, ())
    if x.ndim == 1:
        return reshape(out, (*out.shape[:-2], out.shape[-1]))
    return reshape(out, out.shape[:-1]) if y.ndim == 1 else out
