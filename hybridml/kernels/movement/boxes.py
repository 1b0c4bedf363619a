"""Copies between boxes: concat, pad, slice_scatter. Each is a handful of strided copies and fills of parts of the output."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.frame import Frame, bits
from hybridml.kernels.views import Place
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Node, Value

Box = tuple[tuple[int, ...], tuple[int, ...]]  # where it starts, and its shape


def copy(title: str, place: Place, target: Value, where: Layout) -> Lowered:
    """A kernel that writes the elements at a place into the part `where` of the target, whose shape is the place's."""
    base, layout = place
    frame = Frame(title, layout.shape)
    x = frame.read(place, layout.strides)
    o = frame.write(target, where.strides, where.offset)
    frame.store(o, frame.load(x))
    whole = layout.is_contiguous and not layout.offset and base.spec.size == target.spec.size
    return frame.lowered(((base, target),) if whole and where == Layout.contiguous(target.shape) else ())


def fill(title: str, value: Any, target: Value, where: Layout) -> Lowered:
    """A kernel that writes one value everywhere in a part of the target."""
    frame = Frame(title, where.shape)
    o = frame.write(target, where.strides, where.offset)
    kind = bits(target.dtype)
    with np.errstate(all="ignore"):
        frame.store(o, frame.scalar(np.asarray(value).astype(target.dtype).view(kind).item(), kind))
    return frame.lowered()


def of_nothing(n: Node) -> list[Lowered] | None:
    """A reduction over no elements: its identity everywhere, where it has one."""
    assert n.op.reduce is not None
    value = n.op.reduce.identity(n.out.dtype)
    return (
        None
        if value is None
        else [fill(f"{n.op.name}_of_nothing", value, n.out, Layout.contiguous((n.out.spec.size,)))]
    )


def part(
    shape: tuple[int, ...],
    starts: tuple[int, ...],
    sizes: tuple[int, ...],
    steps: tuple[int, ...] | None = None,
) -> Layout:
    """Where a box of a contiguous tensor lies."""
    whole = Layout.contiguous(shape)
    strides = (
        whole.strides if steps is None else tuple([s * k for s, k in zip(whole.strides, steps, strict=True)])
    )
    return Layout(sizes, strides, sum(a * s for a, s in zip(starts, whole.strides, strict=True)))


def concat(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """Each operand into its stretch of the axis."""
    axis, found, start = n.attrs["axis"], [], 0
    for x in n.values:
        starts = tuple([start if a == axis else 0 for a in range(len(x.shape))])
        if x.spec.size:
            found.append(copy("concat", places[x], n.out, part(n.out.shape, starts, x.shape)))
        start += x.shape[axis]
    return found


def pad(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """The operand into the middle, the value around it."""
    (x,) = n.values
    starts = tuple([before for before, _ in n.attrs["widths"]])
    return _framed("pad", places[x], n, starts, n.attrs["value"])


def slice_scatter(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """The operand into the slice, zeros elsewhere."""
    (g,) = n.values
    starts, steps = n.attrs["starts"], n.attrs["steps"]
    if all(s == 1 or d <= 1 for s, d in zip(steps, g.shape, strict=True)):
        return _framed("slice_scatter", places[g], n, starts, 0)
    found = [fill("slice_scatter_fill", 0, n.out, Layout.contiguous((n.out.spec.size,)))]
    if g.spec.size:
        found.append(copy("slice_scatter", places[g], n.out, part(n.out.shape, starts, g.shape, steps)))
    return found


def _framed(title: str, place: Place, n: Node, starts: tuple[int, ...], value: Any) -> list[Lowered]:
    size = place[1].shape
    if 0 in size:
        return [fill(f"{title}_fill", value, n.out, Layout.contiguous((n.out.spec.size,)))]
    found = [
        fill(f"{title}_fill", value, n.out, part(n.out.shape, *box))
        for box in margins(n.out.shape, starts, size)
    ]
    return [*found, copy(title, place, n.out, part(n.out.shape, starts, size))]


def margins(shape: tuple[int, ...], starts: tuple[int, ...], sizes: tuple[int, ...]) -> Iterator[Box]:
    """Boxes that make up everything of a shape outside of one box in it.

    >>> list(margins((4, 5), (1, 0), (2, 5)))
    [((0, 0), (1, 5)), ((3, 0), (1, 5))]
    """
    for a, d in enumerate(shape):
        for start, stop in ((0, starts[a]), (starts[a] + sizes[a], d)):
            box = (*sizes[:a], stop - start, *shape[a + 1 :])
            if math.prod(box):
                yield (*starts[:a], start, *(0,) * (len(shape) - a - 1)), box
