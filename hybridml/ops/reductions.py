"""Reductions over axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import astype, equal
from hybridml.ops.registry import Kind, Op, Promote, Reduce, Sample, SampleMaker, Saves, public, register
from hybridml.ops.spec import Shape, normalize_axes
from hybridml.ops.view import broadcast_to, reshape

Axis = int | tuple[int, ...] | None


def reduction_samples(low: float, high: float, *, empty: bool = True) -> SampleMaker:
    """Every axis, several axes, none, negative, keepdims, 0-d and (where there is an identity) empty."""

    def make(rng: np.random.Generator) -> Any:
        for shape, kw in (
            ((3, 5), {}),
            ((3, 5), {"axis": 0}),
            ((3, 5), {"axis": -1, "keepdims": True}),
            ((2, 3, 4), {"axis": (0, 2)}),
            ((2, 3, 4), {"axis": 1, "keepdims": True}),
            ((2, 3, 4), {"axis": ()}),
            ((40, 70), {"axis": 0}),
            ((3, 300), {"axis": 1}),
            ((5000,), {}),
            ((), {}),
        ):
            yield Sample((rng.uniform(low, high, shape),), kw, label=f"{shape} {kw}")
        if empty:
            yield Sample((np.zeros((0, 3)),), {"axis": 0}, label="empty")
            yield Sample((np.zeros((3, 0)),), {"axis": 1}, label="empty rows")

    return make


def kept_shape(shape: Shape, axis: tuple[int, ...]) -> Shape:
    """The shape with reduced axes kept as 1: what a reduction's result must have to broadcast against its operand."""
    return infer.reduced_shape(shape, axis, True)


def _spread(g: Any, x: Any, axis: tuple[int, ...]) -> Any:
    return broadcast_to(reshape(g, kept_shape(x.shape, axis)), x.shape)


SUM = register(Op(
    "sum", Kind.REDUCTION, infer=infer.reduction, promote=Promote.NO,
    eager=lambda xp, x, *, axis, keepdims: x.sum(axis=axis, keepdims=keepdims, dtype=x.dtype),
    vjps=(lambda g, out, x, *, axis, keepdims: _spread(g, x, axis),),
    reduce=Reduce(lambda dtype: 0, "{0} + {1}", "add"), method=True, samples=reduction_samples(-2, 2),
))  # fmt: skip


@public(SUM)
def sum(x: Any, /, *, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """Sum over `axis` (an int, several, or None for all). Bools and narrow integers are summed as int64.

    >>> import hybridml as hml
    >>> hml.sum([[1., 2.], [3., 4.]], axis=0).numpy()
    array([4., 6.], dtype=float32)
    """
    x = lift(x)
    if dtype is not None:
        x = astype(x, dtype)
    elif x.dtype.kind in "bi":
        x = astype(x, dtypes.int64)
    elif x.dtype.kind == "u":
        x = astype(x, dtypes.uint64)
    return call(SUM, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


def _lowest(dtype: np.dtype) -> Any:
    return False if dtype == dtypes.bool_ else -np.inf if dtypes.is_float(dtype) else int(np.iinfo(dtype).min)


def _max_vjp(g: Any, out: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    """To every element that attains the maximum, in equal shares."""
    kept = kept_shape(x.shape, axis)
    hit = astype(equal(x, reshape(out, kept)), g.dtype)
    return reshape(g, kept) * hit / sum(hit, axis=axis, keepdims=True)


MAX = register(Op(
    "max", Kind.REDUCTION, infer=infer.reduction, promote=Promote.NO,
    eager=lambda xp, x, *, axis, keepdims: x.max(axis=axis, keepdims=keepdims),
    vjps=(_max_vjp,), saves=Saves.BOTH, reduce=Reduce(_lowest, "m_maximum({0}, {1})", "maximum"), method=True,
    samples=reduction_samples(-2, 2, empty=False),
))  # fmt: skip


@public(MAX)
def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The largest element over `axis`; NaN if there is one. The gradient is shared equally between equal maxima."""
    x = lift(x)
    return call(MAX, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))
