"""Joining, padding and repeating: concat and pad have rows, the rest is written in them and in views."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.errors import ShapeError
from hybridml.ops.door import call, lift
from hybridml.ops.registry import EachOperand, Kind, Op, Promote, Sample, composite, public, register
from hybridml.ops.spec import Shape, TensorSpec, all_equal, is_int, normalize_axis, spec
from hybridml.ops.view import broadcast_to, expand_dims, narrow, reshape, strided_slice
from hybridml.symbolic import dim

# concat


def _infer_concat(*xs: TensorSpec, axis: int) -> TensorSpec:
    first = xs[0].shape
    for i, x in enumerate(xs[1:], start=1):
        if x.ndim != len(first) or any(
            a != b for k, (a, b) in enumerate(zip(first, x.shape, strict=True)) if k != axis
        ):
            raise ShapeError(
                f"concat along axis {axis}: tensor {i} has shape {x.shape} and tensor 0 has {first}; "
                "all other axes must be equal"
            )
    total = builtins.sum(x.shape[axis] for x in xs)
    return spec((*first[:axis], total, *first[axis + 1 :]), xs[0].dtype)


def _concat_vjp(i: int, g: Any, out: Any, *xs: Any, axis: int) -> Any:
    start = builtins.sum(x.shape[axis] for x in xs[:i])
    return narrow(g, axis, start, start + xs[i].shape[axis])


CONCAT = register(Op(
    "concat", Kind.INDEX, provider="concat", infer=_infer_concat, eager=lambda xp, *xs, axis: xp.concatenate(xs, axis=axis),
    vjps=EachOperand(_concat_vjp),
    samples=lambda rng: [
        Sample(([rng.normal(size=(2, 3)), rng.normal(size=(4, 3))],)), Sample(([rng.normal(size=(2, 3))] * 3,), {"axis": -1}),
        Sample(([rng.normal(size=(2, 1, 3)), rng.normal(size=(2, 2, 3))],), {"axis": 1}),
        Sample(([np.zeros((0, 3)), np.ones((2, 3))],)),
        Sample(([rng.normal(size=(2, 3)), rng.normal(size=())],), {"axis": None}),
    ],
    reference=lambda xs, axis=0: np.concatenate(xs, axis=axis),
))  # fmt: skip


@public(CONCAT)
def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
    """Tensors of equal shape but for `axis`, one after the other along it; None flattens them first.

    >>> import hybridml as hml
    >>> hml.concat([[1., 2.], [3.]]).tolist()
    [1.0, 2.0, 3.0]
    """
    xs = [lift(x) for x in arrays]
    if not xs:
        raise ShapeError("concat needs at least one tensor")
    if axis is None:
        xs, axis = [reshape(x, (-1,)) for x in xs], 0
    return call(CONCAT, *xs, axis=normalize_axis(axis, xs[0].ndim))


@composite()
def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
    """Tensors of one shape along a new axis.

    >>> import hybridml as hml
    >>> hml.stack([[1., 2.], [3., 4.]], axis=1).tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    xs = [lift(x) for x in arrays]
    shapes = [x.shape for x in xs]
    if not xs or not all_equal(shapes):
        raise ShapeError(
            f"stack needs tensors of one shape, got {', '.join(map(str, sorted(set(shapes)))) or 'none'}"
        )
    where = normalize_axis(axis, xs[0].ndim + 1)
    return concat([expand_dims(x, axis=where) for x in xs], axis=where)


@composite()
def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    """The slices of a tensor along an axis.

    >>> import hybridml as hml
    >>> [r.tolist() for r in hml.unstack([[1., 2.], [3., 4.]])]
    [[1.0, 2.0], [3.0, 4.0]]
    """
    x = lift(x)
    axis = normalize_axis(axis, x.ndim)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    return tuple([reshape(narrow(x, axis, i, i + 1), rest) for i in range(x.shape[axis])])


