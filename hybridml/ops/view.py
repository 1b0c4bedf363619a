"""Views: other ways to index the same elements. They cost nothing, or are folded into the index of whoever reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.errors import ShapeError
from hybridml.ops.door import call, lift
from hybridml.ops.registry import Kind, Layout, Op, Promote, Sample, composite, public, register
from hybridml.ops.spec import (
    Shape,
    TensorSpec,
    broadcast_shapes,
    is_int,
    normalize_axes,
    normalize_axis,
    spec,
)
from hybridml.symbolic import dim
from hybridml.symbolic.slices import bounds, length


def _view(name: str, **fields: Any) -> Op:
    return register(Op(name, Kind.VIEW, promote=Promote.NO, **fields))


# reshape


def _reshape_layout(layout: Layout, *, shape: Shape) -> Layout | None:
    """Merge and split axes where the strides allow it without a copy."""
    if layout.is_contiguous:
        return Layout(shape, Layout.contiguous(shape).strides, layout.offset)
    old = [(d, s) for d, s in zip(layout.shape, layout.strides, strict=True) if d != 1]
    new_strides: list[int] = []
    i = 0
    run_size, run_stride = 1, 1
    pending: list[int] = []
    for d in shape:
        if d == 1:
            new_strides.append(0)
            continue
        if not pending:
            run_size, run_stride = old[i]
            i += 1
        pending.append(d)
        need = math.prod(pending)
        while run_size < need and i < len(old):
            size, stride = old[i]
            if run_stride != size * stride:
                return None
            run_size, run_stride, i = run_size * size, stride, i + 1
        if run_size % need:
            return None
        new_strides.append(run_stride * (run_size // need))
        if run_size == need:
            pending = []
    return Layout(shape, tuple(new_strides), layout.offset)


def _infer_reshape(x: TensorSpec, *, shape: Shape) -> TensorSpec:
    if math.prod(shape) != x.size:
        raise ShapeError(f"cannot reshape {x} of {x.size} elements to {shape} of {math.prod(shape)}")
    return spec(shape, x.dtype)


RESHAPE = _view(
    "reshape", method=True, infer=_infer_reshape, view=_reshape_layout, eager=lambda xp, x, *, shape: x.reshape(shape),
    reference=np.reshape,
    vjps=(lambda g, out, x, *, shape: reshape(g, x.shape),),
    samples=lambda rng: [
        Sample((rng.normal(size=(4, 6)),), {"shape": (3, 8)}), Sample((rng.normal(size=(4, 6)),), {"shape": (2, -1, 3)}),
        Sample((rng.normal(size=()),), {"shape": (1, 1)}), Sample((np.zeros((0, 3)),), {"shape": (3, 0)}),
        Sample((rng.normal(size=(5,)),), {"shape": -1}),
    ],
)  # fmt: skip


@public(RESHAPE)
def reshape(x: Any, /, shape: Shape | Sequence[int] | int) -> Any:
    """The same elements in row-major order under another shape; one size may be -1.

    >>> import hybridml as hml
    >>> hml.reshape(hml.arange(6), (2, -1)).shape
    (2, 3)
    """
    x = lift(x)
    dims = [dim(d) for d in ((shape,) if is_int(shape) else shape)]  # type: ignore[union-attr]  # it is no int
    free = [i for i, d in enumerate(dims) if type(d) is int and d == -1]
    if len(free) == 1:
        known = math.prod([d for i, d in enumerate(dims) if i not in free])
        if known == 0 or x.size % known:
            raise ShapeError(f"cannot reshape {x.size} elements to {tuple(dims)}: -1 has no whole size")
        dims[free[0]] = x.size // known
    if any([d < 0 for d in dims]):
        raise ShapeError(f"cannot reshape to {tuple(dims)}: at most one size may be -1, and none below it")
    new = tuple(dims)
    return x if new == x.shape else call(RESHAPE, x, shape=new)


# permute_dims


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


PERMUTE = _view(
    "permute_dims", infer=lambda x, *, axes: spec([x.shape[a] for a in axes], x.dtype),
    view=lambda v, *, axes: Layout(tuple([v.shape[a] for a in axes]), tuple([v.strides[a] for a in axes]), v.offset),
    eager=lambda xp, x, *, axes: x.transpose(axes), reference=np.transpose,
    vjps=(lambda g, out, x, *, axes: permute_dims(g, _inverse(axes)),),
    samples=lambda rng: [
        Sample((rng.normal(size=(2, 3, 4)),), {"axes": (2, 0, 1)}), Sample((rng.normal(size=(3, 5)),), {"axes": (1, 0)}),
        Sample((np.zeros((0, 3)),), {"axes": (-1, 0)}), Sample((rng.normal(size=()),), {"axes": ()}),
    ],
)  # fmt: skip


@public(PERMUTE)
def permute_dims(x: Any, /, axes: Sequence[int]) -> Any:
    """The axes in another order.

    >>> import hybridml as hml
    >>> hml.permute_dims(hml.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    x = lift(x)
    ndim = x.ndim
    order = tuple([normalize_axis(int(a), ndim) for a in axes])
    if len(order) != ndim or len(set(order)) != ndim:
        raise ShapeError(f"permute_dims of {ndim} axes needs each of them once, got {tuple(axes)}")
    return x if order == tuple(range(ndim)) else call(PERMUTE, x, axes=order)


# broadcast_to


def _broadcast_layout(v: Layout, *, shape: Shape) -> Layout:
    lead = len(shape) - len(v.shape)
    strides = [0] * lead + [
        0 if d == 1 and n != 1 else s for d, s, n in zip(v.shape, v.strides, shape[lead:], strict=True)
    ]
    return Layout(shape, tuple(strides), v.offset)


def _infer_broadcast(x: TensorSpec, *, shape: Shape) -> TensorSpec:
    if len(shape) < x.ndim or broadcast_shapes(x.shape, shape) != shape:
        raise ShapeError(f"cannot broadcast {x} to {shape}")
    return spec(shape, x.dtype)


def _batch_broadcast(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    (x,), shape = operands, attrs["shape"]
    return broadcast_to(reshape(x, (size, *(1,) * (len(shape) + 1 - x.ndim), *x.shape[1:])), (size, *shape))


def _eager_broadcast(xp: Any, x: Any, *, shape: Shape) -> Any:
    """`np.broadcast_to` without its Python: 0.5 us in place of 2. It only knows arrays that export their memory as it is."""
    if xp is not np or not isinstance(x, np.ndarray) or not x.flags.c_contiguous or 0 in shape:
        return xp.broadcast_to(x, shape)
    lead = len(shape) - x.ndim
    strides = [0] * lead
    for d, s, n in zip(x.shape, x.strides, shape[lead:], strict=True):
        if d != n and d != 1:
            raise ValueError("the shapes do not broadcast")  # the shape rule says which
        strides.append(s if d == n else 0)
    return np.ndarray(shape, x.dtype, x, 0, strides)


BROADCAST = _view(
    "broadcast_to", infer=_infer_broadcast, view=_broadcast_layout, batch=_batch_broadcast,
    eager=_eager_broadcast, reference=lambda x, shape: x + np.zeros(shape, x.dtype),
    vjps=(lambda g, out, x, *, shape: sum_to(g, x.shape),),
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 1)),), {"shape": (2, 3, 4)}), Sample((rng.normal(size=()),), {"shape": (3,)}),
        Sample((rng.normal(size=(1, 3)),), {"shape": (0, 3)}),
    ],
)  # fmt: skip


