"""Gather and scatter: take, take_along_axis, and their gradients, which are each other.

Indices count from the end where negative, as in NumPy, and raise IndexOutOfRangeError beyond.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import DTypeError, IndexOutOfRangeError, ShapeError, TraceError
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import astype
from hybridml.ops.halves import in_single
from hybridml.ops.registry import Kind, Op, Promote, Sample, Saves, public, register
from hybridml.ops.spec import Shape, TensorSpec, broadcast_shapes, normalize_axis, spec
from hybridml.ops.view import broadcast_to, moveaxis, reshape


def zeros_view(shape: Shape, like: Any) -> Any:
    """Zeros that take no memory, of the dtype and on the device of `like`."""
    return broadcast_to(lift(np.zeros((), like.dtype), like), shape)


def wrap_index(xp: Any, indices: Any, n: int, axis: int) -> Any:
    """Indices counted from the front, or IndexOutOfRangeError with the first bad one."""
    bad = (indices < -n) | (indices >= n)
    if bad.any():
        raise IndexOutOfRangeError(
            f"index {int(indices[bad][0])} is out of range for axis {axis} of size {n}"
        )
    return xp.where(indices < 0, indices + n, indices)


def _second(specs: Any, attrs: dict[str, Any]) -> Any:
    """The second operand indexes the axis of the first that an attribute names."""
    return ((1, attrs["axis"], specs[0].shape[attrs["axis"]]),)


def integer_index(indices: Any, like: Any = None) -> Any:
    """Indices as a signed integer tensor, or DTypeError; a list comes to lie on the device of `like`."""
    indices = lift(indices, like)
    if indices.dtype.kind not in "iu":
        if indices.size == 0:
            return astype(indices, dtypes.int64)  # an empty list has no dtype of its own
        raise DTypeError(
            f"indices must be integers, got {indices.dtype.name}; cast them with .astype(hml.int64)"
        )
    return astype(indices, dtypes.int64) if indices.dtype.kind == "u" else indices


# take


def _infer_take(x: TensorSpec, indices: TensorSpec, *, axis: int) -> TensorSpec:
    return spec((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)


def _eager_take(xp: Any, x: Any, indices: Any, *, axis: int) -> Any:
    if xp is np:
        try:
            return x.take(indices, axis)
        except IndexError:
            pass  # told again below, by name
    return xp.take(x, wrap_index(xp, xp.asarray(indices), x.shape[axis], axis), axis=axis)


def _take_vjp(g: Any, out: Any, x: Any, indices: Any, *, axis: int) -> Any:
    return scatter_add(zeros_view(x.shape, g), indices, g, axis=axis)


def _take_samples(rng: np.random.Generator) -> Any:
    x = rng.normal(size=(5, 4, 3))
    for indices, axis in (([0, -1, 0], 0), ([[1, 2], [3, 3]], 1), (2, -1), ([4, 4, 4, 4], 0)):
        yield Sample((x, np.array(indices)), {"axis": axis}, label=f"{indices} on axis {axis}")
    yield Sample((x[:, 0, 0], np.zeros((0,), np.int64)), label="no indices")


def _examples_merged(x: Any, axis: int) -> Any:
    """The axis moved to the front of each example and merged with the examples."""
    x = moveaxis(x, axis + 1, 1)
    return reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


def _index_of_merged(indices: Any, mapped: bool, size: int, n: int) -> Any:
    if not mapped:
        indices = broadcast_to(indices, (size, *indices.shape))
    from hybridml.ops.statistics import iota  # it is made of rows that are made of these

    example = iota((size, *(1,) * (indices.ndim - 1)), 0)
    return ravel_index((example, indices), (size, n))


def _batch_take(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    (x, indices), axis = operands, attrs["axis"]
    if not mapped[1]:
        return take(x, indices, axis=axis + 1)
    if not mapped[0]:
        return moveaxis(take(x, indices, axis=axis), axis, 0)
    out = take(_examples_merged(x, axis), _index_of_merged(indices, True, size, x.shape[axis + 1]), axis=0)
    inside = tuple(range(1, indices.ndim))
    return moveaxis(out, inside, tuple([i + axis for i in inside]))


def _batch_scatter(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    axis = attrs["axis"]
    x, updates = [
        a if m else broadcast_to(a, (size, *a.shape)) for a, m in zip(operands[::2], mapped[::2], strict=True)
    ]
    indices = operands[1]
    if not mapped[1]:
        return scatter_add(x, indices, updates, axis=axis + 1)
    n = x.shape[axis + 1]
    inside = tuple(range(1, indices.ndim))
    new = moveaxis(updates, tuple([i + axis for i in inside]), inside)
    out = scatter_add(_examples_merged(x, axis), _index_of_merged(indices, True, size, n), new, axis=0)
    return moveaxis(reshape(out, (size, n, *out.shape[1:])), 1, axis + 1)


TAKE = register(Op(
    "take", Kind.INDEX, batch=_batch_take,
    provider="take", indexes=_second, infer=_infer_take, eager=_eager_take, vjps=(_take_vjp, None), saves=Saves.INPUTS, promote=Promote.NO,
    samples=_take_samples, reference=lambda x, i, axis=0: np.take(x, i, axis=axis),
))  # fmt: skip


@public(TAKE)
def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    """The elements (rows, ...) of an axis at integer `indices` of any shape, which replaces the axis.

    The gradient of an element is the sum over all the places that read it.

    >>> import hybridml as hml
    >>> hml.take([[1., 2.], [3., 4.]], [1, -1, 0], axis=0).tolist()
    [[3.0, 4.0], [3.0, 4.0], [1.0, 2.0]]
    """
    x = lift(x)
    if axis is None:
        if x.ndim != 1:
            raise ShapeError(f"take from {x.ndim} dimensions needs an axis")
        axis = 0
    return call(TAKE, x, integer_index(indices, x), axis=normalize_axis(axis, x.ndim))


# scatter_add


def _infer_scatter(x: TensorSpec, indices: TensorSpec, updates: TensorSpec, *, axis: int) -> TensorSpec:
    expected = _infer_take(x, indices, axis=axis).shape
    if updates.shape != expected:
        raise ShapeError(
            f"scatter_add of {x} at {indices} on axis {axis} needs updates of shape {expected}, got {updates}"
        )
    return x


def _sum_runs(xp: Any, values: Any, starts: Any, dtype: Any) -> Any:
    """The sums of runs of rows: each begins where `starts` says, and ends where the next one begins. Always in the same order.

    CuPy's `add.reduceat` takes differences of running sums: digits are lost, and a NaN spreads to all runs behind its own. So neighbours
    are added up, which halves the runs, until each is one row.
    """
    if xp is np:
        return np.add.reduceat(values, starts, axis=0, dtype=dtype)
    values = values.astype(dtype)
    begins = xp.zeros(len(values), np.int64)
    begins[starts] = 1
    run = xp.cumsum(begins) - 1
    rank = xp.arange(len(values)) - starts[run]  # of a row in its run
    while len(values) > len(starts):
        even = xp.flatnonzero(rank % 2 == 0)
        after = xp.minimum(even + 1, len(values) - 1)
        paired = ((after > even) & (run[after] == run[even])).reshape(-1, *[1] * (values.ndim - 1))
        values = xp.where(paired, values[even] + values[after], values[even])
        run, rank = run[even], rank[even] // 2
    return values


def _eager_scatter(xp: Any, x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
    """Updates are sorted by index and summed in runs: much faster than `np.add.at` on rows, and as deterministic."""
    if updates.shape != (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]):
        raise ValueError("updates do not fit")
    out = xp.array(x, order="C")
    rows = xp.moveaxis(out, axis, 0)
    index = wrap_index(xp, indices.reshape(-1), x.shape[axis], axis)
    flat = updates.reshape((*x.shape[:axis], index.size, *x.shape[axis + 1 :]))
    new = xp.moveaxis(flat, axis, 0)
    if not index.size:
        return out
    order = xp.argsort(index, kind="stable")
    ordered = index[order]
    starts = xp.concatenate([xp.zeros(1, np.int64), 1 + xp.flatnonzero(ordered[1:] != ordered[:-1])])
    rows[ordered[starts]] += _sum_runs(xp, new[order], starts, x.dtype)
    return out


def _scatter_samples(rng: np.random.Generator) -> Any:
    x = rng.normal(size=(5, 4))
    yield Sample((x, np.array([0, -1, 0, 3]), rng.normal(size=(4, 4))), label="rows, repeated")
    yield Sample((x, np.array([[1, 2], [3, 3]]), rng.normal(size=(5, 2, 2))), {"axis": 1}, label="on axis 1")
    yield Sample((x[:, 0], np.array(2), rng.normal(size=())), label="one element")
    yield Sample((x, np.zeros((0,), np.int64), np.zeros((0, 4))), label="nothing")


def _reference_scatter(x: Any, indices: Any, updates: Any, axis: int = 0) -> Any:
    out = np.array(x)
    lead = out.shape[:axis]
    for where_ in np.ndindex(*lead, *indices.shape):
        before, inside = where_[:axis], where_[axis:]
        out[(*before, indices[inside])] += updates[where_]
    return out


SCATTER_ADD = register(Op(
    "scatter_add", Kind.INDEX, batch=_batch_scatter,
    provider="scatter_add", indexes=_second, infer=_infer_scatter, eager=in_single(_eager_scatter), promote=Promote.NO, saves=Saves.INPUTS,
    vjps=(
        lambda g, out, x, indices, updates, *, axis: g, None,
        lambda g, out, x, indices, updates, *, axis: take(g, indices, axis=axis),
    ),
    samples=_scatter_samples, reference=_reference_scatter,
))  # fmt: skip


@public(SCATTER_ADD)
def scatter_add(x: Any, indices: Any, updates: Any, /, *, axis: int = 0) -> Any:
    """`x` with `updates` added at `indices` of an axis; repeated indices add up. The opposite of `take`.

    updates: the shape of `take(x, indices, axis=axis)`.

    >>> import hybridml as hml
    >>> hml.scatter_add([0., 0., 0.], [0, 2, 2], [1., 2., 3.]).tolist()
    [1.0, 0.0, 5.0]
    """
    x = lift(x)
    return call(
        SCATTER_ADD,
        x,
        integer_index(indices, x),
        astype(lift(updates, x), x.dtype),
        axis=normalize_axis(axis, x.ndim),
    )


# take_along_axis and its opposite


def _infer_take_along(x: TensorSpec, indices: TensorSpec, *, axis: int) -> TensorSpec:
    want, got = list(x.shape), list(indices.shape)
    if len(want) != len(got) or want[:axis] + want[axis + 1 :] != got[:axis] + got[axis + 1 :]:
        raise ShapeError(f"take_along_axis of {x} with indices {indices}: all axes but {axis} must be equal")
    return spec(indices.shape, x.dtype)


def _grid(xp: Any, indices: Any, n: int, axis: int) -> tuple[Any, ...]:
    grid = list(xp.ogrid[tuple([slice(0, d) for d in indices.shape])])
    grid[axis] = wrap_index(xp, indices, n, axis)
    return tuple(grid)


def _along_samples(rng: np.random.Generator) -> Any:
    x = rng.normal(size=(3, 4))
    yield Sample((x, rng.integers(-4, 4, (3, 6))), {"axis": 1}, label="more than there are")
    yield Sample((x, rng.integers(0, 3, (2, 4))), {"axis": 0}, label="axis 0")
    yield Sample((x, np.array([[0, 3]])), {"axis": -1}, label="broadcast indices")
    yield Sample((x, np.zeros((3, 0), np.int64)), label="no indices")


TAKE_ALONG = register(Op(
    "take_along_axis", Kind.INDEX, provider="take_along_axis", indexes=_second, infer=_infer_take_along,
    promote=Promote.NO, saves=Saves.INPUTS,
    eager=lambda xp, x, indices, *, axis: x[_grid(xp, indices, x.shape[axis], axis)],
    vjps=(lambda g, out, x, i, *, axis: scatter_add_along_axis(zeros_view(x.shape, g), i, g, axis=axis), None),
    samples=_along_samples, reference=lambda x, i, axis=-1: np.take_along_axis(x, i, axis=axis),
))  # fmt: skip


@public(TAKE_ALONG)
def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Any:
    """For each position of `indices`, the element of `x` at that index of `axis` and the same place on the other axes.

    >>> import hybridml as hml
    >>> hml.take_along_axis([[1., 2.], [3., 4.]], [[1], [0]]).tolist()
    [[2.0], [3.0]]
    """
    x = lift(x)
    indices = integer_index(indices, x)
    if x.ndim != indices.ndim:
        raise ShapeError(
            f"take_along_axis needs as many dimensions on both sides, got {x.shape} and {indices.shape}"
        )
    axis = normalize_axis(axis, x.ndim)
    others = broadcast_shapes(
        (*x.shape[:axis], 1, *x.shape[axis + 1 :]), (*indices.shape[:axis], 1, *indices.shape[axis + 1 :])
    )
    x = broadcast_to(x, (*others[:axis], x.shape[axis], *others[axis + 1 :]))
    indices = broadcast_to(indices, (*others[:axis], indices.shape[axis], *others[axis + 1 :]))
    return call(TAKE_ALONG, x, indices, axis=axis)


def _infer_scatter_along(x: TensorSpec, indices: TensorSpec, updates: TensorSpec, *, axis: int) -> TensorSpec:
    _infer_take_along(x, indices, axis=axis)
    if updates.shape != indices.shape:
        raise ShapeError(
            f"scatter_add_along_axis needs updates of the indices' shape {indices.shape}, got {updates}"
        )
    return x


def _eager_scatter_along(xp: Any, x: Any, indices: Any, updates: Any, *, axis: int) -> Any:
    if updates.shape != indices.shape:
        raise ValueError("updates do not fit")
    out = xp.array(x, order="C")
    if xp is np:
        np.add.at(out, _grid(xp, indices, x.shape[axis], axis), updates)
        return out
    if not indices.size:
        return out
    # CuPy's add.at adds atomically, in an order that changes from run to run, and not to int64.
    place = xp.arange(out.size).reshape(out.shape)[_grid(xp, indices, x.shape[axis], axis)].reshape(-1)
    order = xp.argsort(place, kind="stable")
    ordered = place[order]
    starts = xp.concatenate([xp.zeros(1, np.int64), 1 + xp.flatnonzero(ordered[1:] != ordered[:-1])])
    flat = out.reshape(-1)
    flat[ordered[starts]] += _sum_runs(xp, updates.reshape(-1)[order], starts, x.dtype)
    return out


def _reference_scatter_along(x: Any, indices: Any, updates: Any, axis: int = -1) -> Any:
    out = np.array(x)
    for where_ in np.ndindex(*indices.shape):
        to = list(where_)
        to[axis] = indices[where_]
        out[tuple(to)] += updates[where_]
    return out


def _scatter_along_samples(rng: np.random.Generator) -> Any:
    x = rng.normal(size=(3, 4))
    yield Sample((x, rng.integers(-4, 4, (3, 6)), rng.normal(size=(3, 6))), {"axis": 1}, label="repeated")
    yield Sample((x, rng.integers(0, 3, (2, 4)), rng.normal(size=(2, 4))), {"axis": 0}, label="axis 0")


SCATTER_ALONG = register(Op(
    "scatter_add_along_axis", Kind.INDEX, provider="scatter_add_along_axis", indexes=_second, infer=_infer_scatter_along,
    promote=Promote.NO, saves=Saves.INPUTS,
    eager=in_single(_eager_scatter_along),
    vjps=(
        lambda g, out, x, i, updates, *, axis: g, None,
        lambda g, out, x, i, updates, *, axis: take_along_axis(g, i, axis=axis),
    ),
    samples=_scatter_along_samples, reference=_reference_scatter_along,
))  # fmt: skip


@public(SCATTER_ALONG)
def scatter_add_along_axis(x: Any, indices: Any, updates: Any, /, *, axis: int = -1) -> Any:
    """`x` with each update added at its index of `axis`: the opposite of `take_along_axis`.

    >>> import hybridml as hml
    >>> hml.scatter_add_along_axis([[0., 0.]], [[1, 1]], [[2., 3.]]).tolist()
    [[0.0, 5.0]]
    """
    x = lift(x)
    axis = normalize_axis(axis, x.ndim)
    return call(SCATTER_ALONG, x, integer_index(indices, x), astype(lift(updates, x), x.dtype), axis=axis)


# several index tensors at once


def _infer_ravel(*indices: TensorSpec, dims: Shape) -> TensorSpec:
    return spec(broadcast_shapes(*[i.shape for i in indices]), dtypes.int64)


def _eager_ravel(xp: Any, *indices: Any, dims: Shape) -> Any:
    out = 0
    for axis, (i, n) in enumerate(zip(indices, dims, strict=True)):
        out = out * n + wrap_index(xp, i, n, axis).astype(np.int64)
    return out


def _batch_ravel(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    ndim = max(x.ndim - m for x, m in zip(operands, mapped, strict=True))
    wide = [
        reshape(x, (size, *(1,) * (ndim + 1 - x.ndim), *x.shape[1:])) if m else x
        for x, m in zip(operands, mapped, strict=True)
    ]
    return ravel_index(wide, attrs["dims"])


RAVEL_INDEX = register(Op(
    "ravel_index", Kind.INDEX, batch=_batch_ravel, provider="ravel_index",
    indexes=lambda specs, attrs: [(i, i, n) for i, n in enumerate(attrs["dims"])],
    infer=_infer_ravel, eager=_eager_ravel, promote=Promote.NO,
    samples=lambda rng: [
        Sample(((np.array([0, -1, 2]), np.array([[1], [-4]])), (3, 4)), differentiable=False),
        Sample(((np.array([0, 1, 2]),), (3,)), differentiable=False),
    ],
    reference=lambda indices, dims: np.ravel_multi_index(
        tuple([np.where(i < 0, i + n, i) for i, n in zip(np.broadcast_arrays(*indices), dims, strict=True)]), dims
    ),
))  # fmt: skip


@public(RAVEL_INDEX)
def ravel_index(indices: Any, dims: Shape, /) -> Any:
    """One index tensor an axis of `dims`, broadcast against each other, as positions in the flattened array.

    >>> import hybridml as hml
    >>> hml.ravel_index(([0, 1], [2, -1]), (2, 3)).tolist()
    [2, 5]
    """
    placed = next((i for i in indices if hasattr(i, "spec")), None)
    return call(RAVEL_INDEX, *[integer_index(i, placed) for i in indices], dims=tuple(dims))


def _infer_nonzero(x: TensorSpec) -> Any:
    raise TraceError(
        f"the shape of nonzero({x}), and so of x[mask], depends on values, which a trace does not have; "
        "use hml.where(mask, x, 0), or index outside the function"
    )


def _refuse_nonzero(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    raise ShapeError(
        "nonzero, and so x[mask], has a result of another shape for each example, which hml.vmap cannot put side by side; "
        "use hml.where(mask, x, 0)"
    )


NONZERO = register(Op(
    "nonzero", Kind.INDEX, batch=_refuse_nonzero, infer=_infer_nonzero, eager=lambda xp, x: tuple(xp.nonzero(x)), promote=Promote.NO,
    doc="Where x is not zero.",
))  # fmt: skip


@public(NONZERO)
def nonzero(x: Any, /) -> tuple[Any, ...]:
    """Where x is not zero: one integer tensor an axis. Eager only, because the shape depends on the values.

    >>> import hybridml as hml
    >>> [i.tolist() for i in hml.nonzero([[0, 3], [4, 0]])]
    [[0, 1], [1, 0]]
    """
    x = lift(x)
    if x.ndim == 0:
        raise ShapeError("nonzero needs at least 1 dimension, got a 0-d tensor")
    return call(NONZERO, x)