@composite()
def split(x: Any, parts: int | Sequence[int], /, *, axis: int = 0) -> tuple[Any, ...]:
    """A tensor cut along an axis into `parts` equal pieces, or into pieces of the given sizes.

    >>> import hybridml as hml
    >>> [p.tolist() for p in hml.split([1., 2., 3.], [1, 2])]
    [[1.0], [2.0, 3.0]]
    """
    x = lift(x)
    axis = normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    if isinstance(parts, (int, np.integer)):
        if parts < 1 or n % parts:
            raise ShapeError(f"cannot split axis {axis} of shape {x.shape} into {parts} equal pieces")
        parts = [n // int(parts)] * int(parts)
    if builtins.sum(parts) != n:
        raise ShapeError(f"the pieces {list(parts)} do not add up to axis {axis} of shape {x.shape}")
    pieces, start = [], 0
    for size in parts:
        pieces.append(narrow(x, axis, start, start + size))
        start += size
    return tuple(pieces)


# pad

Widths = tuple[tuple[int, int], ...]


def _pad_vjp(g: Any, out: Any, x: Any, *, widths: Widths, value: float) -> Any:
    starts = tuple([a for a, _ in widths])
    return strided_slice(
        g, starts, tuple([a + d for a, d in zip(starts, x.shape, strict=True)]), (1,) * x.ndim
    )


PAD = register(Op(
    "pad", Kind.INDEX, provider="pad", promote=Promote.NO, vjps=(_pad_vjp,),
    infer=lambda x, *, widths, value: spec([a + d + b for (a, b), d in zip(widths, x.shape, strict=True)], x.dtype),
    eager=lambda xp, x, *, widths, value: xp.pad(x, widths, constant_values=value) if widths else x,
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3)), ((1, 0), (2, 1)))), Sample((rng.normal(size=(3,)), 2), {"value": 1.5}),
        Sample((np.zeros((0, 2)), ((1, 1), (0, 0)))), Sample((rng.normal(size=()), ())),
    ],
    reference=lambda x, widths, value=0: np.pad(x, widths, constant_values=value) if x.ndim else x,
))  # fmt: skip


@public(PAD)
def pad(x: Any, /, pad_width: Any, *, value: float = 0) -> Any:
    """A tensor framed in a constant: `pad_width` is (before, after) for each axis, or one int for all sides.

    >>> import hybridml as hml
    >>> hml.pad([1., 2.], ((1, 2),)).tolist()
    [0.0, 1.0, 2.0, 0.0, 0.0]
    """
    x = lift(x)
    if is_int(pad_width):
        pad_width = ((pad_width, pad_width),) * x.ndim
    widths = tuple([(dim(a), dim(b)) for a, b in pad_width])
    if len(widths) != x.ndim or any(w < 0 for pair in widths for w in pair):
        raise ShapeError(
            f"pad of shape {x.shape} needs {x.ndim} pairs of widths that are not negative, got {pad_width}"
        )
    return call(PAD, x, widths=widths, value=value)


# repeating


@composite()
def tile(x: Any, repetitions: Sequence[int], /) -> Any:
    """The tensor repeated whole along each axis.

    >>> import hybridml as hml
    >>> hml.tile([1., 2.], (2,)).tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    x, times = lift(x), [dim(r) for r in repetitions]
    times = [1] * (x.ndim - len(times)) + times
    shape = (1,) * (len(times) - x.ndim) + x.shape
    apart: Shape = tuple([n for d in shape for n in (1, d)])
    spread = tuple([n for r, d in zip(times, shape, strict=True) for n in (r, d)])
    return reshape(
        broadcast_to(reshape(x, apart), spread), [r * d for r, d in zip(times, shape, strict=True)]
    )


@composite()
def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    """Every element repeated along an axis (None flattens first); `repeats` is a number, or a list of one for each element.

    >>> import hybridml as hml
    >>> hml.repeat([1., 2.], 2).tolist(), hml.repeat([1., 2.], [1, 3]).tolist()
    ([1.0, 1.0, 2.0, 2.0], [1.0, 2.0, 2.0, 2.0])
    """
    x = lift(x)
    if axis is None:
        x, axis = reshape(x, (-1,)), 0
    axis = normalize_axis(axis, x.ndim)
    lead, n, rest = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    if is_int(repeats):
        spread = broadcast_to(reshape(x, (*lead, n, 1, *rest)), (*lead, n, dim(repeats), *rest))
        return reshape(spread, (*lead, n * dim(repeats), *rest))
    from hybridml.ops.indexing import take

    return take(x, np.repeat(np.arange(n), np.asarray(repeats)), axis=axis)