@public(BROADCAST)
def broadcast_to(x: Any, /, shape: Sequence[int]) -> Any:
    """The tensor stretched to a shape along axes of size 1, without copying.

    >>> import hybridml as hml
    >>> hml.broadcast_to([1., 2.], (2, 2)).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    x, new = lift(x), tuple([dim(d) for d in shape])
    return x if new == x.shape else call(BROADCAST, x, shape=new)


def sum_to(g: Any, shape: Shape) -> Any:
    """Undo broadcasting: sum `g` over the axes along which `shape` was stretched."""
    if g.shape == shape:
        return g
    from hybridml.ops.reductions import sum as sum_

    lead = g.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(
        i + lead for i, d in enumerate(shape) if d == 1 and g.shape[i + lead] != 1
    )
    return reshape(sum_(g, axis=axes), shape)


# slicing with constants


def _slice_shape(shape: Shape, key: tuple[slice, ...]) -> Shape:
    return tuple([length(*bounds(s, d)) for s, d in zip(key, shape, strict=True)])


def _bounds(starts: Shape, stops: tuple[int | None, ...], steps: Shape) -> tuple[slice, ...]:
    return tuple([slice(a, b, s) for a, b, s in zip(starts, stops, steps, strict=True)])


def _slice_layout(v: Layout, *, starts: Shape, stops: Any, steps: Shape) -> Layout:
    shape = _slice_shape(v.shape, _bounds(starts, stops, steps))
    offset = (
        v.offset + sum([a * s for a, s in zip(starts, v.strides, strict=True)])
        if 0 not in shape
        else v.offset
    )
    return Layout(shape, tuple([s * k for s, k in zip(v.strides, steps, strict=True)]), offset)


def _reference_slice(x: Any, starts: Any, stops: Any, steps: Any) -> Any:
    for axis, (a, b, s) in enumerate(zip(starts, stops, steps, strict=True)):
        x = np.take(x, list(range(*slice(a, b, s).indices(x.shape[axis]))), axis)
    return x


SLICE = _view(
    "slice", view=_slice_layout,
    infer=lambda x, *, starts, stops, steps: spec(_slice_shape(x.shape, _bounds(starts, stops, steps)), x.dtype),
    eager=lambda xp, x, *, starts, stops, steps: x[_bounds(starts, stops, steps)], reference=_reference_slice,
    vjps=(lambda g, out, x, *, starts, stops, steps: slice_scatter(g, x.shape, starts, stops, steps),),
    samples=lambda rng: [
        Sample((rng.normal(size=(5, 6)),), {"starts": (1, 5), "stops": (4, None), "steps": (1, -2)}),
        Sample((rng.normal(size=(5,)),), {"starts": (0,), "stops": (0,), "steps": (1,)}),
        Sample((rng.normal(size=(4, 3)),), {"starts": (0, 0), "stops": (4, 2), "steps": (3, 1)}),
    ],
)  # fmt: skip


@public(SLICE)
def strided_slice(x: Any, /, starts: Shape, stops: tuple[int | None, ...], steps: Shape) -> Any:
    """One constant slice an axis: what `x[1:4, ::-2]` becomes. A stop of None runs to the end.

    >>> import hybridml as hml
    >>> hml.strided_slice(hml.arange(5), (3,), (None,), (-2,)).tolist()
    [3, 1]
    """
    return call(SLICE, lift(x), starts=tuple(starts), stops=tuple(stops), steps=tuple(steps))


def _infer_slice_scatter(
    g: TensorSpec, *, shape: Shape, starts: Shape, stops: Any, steps: Shape
) -> TensorSpec:
    expected = _slice_shape(shape, _bounds(starts, stops, steps))
    if g.shape != expected:
        raise ShapeError(f"slice_scatter into a slice of shape {expected} of {shape} got {g}")
    return spec(shape, g.dtype)


def _eager_slice_scatter(xp: Any, g: Any, *, shape: Shape, starts: Shape, stops: Any, steps: Shape) -> Any:
    out = xp.zeros(shape, g.dtype)
    out[_bounds(starts, stops, steps)] = g
    return out


def _reference_slice_scatter(g: Any, shape: Any, starts: Any, stops: Any, steps: Any) -> Any:
    where = _reference_slice(np.arange(math.prod(shape)).reshape(shape), starts, stops, steps)
    out = np.zeros(math.prod(shape), g.dtype)
    out[where.ravel()] = g.ravel()
    return out.reshape(shape)


SLICE_SCATTER = register(Op(
    "slice_scatter", Kind.INDEX, provider="slice_scatter", promote=Promote.NO,
    infer=_infer_slice_scatter,
    eager=_eager_slice_scatter, reference=_reference_slice_scatter,
    vjps=(lambda g, out, x, *, shape, starts, stops, steps: strided_slice(g, starts, stops, steps),),
    samples=lambda rng: [
        Sample((rng.normal(size=(3, 2)),), {"shape": (5, 6), "starts": (1, 5), "stops": (4, 1), "steps": (1, -2)}),
    ],
))  # fmt: skip


@public(SLICE_SCATTER)
def slice_scatter(g: Any, /, shape: Shape, starts: Shape, stops: tuple[int | None, ...], steps: Shape) -> Any:
    """Zeros of `shape` with `g` written into the slice: the gradient of `strided_slice`.

    >>> import hybridml as hml
    >>> hml.slice_scatter([1., 2.], (5,), (3,), (None,), (-2,)).tolist()
    [0.0, 2.0, 0.0, 1.0, 0.0]
    """
    return call(
        SLICE_SCATTER,
        lift(g),
        shape=tuple(shape),
        starts=tuple(starts),
        stops=tuple(stops),
        steps=tuple(steps),
    )


# written in the rows above


def narrow(x: Any, axis: int, start: int, stop: int) -> Any:
    """The elements from `start` to `stop` of one axis."""
    starts, stops = [0] * x.ndim, list(x.shape)
    starts[axis], stops[axis] = start, stop
    return (
        x
        if (start, stop) == (0, x.shape[axis])
        else strided_slice(x, tuple(starts), tuple(stops), (1,) * x.ndim)
    )


@composite()
def expand_dims(x: Any, /, *, axis: int = 0) -> Any:
    """A new axis of size 1 at `axis` of the result.

    >>> import hybridml as hml
    >>> hml.expand_dims(hml.zeros((2, 3)), axis=-1).shape
    (2, 3, 1)
    """
    x = lift(x)
    axis = normalize_axis(axis, x.ndim + 1)
    return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


@composite()
def squeeze(x: Any, /, axis: int | Sequence[int] | None = None) -> Any:
    """Axes of size 1 left out: those named, or all of them.

    >>> import hybridml as hml
    >>> hml.squeeze(hml.zeros((1, 3, 1)), axis=0).shape
    (3, 1)
    """
    x = lift(x)
    named = normalize_axes(axis, x.ndim)
    if axis is not None and any(x.shape[a] != 1 for a in named):
        raise ShapeError(f"cannot squeeze axis {axis} of shape {x.shape}: only axes of size 1 can go")
    return reshape(x, [d for i, d in enumerate(x.shape) if d != 1 or i not in named])


@composite()
def flip(x: Any, /, *, axis: int | Sequence[int] | None = None) -> Any:
    """The elements in reverse order along the axes named, or all of them.

    >>> import hybridml as hml
    >>> hml.flip([1., 2., 3.]).tolist()
    [3.0, 2.0, 1.0]
    """
    x = lift(x)
    if not x.size:
        return x
    axes = normalize_axes(axis, x.ndim)
    back = [i in axes for i in range(x.ndim)]
    starts = tuple([d - 1 if b else 0 for d, b in zip(x.shape, back, strict=True)])
    stops = tuple([None if b else d for d, b in zip(x.shape, back, strict=True)])
    return strided_slice(x, starts, stops, tuple([-1 if b else 1 for b in back])) if x.ndim else x


@composite()
def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int], /) -> Any:
    """Axes moved to other places; the rest keep their order.

    >>> import hybridml as hml
    >>> hml.moveaxis(hml.zeros((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    x = lift(x)
    a = [normalize_axis(i, x.ndim) for i in ([source] if isinstance(source, int) else source)]
    b = [normalize_axis(i, x.ndim) for i in ([destination] if isinstance(destination, int) else destination)]
    if len(set(a)) != len(a) or len(set(b)) != len(a) or len(b) != len(a):
        raise ShapeError(
            f"moveaxis needs as many different destinations as sources, got {source} and {destination}"
        )
    order = [i for i in range(x.ndim) if i not in a]
    for place, axis in sorted(zip(b, a, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, order)


@composite()
def swapaxes(x: Any, axis1: int, axis2: int, /) -> Any:
    """Two axes exchanged.

    >>> import hybridml as hml
    >>> hml.swapaxes(hml.zeros((2, 3, 4)), 0, 2).shape
    (4, 3, 2)
    """
    x = lift(x)
    order = list(range(x.ndim))
    a, b = normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim)
    order[a], order[b] = b, a
    return permute_dims(x, order)


@composite(attribute="mT", direct=lambda x: x.mT)
def matrix_transpose(x: Any, /) -> Any:
    """The last two axes exchanged.

    >>> import hybridml as hml
    >>> hml.matrix_transpose(hml.zeros((2, 3, 4))).shape
    (2, 4, 3)
    """
    x = lift(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose needs at least 2 dimensions, got shape {x.shape}")
    return swapaxes(x, -1, -2)


@composite(attribute="T", direct=lambda x: x.T)
def transpose(x: Any, /, axes: Sequence[int] | None = None) -> Any:
    """The axes in reverse order, or in the order given.

    >>> import hybridml as hml
    >>> hml.transpose(hml.zeros((2, 3, 4))).shape
    (4, 3, 2)
    """
    x = lift(x)
    return permute_dims(x, tuple(reversed(range(x.ndim))) if axes is None else axes)
