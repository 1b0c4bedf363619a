"""Means, variances, log-sum-exp, where the extremes lie, and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops import infer
from hybridml.ops.door import beside, call, lift
from hybridml.ops.elementwise import astype, equal, where
from hybridml.ops.halves import computed_in_single, in_single
from hybridml.ops.identity import stop_gradient
from hybridml.ops.logic import isfinite, isnan
from hybridml.ops.reductions import Axis, kept_shape, reduction_samples
from hybridml.ops.reductions import max as max_
from hybridml.ops.reductions import min as min_
from hybridml.ops.reductions import sum as sum_
from hybridml.ops.registry import Kind, Op, Promote, Sample, Saves, composite, public, register
from hybridml.ops.spec import Shape, TensorSpec, normalize_axes, normalize_axis, spec
from hybridml.ops.transcendental import exp, log, sqrt
from hybridml.ops.view import reshape


def _count(shape: Shape, axis: tuple[int, ...]) -> int:
    n = 1
    for a in axis:
        n *= shape[a]
    return n


def _as_float(x: Any) -> Any:
    x = lift(x)
    return x if dtypes.is_float(x.dtype) else astype(x, dtypes.default_float)


@composite(method=True)
@computed_in_single
def mean(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """The mean over `axis`; integers are averaged as floats, half precision in single. NaN of no elements.

    >>> import hybridml as hml
    >>> hml.mean([[1., 2.], [3., 4.]], axis=0).tolist()
    [2.0, 3.0]
    """
    x = _as_float(x)
    axes = normalize_axes(axis, x.ndim)
    return sum_(x, axis=axes, keepdims=keepdims) / _count(x.shape, axes)


@composite(method=True)
@computed_in_single
def var(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The variance over `axis`, dividing by the count less `correction`.

    >>> import hybridml as hml
    >>> float(hml.var([1., 2., 3.], correction=1))
    1.0
    """
    x = _as_float(x)
    axes = normalize_axes(axis, x.ndim)
    centred = x - mean(x, axis=axes, keepdims=True)
    n = _count(x.shape, axes) - correction
    return sum_(centred * centred, axis=axes, keepdims=keepdims) / (n if n > 0 else 0.0)


