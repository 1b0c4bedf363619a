"""Reductions over axes: an identity, a combine, and a gradient each."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import astype, equal
from hybridml.ops.halves import in_single
from hybridml.ops.registry import Kind, Op, Promote, Reduce, Sample, SampleMaker, Saves, public, register
from hybridml.ops.spec import Shape, TensorSpec, normalize_axes
from hybridml.ops.view import broadcast_to, permute_dims, reshape

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
        for value in (np.nan, np.inf):
            x = rng.uniform(low, high, (3, 4))
            x[1, 2] = value
            yield Sample((x,), {"axis": 1}, differentiable=False, label=f"a {value}")
        if empty:
            yield Sample((np.zeros((0, 3)),), {"axis": 0}, label="empty")
            yield Sample((np.zeros((3, 0)),), {"axis": 1}, label="empty rows")

    return make


def kept_shape(shape: Shape, axis: tuple[int, ...]) -> Shape:
    """The shape with reduced axes kept as 1: what a reduction's result must have to broadcast against its operand."""
    return infer.reduced_shape(shape, axis, True)


def _spread(g: Any, x: Any, axis: tuple[int, ...]) -> Any:
    return broadcast_to(reshape(g, kept_shape(x.shape, axis)), x.shape)


def _reference(name: str) -> Any:
    """NumPy's reduction in float64."""

    def f(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        x = np.asarray(x)
        wide = x.astype(np.float64) if dtypes.is_float(x.dtype) else x
        return getattr(np, name)(wide, axis=axis, keepdims=keepdims)

    return f


SUM = register(Op(
    "sum", Kind.REDUCTION, infer=infer.reduction, promote=Promote.NO,
    eager=in_single(lambda xp, x, *, axis, keepdims: xp.add.reduce(x, axis=axis, keepdims=keepdims, dtype=x.dtype)),
    vjps=(lambda g, out, x, *, axis, keepdims: _spread(g, x, axis),),
    reduce=Reduce(lambda dtype: 0, "{0} + {1}", "add"), method=True, samples=reduction_samples(-2, 2),
    reference=_reference("sum"),
))  # fmt: skip


def _whole(x: Any, dtype: Any) -> Any:
    """`x` in the dtype it is summed in: narrow integers and bools as 64-bit integers."""
    x = lift(x)
    if dtype is not None:
        return astype(x, dtype)
    kind = x.dtype.kind
    return x if kind not in "biu" else astype(x, dtypes.uint64 if kind == "u" else dtypes.int64)


@public(SUM)
def sum(x: Any, /, *, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """Sum over `axis` (an int, several, or None for all). Bools and narrow integers are summed as 64-bit integers.

    >>> import hybridml as hml
    >>> hml.sum([[1., 2.], [3., 4.]], axis=0).numpy()
    array([4., 6.], dtype=float32)
    """
    x = _whole(x, dtype)
    return call(SUM, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


# prod


def _others(x: Any) -> Any:
    """For each element of the last axis, the product of all the others: by halves, so that zeros need no care."""
    from hybridml.ops.joining import concat, stack
    from hybridml.ops.view import strided_slice

    n = int(x.shape[-1])  # how often it is halved is written into a graph, which is then for one size
    if n <= 1:
        return x * 0 + 1
    if n % 2:
        ones = broadcast_to(lift(np.ones((), x.dtype), x), (*x.shape[:-1], 1))
        return strided_slice(_others(concat([x, ones], axis=-1)), (0,) * x.ndim, x.shape, (1,) * x.ndim)
    lead, steps = (0,) * (x.ndim - 1), (*(1,) * (x.ndim - 1), 2)
    a, b = strided_slice(x, (*lead, 0), x.shape, steps), strided_slice(x, (*lead, 1), x.shape, steps)
    rest = _others(a * b)
    return reshape(stack([rest * b, rest * a], axis=-1), x.shape)


def _prod_vjp(g: Any, out: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    order = (*[i for i in range(x.ndim) if i not in axis], *axis)
    moved = permute_dims(x, order)
    kept = moved.shape[: x.ndim - len(axis)]
    others = _others(reshape(moved, (*kept, x.size // _size(kept) if _size(kept) else 0)))
    back = tuple([order.index(i) for i in range(x.ndim)])
    return _spread(g, x, axis) * permute_dims(reshape(others, moved.shape), back)


def _size(shape: Shape) -> int:
    n = 1
    for d in shape:
        n *= d
    return n


PROD = register(Op(
    "prod", Kind.REDUCTION, infer=infer.reduction, promote=Promote.NO,
    eager=in_single(lambda xp, x, *, axis, keepdims: x.prod(axis=axis, keepdims=keepdims, dtype=x.dtype)),
    vjps=(_prod_vjp,), saves=Saves.INPUTS, reduce=Reduce(lambda dtype: 1, "{0} * {1}", "multiply"), method=True,
    samples=lambda rng: [*(s for s in reduction_samples(0.5, 1.5)(rng) if s.args[0].size < 300),
                         Sample((np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.5]]),), {"axis": 1}, label="zeros")],
    reference=_reference("prod"),
))  # fmt: skip


@public(PROD)
def prod(x: Any, /, *, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """Product over `axis`. Bools and narrow integers are multiplied as 64-bit integers. The gradient is exact at zeros.

    >>> import hybridml as hml
    >>> hml.prod([[1., 2.], [3., 4.]], axis=0).tolist()
    [3.0, 8.0]
    """
    x = _whole(x, dtype)
    return call(PROD, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


# max and min


def _lowest(dtype: np.dtype) -> Any:
    return False if dtype == dtypes.bool_ else -np.inf if dtypes.is_float(dtype) else int(np.iinfo(dtype).min)


def _highest(dtype: np.dtype) -> Any:
    return True if dtype == dtypes.bool_ else np.inf if dtypes.is_float(dtype) else int(np.iinfo(dtype).max)


def _infer_extremum(x: TensorSpec, *, axis: tuple[int, ...], keepdims: bool) -> TensorSpec:
    out = infer.reduction(x, axis=axis, keepdims=keepdims)
    if out.size and not x.size:
        raise ShapeError(f"the largest or smallest of no elements is undefined: {x} over axis {axis}")
    return out


def _extremum_vjp(g: Any, out: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    """To every element that attains the extremum, in equal shares."""
    kept = kept_shape(x.shape, axis)
    hit = astype(equal(x, reshape(out, kept)), g.dtype)
    return reshape(g, kept) * hit / sum(hit, axis=axis, keepdims=True)


def _extremum(name: str) -> Any:
    """The array's method, or the ufunc's on NumPy, where the method is Python."""
    fold: Any = {"max": np.maximum, "min": np.minimum}[name].reduce

    def eager(xp: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
        return (
            fold(x, axis, None, None, keepdims)
            if xp is np
            else getattr(x, name)(axis=axis, keepdims=keepdims)
        )

    return eager


MAX = register(Op(
    "max", Kind.REDUCTION, infer=_infer_extremum, promote=Promote.NO,
    eager=in_single(_extremum("max")),
    vjps=(_extremum_vjp,), saves=Saves.BOTH, reduce=Reduce(_lowest, "m_maximum({0}, {1})", "maximum"), method=True,
    samples=reduction_samples(-2, 2, empty=False), reference=_reference("max"),
))  # fmt: skip


@public(MAX)
def max(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The largest element over `axis`; NaN if there is one. The gradient is shared equally between equal maxima.

    >>> import hybridml as hml
    >>> hml.max([[1., 2.], [3., 0.]], axis=1).tolist()
    [2.0, 3.0]
    """
    x = lift(x)
    if x.dtype.kind == "b" and x.size:
        return any(x, axis=axis, keepdims=keepdims)
    return call(MAX, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


MIN = register(Op(
    "min", Kind.REDUCTION, infer=_infer_extremum, promote=Promote.NO,
    eager=in_single(_extremum("min")),
    vjps=(_extremum_vjp,), saves=Saves.BOTH, reduce=Reduce(_highest, "m_minimum({0}, {1})", "minimum"), method=True,
    samples=reduction_samples(-2, 2, empty=False), reference=_reference("min"),
))  # fmt: skip


@public(MIN)
def min(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The smallest element over `axis`; NaN if there is one. The gradient is shared equally between equal minima.

    >>> import hybridml as hml
    >>> hml.min([[1., 2.], [3., 0.]], axis=1).tolist()
    [1.0, 0.0]
    """
    x = lift(x)
    if x.dtype.kind == "b" and x.size:
        return all(x, axis=axis, keepdims=keepdims)
    return call(MIN, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


# any and all


def _truth_samples(rng: np.random.Generator) -> Any:
    for s in reduction_samples(-1, 1)(rng):
        yield Sample((s.args[0] > 0.8,), s.kwargs, differentiable=False, label=s.label)


ANY = register(Op(
    "any", Kind.REDUCTION, infer=infer.only("b", infer.reduction), promote=Promote.NO,
    eager=lambda xp, x, *, axis, keepdims: x.any(axis=axis, keepdims=keepdims),
    reduce=Reduce(lambda dtype: False, "{0} | {1}"), method=True, samples=_truth_samples, reference=_reference("any"),
))  # fmt: skip


@public(ANY)
def any(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """True where at least one element over `axis` is not zero.

    >>> import hybridml as hml
    >>> hml.any([[0, 2], [0, 0]], axis=1).tolist()
    [True, False]
    """
    x = astype(x, dtypes.bool_)
    return call(ANY, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


ALL = register(Op(
    "all", Kind.REDUCTION, infer=infer.only("b", infer.reduction), promote=Promote.NO,
    eager=lambda xp, x, *, axis, keepdims: x.all(axis=axis, keepdims=keepdims),
    reduce=Reduce(lambda dtype: True, "{0} & {1}"), method=True, samples=_truth_samples, reference=_reference("all"),
))  # fmt: skip


@public(ALL)
def all(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """True where every element over `axis` is not zero.

    >>> import hybridml as hml
    >>> hml.all([[0, 2], [1, 1]], axis=1).tolist()
    [False, True]
    """
    x = astype(x, dtypes.bool_)
    return call(ALL, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))
