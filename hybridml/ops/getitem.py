"""`x[...]`: NumPy's indexing, taken apart into slices, reshapes and one `take`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hybridml.errors import DTypeError, IndexOutOfRangeError
from hybridml.ops.door import lift
from hybridml.ops.indexing import integer_index, nonzero, ravel_index, take
from hybridml.ops.registry import composite
from hybridml.ops.spec import is_int
from hybridml.ops.view import moveaxis, permute_dims, reshape, strided_slice
from hybridml.symbolic import dim
from hybridml.symbolic.slices import bounds, length

_BASIC = frozenset((int, slice, type(None), type(Ellipsis)))


def _direct(x: Any, key: Any) -> Any:
    """NumPy's own indexing, which means the same where the key is of these kinds."""
    cls = type(key)
    if cls is int or cls is slice:
        return x[key]
    if cls is np.ndarray and key.dtype.kind == "i":
        return x.take(key, 0)
    for k in key if cls is tuple else (key,):
        if type(k) not in _BASIC and not (type(k) is np.ndarray and k.ndim and k.dtype.kind in "ib"):
            return NotImplemented
    return x[key]


@composite(method="__getitem__", direct=_direct)
def getitem(x: Any, key: Any, /) -> Any:
    """What `x[key]` is: integers, slices, None, Ellipsis, integer tensors and bool masks, with NumPy's meaning.

    Integer tensors are broadcast against each other. A mask selects where it is true; the result's shape depends on its
    values, so inside a traced function a mask must be known while tracing (else use `hml.where`). Raises
    IndexOutOfRangeError for an index beyond its axis.

    >>> import hybridml as hml
    >>> x = hml.asarray([[1., 2., 3.], [4., 5., 6.]])
    >>> x[0, 1:].tolist(), x[..., ::-1].tolist()
    ([2.0, 3.0], [[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]])
    >>> x[[1, 0], [0, 2]].tolist(), x[x > 3].tolist()
    ([4.0, 3.0], [4.0, 5.0, 6.0])
    """
    x = lift(x)
    items = _items(x, key)
    sliced, arrays, place = _basic(x, items)
    return _gather(sliced, arrays, place) if arrays else sliced


def _items(x: Any, key: Any) -> list[Any]:
    """One item an axis (int, slice, or index tensor) with None in between; masks become index tensors."""
    items: list[Any] = []
    used = 0
    for k in key if isinstance(key, tuple) else (key,):
        if k is None or k is Ellipsis or isinstance(k, slice):
            used += isinstance(k, slice)
            items.append(k)
        elif is_int(k) and not isinstance(k, bool):
            used += 1
            items.append(dim(k))
        else:
            found = _index_tensors(k, x)
            used += len(found)
            items.extend(found)
    if used > x.ndim:
        raise IndexOutOfRangeError(f"{used} indices for a tensor of shape {x.shape}")
    dots = [i for i, k in enumerate(items) if k is Ellipsis]
    if len(dots) > 1:
        raise IndexOutOfRangeError("an index can have only one Ellipsis")
    fill = [slice(None)] * (x.ndim - used)
    if not dots:
        return items + fill
    return items[: dots[0]] + fill + items[dots[0] + 1 :]


def _index_tensors(k: Any, x: Any) -> list[Any]:
    if isinstance(k, (bool, str, float)):
        raise DTypeError(
            f"cannot index with {k!r}; expected integers, slices, None, ..., integer or bool tensors"
        )
    k = lift(k, x)
    return (
        [_Masked(i, n) for i, n in zip(nonzero(k), k.shape, strict=True)]
        if k.dtype.kind == "b"
        else [integer_index(k)]
    )


class _Masked:
    """One axis of a mask: where it is true, and the size the axis must have."""

    def __init__(self, indices: Any, size: int) -> None:
        self.indices, self.size = indices, size


def _basic(x: Any, items: list[Any]) -> tuple[Any, list[tuple[int, Any]], int]:
    """Integers, slices and None applied.

    Returns the tensor left, its axes that index tensors apply to, and the axis at which their shape goes (0 where
    slices part them, as NumPy has it).
    """
    starts: list[int] = []
    stops: list[int | None] = []
    steps: list[int] = []
    shape: list[int] = []
    arrays: list[tuple[int, Any]] = []
    advanced = [i for i, k in enumerate(items) if k is not None and not isinstance(k, slice)]
    place = 0
    for position, k in enumerate(items):
        if advanced and position == advanced[0]:
            place = len(shape)
        if k is None:
            shape.append(1)
            continue
        axis = len(starts)
        n = x.shape[axis]
        start, stop, step = 0, n, 1
        if is_int(k):
            if not -n <= k < n:
                raise IndexOutOfRangeError(
                    f"index {k} is out of range for axis {axis} of size {n} of a tensor of shape {x.shape}"
                )
            start = k + n if k < 0 else k
            stop = start + 1
        elif isinstance(k, slice):
            start, stop, step = bounds(k, n)
            shape.append(length(start, stop, step))
        else:
            if isinstance(k, _Masked):
                if k.size != n:
                    raise IndexOutOfRangeError(
                        f"a mask of size {k.size} on axis {axis} of a tensor of shape {x.shape}"
                    )
                k = k.indices
            arrays.append((len(shape), k))
            shape.append(n)
        starts.append(start)
        stops.append(None if stop < 0 else stop)
        steps.append(step)
    if any(s != 0 for s in starts) or any(s != 1 for s in steps) or tuple(stops) != x.shape:
        x = strided_slice(x, tuple(starts), tuple(stops), tuple(steps))
    apart = advanced and advanced[-1] - advanced[0] + 1 != len(advanced)
    return reshape(x, shape), arrays, 0 if apart else place


def _gather(x: Any, arrays: list[tuple[int, Any]], place: int) -> Any:
    if len(arrays) == 1:
        axis, indices = arrays[0]
        out = take(x, indices, axis=axis)
        if axis == place or indices.ndim == 0:
            return out
        return moveaxis(
            out, tuple(range(axis, axis + indices.ndim)), tuple(range(place, place + indices.ndim))
        )
    axes = [a for a, _ in arrays]
    rest = [a for a in range(x.ndim) if a not in axes]
    order = rest[:place] + axes + rest[place:]
    dims = tuple([x.shape[a] for a in axes])
    x = permute_dims(x, order)
    merged = reshape(x, (*x.shape[:place], math.prod(dims), *x.shape[place + len(axes) :]))
    return take(merged, ravel_index([i for _, i in arrays], dims), axis=place)
