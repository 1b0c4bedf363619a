"""Sort, argsort and top_k: a provider's routine forwards, a scatter backwards."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops.door import call, lift
from hybridml.ops.halves import in_single
from hybridml.ops.indexing import scatter_add_along_axis, zeros_view
from hybridml.ops.registry import Kind, Op, Promote, Sample, Saves, public, register
from hybridml.ops.spec import TensorSpec, normalize_axis, spec


def _order(xp: Any, x: Any, *, axis: int, descending: bool) -> Any:
    """Stable both ways: equal elements keep their order."""
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable")
    back = xp.argsort(xp.flip(x, axis), axis=axis, kind="stable")
    return x.shape[axis] - 1 - xp.flip(back, axis)


def _sort_samples(rng: np.random.Generator) -> Any:
    for shape, kw in (
        ((7,), {}),
        ((3, 5), {"axis": 0}),
        ((3, 5), {"descending": True}),
        ((2, 3, 4), {"axis": 1}),
        ((0, 3), {"axis": 0}),
    ):
        yield Sample((rng.permutation(int(np.prod(shape))).reshape(shape) / 3.0,), kw, label=f"{shape} {kw}")
    yield Sample(
        (np.array([2.0, np.nan, -np.inf, 2.0, np.inf, 0.0]),), differentiable=False, label="NaN and ties"
    )
    yield Sample((np.array([2.0, 1.0, 2.0, 1.0]),), {"descending": True}, differentiable=False, label="ties")


def _reference_order(x: Any, axis: int, descending: bool) -> Any:
    """By Python's stable sort; NaN is the largest."""

    def line(v: Any) -> Any:
        return sorted(
            range(len(v)),
            key=lambda i: (np.isnan(v[i]), v[i] if not np.isnan(v[i]) else 0),
            reverse=descending,
        )

    if x.size == 0:
        return np.zeros(x.shape, np.int64)
    return np.apply_along_axis(line, axis, x)


ARGSORT = register(Op(
    "argsort", Kind.EXTERN, infer=lambda x, *, axis, descending: spec(x.shape, dtypes.int64), promote=Promote.NO,
    eager=in_single(_order, dtypes.bfloat16), method=True,
    samples=lambda rng: [Sample(s.args, s.kwargs, False, s.label) for s in _sort_samples(rng)],
    reference=lambda x, axis=-1, descending=False: _reference_order(x, axis, descending),
))  # fmt: skip


@public(ARGSORT)
def argsort(x: Any, /, *, axis: int = -1, descending: bool = False) -> Any:
    """The indices that sort `x` along an axis; equal elements keep their order; a NaN counts as the largest.

    >>> import hybridml as hml
    >>> hml.argsort([3., 1., 2.]).tolist(), hml.argsort([1., 1., 2.], descending=True).tolist()
    ([1, 2, 0], [2, 0, 1])
    """
    x = lift(x)
    return call(ARGSORT, x, axis=normalize_axis(axis, x.ndim), descending=bool(descending))


def _eager_sort(xp: Any, x: Any, *, axis: int, descending: bool) -> Any:
    out = xp.sort(x, axis=axis)
    return xp.flip(out, axis) if descending else out


def _sort_vjp(g: Any, out: Any, x: Any, *, axis: int, descending: bool) -> Any:
    order = argsort(x, axis=axis, descending=descending)
    return scatter_add_along_axis(zeros_view(x.shape, g), order, g, axis=axis)


SORT = register(Op(
    "sort", Kind.EXTERN, infer=lambda x, *, axis, descending: x, promote=Promote.NO,
    eager=in_single(_eager_sort, dtypes.bfloat16), vjps=(_sort_vjp,),
    saves=Saves.INPUTS, method=True, samples=_sort_samples,
    reference=lambda x, axis=-1, descending=False: np.take_along_axis(x, _reference_order(x, axis, descending), axis),
))  # fmt: skip


@public(SORT)
def sort(x: Any, /, *, axis: int = -1, descending: bool = False) -> Any:
    """The elements in order along an axis; a NaN counts as the largest.

    >>> import hybridml as hml
    >>> hml.sort([3., 1., 2.]).tolist()
    [1.0, 2.0, 3.0]
    """
    x = lift(x)
    return call(SORT, x, axis=normalize_axis(axis, x.ndim), descending=bool(descending))


def _infer_top_k(x: TensorSpec, *, k: int) -> tuple[TensorSpec, TensorSpec]:
    shape = (*x.shape[:-1], k)
    return spec(shape, x.dtype), spec(shape, dtypes.int64)


def _eager_top_k(xp: Any, x: Any, *, k: int) -> Any:
    indices = xp.ascontiguousarray(_order(xp, x, axis=x.ndim - 1, descending=True)[..., :k])
    return xp.take_along_axis(x, indices, axis=-1), indices


def _top_k_vjp(g: Any, out: Any, x: Any, *, k: int) -> Any:
    return scatter_add_along_axis(zeros_view(x.shape, g[0]), out[1], g[0])


def _reference_top_k(x: Any, k: int) -> Any:
    order = _reference_order(x, -1, True)[..., :k]
    return np.take_along_axis(x, order, -1), order


TOP_K = register(Op(
    "top_k", Kind.EXTERN, infer=_infer_top_k, promote=Promote.NO,
    eager=in_single(_eager_top_k, dtypes.bfloat16), vjps=(_top_k_vjp,), saves=Saves.OUTPUT,
    samples=lambda rng: [
        Sample((rng.permutation(15).reshape(3, 5) / 3.0, 2)), Sample((rng.permutation(7) / 3.0, 7)),
        Sample((np.array([2.0, 1.0, 2.0, np.nan]), 3), differentiable=False, label="ties and NaN"),
        Sample((rng.normal(size=4), 0)),
    ],
    reference=_reference_top_k,
))  # fmt: skip


@public(TOP_K)
def top_k(x: Any, k: int, /) -> tuple[Any, Any]:
    """The k largest elements of the last axis in falling order, and their indices; of equal ones the first comes first.

    >>> import hybridml as hml
    >>> values, indices = hml.top_k([1., 5., 3.], 2)
    >>> values.tolist(), indices.tolist()
    ([5.0, 3.0], [1, 2])
    """
    x = lift(x)
    if x.ndim == 0 or not 0 <= k <= x.shape[-1]:
        raise ShapeError(f"top_k with k={k} needs a last axis of at least that size, got shape {x.shape}")
    return call(TOP_K, x, k=int(k))
