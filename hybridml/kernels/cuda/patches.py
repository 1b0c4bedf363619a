"""What windows see, side by side ("im2col"), and its gradient ("col2im"): rows and kernels.

Where a window lies is read from tables: the row (column) of the image that a tap of a window sees, or -1 where there is none.
So padding, strides and dilation are no arithmetic of a kernel. The gradient adds up, for each pixel, the windows that see it, tap
after tap: nothing is written twice, and the order is always the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.frame import Frame, bits
from hybridml.kernels.views import Place
from hybridml.ops.registry import Kind, Layout, Op
from hybridml.ops.spec import TensorSpec, spec
from hybridml.ops.windows import Windows
from hybridml.trace.graph import Node, Value

MOST_TAPS = 25  # that are written out in one kernel: 64 took 254 registers, 25 stay within 128. More take several kernels
_BOOL, _INT64 = np.dtype(np.bool_), np.dtype(np.int64)

Generated = tuple[Lowered, tuple[Value, ...], tuple[Value, ...]]


def seen(w: Windows) -> list[np.ndarray]:
    """For rows, then columns: [windows, taps], the place in the image."""
    found = []
    for size, count, taps, stride, (before, _), dilation in _axes(w):
        at = np.arange(count)[:, None] * stride + np.arange(taps) * dilation - before
        found.append(np.where((at >= 0) & (at < size), at, -1).astype(np.int32))
    return found


def seen_by(w: Windows) -> list[np.ndarray]:
    """For rows, then columns: [places in the image, taps], the window whose tap sees it."""
    found = []
    for size, count, taps, stride, (before, _), dilation in _axes(w):
        at = np.arange(size)[:, None] + before - np.arange(taps) * dilation
        inside = (at >= 0) & (at % stride == 0) & (at // stride < count)
        found.append(np.where(inside, at // stride, -1).astype(np.int32))
    return found


def _axes(w: Windows) -> Any:
    return zip(w.size, w.count, w.window, w.strides, w.padding, w.dilation, strict=True)


# the rows


def _infer_patches(x: TensorSpec, rows: TensorSpec, columns: TensorSpec, *, groups: int) -> TensorSpec:
    (high, down), (wide, across) = rows.shape, columns.shape
    return spec((groups, x.shape[0], high, wide, down, across, x.shape[3] // groups), x.dtype)


def _eager_patches(xp: Any, x: Any, rows: Any, columns: Any, *, groups: int) -> Any:
    found = x[:, rows.clip(0)][:, :, :, columns.clip(0)]  # [examples, high, down, wide, across, channels]
    outside = (rows < 0)[:, :, None, None, None] | (columns < 0)[:, :, None]
    found = xp.where(outside, xp.zeros((), x.dtype), found).transpose(0, 1, 3, 2, 4, 5)
    found = found.reshape(*found.shape[:5], groups, x.shape[3] // groups)
    return xp.ascontiguousarray(found.transpose(5, 0, 1, 2, 3, 4, 6))


def _infer_image(p: TensorSpec, rows: TensorSpec, columns: TensorSpec) -> TensorSpec:
    return spec((p.shape[1], rows.shape[0], columns.shape[0], p.shape[0] * p.shape[6]), p.dtype)


def _eager_image(xp: Any, p: Any, rows: Any, columns: Any) -> Any:
    groups, examples, each = p.shape[0], p.shape[1], p.shape[6]
    out = xp.zeros((examples, len(rows), len(columns), groups, each), p.dtype)
    for a, b in np.ndindex(*p.shape[4:6]):
        r, c = rows[:, a], columns[:, b]
        outside = (r < 0)[:, None, None, None] | (c < 0)[:, None, None]
        found = p[:, :, r.clip(0)][:, :, :, c.clip(0)][:, :, :, :, a, b].transpose(1, 2, 3, 0, 4)
        out += xp.where(outside, xp.zeros((), p.dtype), found)
    return out.reshape(*out.shape[:3], groups * each)


PATCHES = Op("im2col", Kind.INDEX, provider="patches", infer=_infer_patches, eager=_eager_patches)
"""[groups, examples, windows down, windows across, taps down, taps across, channels of a group] of images and two tables `seen`."""

IMAGE = Op("col2im", Kind.INDEX, provider="image", infer=_infer_image, eager=_eager_image)
"""Images from what PATCHES gives and two tables `seen_by`: each pixel is the sum over the taps that see it."""


# the kernels


def patches(n: Node, places: dict[Value, Place], threads: int) -> list[Any] | None:
    """An element of the result a thread; those outside of the image are 0."""
    (base, at), (rows, _), (columns, _) = [places[v] for v in n.values]
    taps, across, each = n.out.shape[4:]
    s = at.strides
    frame = Frame("im2col", n.out.shape)
    x = frame.read((base, at), (each * s[3], s[0], 0, 0, 0, 0, s[3]))
    r = frame.read(places[n.values[1]], (0, 0, taps, 0, 1, 0, 0), np.dtype(np.int32))
    c = frame.read(places[n.values[2]], (0, 0, 0, across, 0, 1, 0), np.dtype(np.int32))
    o = frame.write(n.out, Layout.contiguous(n.out.shape).strides)
    zero = frame.scalar(0, bits(base.dtype))
    row, column = frame.load(r), frame.load(c)
    outside = frame.let(f"({row} | {column}) < 0", _BOOL, "padding")
    place = frame.let(
        f"0 if {outside} else i64({row}) * {frame.word('x0_row', s[1])} + i64({column}) * {frame.word('x0_column', s[2])}",
        _INT64,
    )
    value = frame.load(x, place)
    frame.store(o, frame.let(f"{zero} if {outside} else {value}", bits(base.dtype)))
    return [(frame.lowered(), (base, rows, columns), n.outputs)]


def image(n: Node, places: dict[Value, Place], threads: int) -> list[Any] | None:
    """A pixel's channel a thread: the taps that see it, one after the other. Those of a large window take several kernels, each of which
    goes on from what the one before has stored."""
    taps = list(np.ndindex(n.values[0].shape[4:6]))
    return [_image(n, places, taps[k : k + MOST_TAPS], k > 0) for k in range(0, len(taps), MOST_TAPS)]


def _image(n: Node, places: dict[Value, Place], taps: list[tuple[int, ...]], goes_on: bool) -> Generated:
    (base, at), (rows, _), (columns, _) = [places[v] for v in n.values]
    groups, _, _, _, down_taps, across_taps, each = n.values[0].shape
    group, example, high, wide, down, over, channel = at.strides
    frame = Frame("col2im", (*n.out.shape[:3], groups, each))
    x = frame.read((base, at), (example, 0, 0, group, channel), base.dtype)
    r = frame.read(places[n.values[1]], (0, down_taps, 0, 0, 0), np.dtype(np.int32))
    c = frame.read(places[n.values[2]], (0, 0, across_taps, 0, 0), np.dtype(np.int32))
    o = frame.write(n.out, Layout.contiguous((*n.out.shape[:3], groups, each)).strides, dtype=base.dtype)
    zero = frame.scalar(0.0, base.dtype)
    total = frame.load(o) if goes_on else zero
    found_rows = {a: frame.load(r, str(a) if a else "") for a in sorted({a for a, _ in taps})}
    found_columns = {b: frame.load(c, str(b) if b else "") for b in sorted({b for _, b in taps})}
    stride_row, stride_column = frame.word("x0_row", high), frame.word("x0_column", wide)
    for a, b in taps:
        row, column, tap = found_rows[a], found_columns[b], frame.word(f"x0_tap{a}_{b}", a * down + b * over)
        outside = frame.let(f"({row} | {column}) < 0", _BOOL, "no such window")
        place = frame.let(
            f"0 if {outside} else i64({row}) * {stride_row} + i64({column}) * {stride_column} + {tap}", _INT64
        )
        value = frame.load(x, place)
        total = frame.let(f"{total} + ({zero} if {outside} else {value})", base.dtype)
    frame.store(o, total)
    return frame.lowered(), (base, rows, columns, *(n.outputs if goes_on else ())), n.outputs


KERNELS = {"patches": patches, "image": image}
