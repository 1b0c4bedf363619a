"""Additions in order: scatter_add, its form along an axis, and running sums.

Where several elements meet in one place they are added one after the other by one thread, so results do not depend on the number
of threads: work is shared out only along axes on which no two elements meet.
"""

from __future__ import annotations

import numpy as np

from hybridml.kernels.group import NATIVE
from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.boxes import copy
from hybridml.kernels.movement.frame import Frame
from hybridml.kernels.movement.gathers import over_take
from hybridml.kernels.spec import suffix
from hybridml.kernels.views import Place
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Node, Value


def _adds(dtype: np.dtype) -> bool:
    return dtype.char in NATIVE


def _sum(a: str, b: str, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return f"({a} | {b}) != 0"
    return f"{a} + {b}" if dtype.kind == "f" else f"{suffix(dtype)}({a} + {b})"


def scatter_add(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """A copy, then the updates, row by row."""
    _, indices, updates = n.values
    axis, rank = n.attrs["axis"], len(indices.shape)
    strides, index_strides = over_take(n, places, n.out, indices)
    return _scatter("scatter_add", n, places, updates.shape, strides, index_strides, range(axis, axis + rank))


def scatter_add_along_axis(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """A copy, then the updates, along the axis."""
    _, indices, updates = n.values
    axis = n.attrs["axis"]
    strides = tuple([0 if a == axis else s for a, s in enumerate(Layout.contiguous(n.out.shape).strides)])
    running = range(axis, axis + 1)
    return _scatter(
        "scatter_add_along_axis", n, places, updates.shape, strides, places[indices][1].strides, running
    )


def _scatter(
    title: str, n: Node, places: dict[Value, Place], space: tuple[int, ...], strides: tuple[int, ...],
    index_strides: tuple[int, ...], running: range,
) -> list[Lowered] | None:  # fmt: skip
    x, indices, updates = n.values
    axis, dtype = n.attrs["axis"], n.out.dtype
    if not _adds(dtype):
        return None
    whole = Layout.contiguous(n.out.shape)
    start = copy(f"{title}_copy", places[x], n.out, whole)
    if not updates.spec.size:
        return [start]
    frame = Frame(title, space, running)
    new = frame.read(places[updates], places[updates][1].strides, dtype)
    index = frame.read(places[indices], index_strides, indices.dtype)
    out = frame.write(n.out, strides, dtype=dtype)
    k = frame.position(n, index, x.shape[axis])
    at = f"{k} * {frame.stride('o0_axis', whole.strides[axis])}"
    frame.store(out, frame.let(_sum(frame.load(out, at), frame.load(new), dtype), dtype), at)
    return [start, frame.lowered()]


def cumsum(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """The first slice is copied; every other one is the one before it plus the operand."""
    (x,) = n.values
    axis, dtype = n.attrs["axis"], n.out.dtype
    if not _adds(dtype):
        return None
    base, layout = places[x]
    own, size = Layout.contiguous(x.shape), x.shape[axis]
    if n.attrs["reverse"]:
        layout, own = _reversed(layout, axis), _reversed(own, axis)
    one = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    start = base, Layout(one, layout.strides, layout.offset)
    first = copy("cumsum_first", start, n.out, Layout(one, own.strides, own.offset))
    if size == 1:
        return [first]
    space = (*x.shape[:axis], size - 1, *x.shape[axis + 1 :])
    frame = Frame("cumsum", space, (axis,))
    value = frame.read((base, layout), layout.strides, dtype, skip=layout.strides[axis])
    out = frame.write(n.out, own.strides, own.offset, dtype)
    total = frame.let(_sum(frame.load(out), frame.load(value), dtype), dtype)
    frame.store(out, total, frame.stride("o0_axis", own.strides[axis]))
    return [first, frame.lowered()]


def _reversed(layout: Layout, axis: int) -> Layout:
    strides = tuple([-s if a == axis else s for a, s in enumerate(layout.strides)])
    return Layout(layout.shape, strides, layout.offset + (layout.shape[axis] - 1) * layout.strides[axis])