@composite(method=True)
def std(x: Any, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    """The standard deviation over `axis`: the root of `var`, with an infinite gradient where it is 0.

    >>> import hybridml as hml
    >>> float(hml.std([1., 3.]))
    1.0
    """
    return sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


# logsumexp


def _eager_logsumexp(xp: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    top = x.max(axis=axis, keepdims=True) if x.size else xp.full(kept_shape(x.shape, axis), -np.inf, x.dtype)
    safe = xp.where(xp.isinf(top), x.dtype.type(0), top)  # a row of -inf has no finite maximum to subtract
    out = xp.log(xp.exp(x - safe).sum(axis=axis, keepdims=True)) + safe
    return out if keepdims else out.reshape(infer.reduced_shape(x.shape, axis, False))


def _shifted_exp(x: Any, axis: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """exp(x - top), its sum, and top: the largest element, or 0 in a row without a finite one."""
    if not x.size:
        e = exp(x)
        return e, sum_(e, axis=axis, keepdims=True), 0.0
    top = stop_gradient(max_(x, axis=axis, keepdims=True))
    top = where(isfinite(top), top, 0)
    e = exp(x - top)
    return e, sum_(e, axis=axis, keepdims=True), top


def _expand_logsumexp(x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    _, total, top = _shifted_exp(x, axis)
    out = log(total) + top
    return out if keepdims else reshape(out, infer.reduced_shape(x.shape, axis, False))


def _logsumexp_vjp(g: Any, out: Any, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    """Softmax, from the operand: exp(x - out) would lose the digits that a large `out` has not.

    A row of -inf passes nothing. The largest element is a constant here: softmax does not depend on it.
    """
    e, total, _ = _shifted_exp(x, axis)
    return e * (
        reshape(g, kept_shape(x.shape, axis)) / where(equal(total, 0), 1, total)
    )  # one division a row


def _logsumexp_samples(rng: np.random.Generator) -> Any:
    for s in reduction_samples(-3, 3)(rng):
        yield Sample(s.args, s.kwargs, s.differentiable and s.args[0].size > 0, s.label)
    low = np.full((2, 3), -np.inf)
    low[1] = [0.0, -np.inf, 1000.0]
    yield Sample((low,), {"axis": 1}, differentiable=False, label="rows of -inf")
    yield Sample((np.array([1e4, 1e4, -1e4]),), differentiable=False, label="large")


def _reference_logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
    from scipy.special import logsumexp as reference

    x = np.asarray(x, np.float64)
    if x.size == 0:
        return np.log(np.sum(x, axis=axis, keepdims=keepdims))
    return reference(x, axis=axis, keepdims=keepdims)


LOGSUMEXP = register(Op(
    "logsumexp", Kind.EXTERN, infer=infer.only("f", infer.reduction), promote=Promote.FLOAT, eager=in_single(_eager_logsumexp),
    vjps=(_logsumexp_vjp,), saves=Saves.INPUTS, expand=_expand_logsumexp, method=True, samples=_logsumexp_samples,
    reference=_reference_logsumexp,
))  # fmt: skip


@public(LOGSUMEXP)
def logsumexp(x: Any, /, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) over `axis` without overflow; -inf for a row of -inf, or of nothing.

    >>> import hybridml as hml
    >>> hml.logsumexp([[1000., float("-inf")]], axis=1).tolist()
    [1000.0]
    """
    x = lift(x)
    return call(LOGSUMEXP, x, axis=normalize_axes(axis, x.ndim), keepdims=bool(keepdims))


# iota: the index along an axis, so that position can be compared and fused like any value


def _eager_iota(xp: Any, *, shape: Shape, axis: int, dtype: np.dtype) -> Any:
    line = xp.arange(shape[axis]).astype(dtype)
    return xp.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


IOTA = register(Op(
    "iota", Kind.ELEMENTWISE, infer=lambda *, shape, axis, dtype: spec(shape, dtype), promote=Promote.NO, eager=_eager_iota,
    scalar="{out}({index})",
    samples=lambda rng: [
        Sample(((3, 4), 0), differentiable=False), Sample(((3, 4), -1), differentiable=False),
        Sample(((0,), 0), differentiable=False),
    ],
    reference=lambda shape, axis: np.indices(shape)[axis],
))  # fmt: skip


@public(IOTA)
def iota(shape: Shape, axis: int = 0, dtype: Any = None) -> Any:
    """A tensor whose elements are their own index along `axis`; int64 unless told otherwise.

    >>> import hybridml as hml
    >>> hml.iota((2, 3), axis=1).tolist()
    [[0, 1, 2], [0, 1, 2]]
    """
    shape = tuple(shape)
    dtype = dtypes.default_int if dtype is None else dtypes.as_dtype(dtype)
    return call(IOTA, shape=shape, axis=normalize_axis(axis, len(shape)), dtype=dtype)


# argmax and argmin


def _infer_arg(x: TensorSpec, *, axis: int, keepdims: bool) -> TensorSpec:
    if not x.shape[axis]:
        raise ShapeError(
            f"the position of the largest or smallest of no elements is undefined: {x} over axis {axis}"
        )
    return spec(infer.reduced_shape(x.shape, axis, keepdims), dtypes.int64)


def _first(x: Any, extremum: Any, axis: int, keepdims: bool) -> Any:
    """The first index at which x attains its extremum. A NaN is the extremum wherever there is one."""
    hit = equal(x, extremum)
    if dtypes.is_float(x.dtype):
        hit = hit | isnan(x)
    with beside(x):
        position = iota(x.shape, axis)
    return min_(where(hit, position, x.shape[axis]), axis=axis, keepdims=keepdims)


def _arg_samples(rng: np.random.Generator) -> Any:
    for shape, kw in (((3, 5), {}), ((3, 5), {"axis": 0}), ((3, 5), {"axis": -1, "keepdims": True}), ((2, 3, 4), {"axis": 1}),
                      ((300,), {}), ((), {})):  # fmt: skip
        yield Sample(
            (np.round(rng.uniform(-3, 3, shape)),), kw, differentiable=False, label=f"{shape} {kw}, ties"
        )
    x = rng.uniform(-3, 3, (3, 4))
    x[1, 2] = x[1, 3] = np.nan
    yield Sample((x,), {"axis": 1}, differentiable=False, label="NaN")


def _eager_arg(name: str) -> Any:
    def eager(xp: Any, x: Any, *, axis: int, keepdims: bool) -> Any:
        out = xp.asarray(getattr(xp, name)(x, axis=axis, keepdims=keepdims))
        if xp is np or x.dtype.kind != "f":
            return out
        missing = xp.isnan(x)  # of several NaN CuPy takes any
        first = xp.argmax(missing, axis=axis, keepdims=keepdims)
        return xp.where(missing.any(axis=axis, keepdims=keepdims), first, out)

    return eager


def _arg(name: str, extremum: Any) -> Op:
    return register(Op(
        name, Kind.EXTERN, infer=_infer_arg, promote=Promote.NO, method=True, samples=_arg_samples,
        eager=in_single(_eager_arg(name)),
        expand=lambda x, *, axis, keepdims: _first(x, extremum(x, axis=axis, keepdims=True), axis, keepdims),
        reference=lambda x, axis=None, keepdims=False: getattr(np, name)(x, axis=axis, keepdims=keepdims),
    ))  # fmt: skip


ARGMAX, ARGMIN = _arg("argmax", max_), _arg("argmin", min_)


def _position(op: Op, x: Any, axis: int | None, keepdims: bool) -> Any:
    x = lift(x)
    if axis is None:
        out = call(op, reshape(x, (-1,)), axis=0, keepdims=False)
        return reshape(out, (1,) * x.ndim) if keepdims else out
    return call(op, x, axis=normalize_axis(axis, x.ndim), keepdims=bool(keepdims))


@public(ARGMAX)
def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The first index of the largest element over one axis, or of the flattened tensor; a NaN counts as the largest.

    >>> import hybridml as hml
    >>> hml.argmax([[1., 3., 3.]], axis=1).tolist()
    [1]
    """
    return _position(ARGMAX, x, axis, keepdims)


@public(ARGMIN)
def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """The first index of the smallest element over one axis, or of the flattened tensor; a NaN counts as the smallest.

    >>> import hybridml as hml
    >>> hml.argmin([[1., 0., 0.]], axis=1).tolist()
    [1]
    """
    return _position(ARGMIN, x, axis, keepdims)


# cumsum

CUMSUM: Op = register(Op(
    "cumsum", Kind.INDEX, provider="cumsum", infer=lambda x, *, axis, reverse: x, promote=Promote.NO,
    eager=in_single(lambda xp, x, *, axis, reverse: (
        xp.flip(xp.cumsum(xp.flip(x, axis), axis=axis, dtype=x.dtype), axis)
        if reverse else xp.cumsum(x, axis=axis, dtype=x.dtype)
    )),
    vjps=(lambda g, out, x, *, axis, reverse: call(CUMSUM, g, axis=axis, reverse=not reverse),), method=True,
    samples=lambda rng: [
        Sample((rng.uniform(-2, 2, shape),), {"axis": axis, "reverse": reverse}, label=f"{shape} {axis}")
        for shape, axis in (((5,), 0), ((3, 4), 0), ((3, 4), -1), ((2, 3, 4), 1), ((0, 3), 0)) for reverse in (False, True)
    ],
    reference=lambda x, axis, reverse: np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis),
))  # fmt: skip


@public(CUMSUM)
def cumsum(x: Any, /, *, axis: int | None = None, reverse: bool = False, dtype: Any = None) -> Any:
    """Running sums along one axis (which a 1-d tensor need not name), from the end where `reverse`.

    >>> import hybridml as hml
    >>> hml.cumsum([1., 2., 3.]).tolist(), hml.cumsum([1., 2., 3.], reverse=True).tolist()
    ([1.0, 3.0, 6.0], [6.0, 5.0, 3.0])
    """
    x = lift(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(f"cumsum of {x.ndim} dimensions needs an axis")
        axis = 0
    if dtype is not None or x.dtype.kind == "b":
        x = astype(x, dtypes.int64 if dtype is None else dtype)
    return call(CUMSUM, x, axis=normalize_axis(axis, x.ndim), reverse=bool(reverse))
