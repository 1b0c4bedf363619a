"""Indirect loads: take, take_along_axis, and the arithmetic of several indices at once.

Indices count from the end where negative. One beyond its axis is replaced by 0 and flagged, and the program stops after
the kernel.
"""

from __future__ import annotations

import numpy as np

from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.frame import Frame
from hybridml.kernels.space import stretch
from hybridml.kernels.views import Place
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Node, Value

_INT64 = np.dtype(np.int64)


def over_take(
    n: Node, places: dict[Value, Place], x: Value, indices: Value
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides of (x, indices) over the space of `take`'s result, which has the indices' axes in place of `axis`.

    `x` may be any value of the taken tensor's shape; its strides are 0 along the indices' axes.
    """
    axis, strides = n.attrs["axis"], places[x][1].strides
    rest = len(strides) - axis - 1
    taken = (*strides[:axis], *(0,) * len(indices.shape), *strides[axis + 1 :])
    return taken, ((0,) * axis + places[indices][1].strides + (0,) * rest)


def take(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """Rows where the indices vary outside the innermost loop, else element by element."""
    x, indices = n.values
    return _gather("take", n, places, *over_take(n, places, x, indices))


def take_along_axis(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """The indices vary along every axis."""
    x, indices = n.values
    axis = n.attrs["axis"]
    strides = tuple([0 if a == axis else s for a, s in enumerate(places[x][1].strides)])
    return _gather("take_along_axis", n, places, strides, places[indices][1].strides)


def _gather(
    title: str,
    n: Node,
    places: dict[Value, Place],
    x_strides: tuple[int, ...],
    index_strides: tuple[int, ...],
) -> list[Lowered] | None:
    x, indices = n.values
    if not x.spec.size:
        return None  # every index is at fault, and there is not even an element 0 to load instead
    axis = n.attrs["axis"]
    frame = Frame(title, n.out.shape)
    source = frame.read(places[x], x_strides)
    index = frame.read(places[indices], index_strides, indices.dtype)
    target = frame.write(n.out, Layout.contiguous(n.out.shape).strides)
    k = frame.position(n, index, x.shape[axis])
    frame.store(target, frame.load(source, f"{k} * {frame.stride('x0_axis', places[x][1].strides[axis])}"))
    return [frame.lowered()]


def ravel_index(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """Horner's rule over the axes."""
    shape, dims = n.out.shape, n.attrs["dims"]
    frame = Frame("ravel_index", shape)
    handles = [
        frame.read((base, at), stretch(at, shape).strides, base.dtype)
        for base, at in (places[v] for v in n.values)
    ]
    target = frame.write(n.out, Layout.contiguous(shape).strides, dtype=_INT64)
    total = ""
    for axis, (handle, size) in enumerate(zip(handles, dims, strict=True)):
        k = frame.position(n, handle, size, str(axis))
        total = frame.let(f"{total} * n_axis{axis} + {k}", _INT64) if total else k
    frame.store(target, total)
    return [frame.lowered()]
