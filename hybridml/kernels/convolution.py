"""Convolutions as steps of a program: which kernel, how much a panel holds, how the work is split.

All three directions are matrix products over windows; `conv_loops` says how. Operands are contiguous.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from hybridml.kernels import conv_layout as at
from hybridml.kernels import gemm, jit
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.boxes import fill
from hybridml.kernels.steps import CHUNK_NANOSECONDS, RoutineStep
from hybridml.kernels.views import Place
from hybridml.kernels.walk import Walk, pieces
from hybridml.ops.registry import Layout
from hybridml.ops.spec import spec
from hybridml.symbolic import has_dims, hint
from hybridml.trace.graph import Node, Value

Places = dict[Value, Place]
Steps = list[RoutineStep | tuple[Lowered, tuple[Value, ...], tuple[Value, ...]]]

_PANEL_ROW = 1024  # bytes of a window that a panel holds at once
_LANE_BYTES = 64  # room behind each row of a panel
_MOST_WINDOWS = 256
_PIECE_WORK = 1 << 18  # multiplications that make a piece worth handing to another thread
_PART_WORK = 1 << 20  # multiplications that make a part of a sum worth its own memory
_MOST_PARTS = 16
_PARTS_BYTES = 1 << 25
_NEAR_BYTES = 1 << 17  # of a results' gradient that are still in a near cache once a part of it has been made
_SHARE = 16  # of a gradient's bytes that may be added for parts of sums
_MULTIPLICATIONS_A_NANOSECOND = {False: 25.0, True: 5.0}  # depthwise or not
_FEW_FILTERS = 16
_NARROW = 24  # windows in a row: fewer do not fill the tiles of a product


def load(entry: str, dtype: str, depthwise: bool = False) -> Kernel:
    """The kernel ``"forward"``, ``"by_filter"``, ``"by_input"`` or (not depthwise) ``"add_parts"`` for a dtype."""
    return jit.load(_source("depthwise_loops.py" if depthwise else "conv_loops.py", dtype), entry)


@functools.cache
def _source(file: str, dtype: str) -> str:
    return Path(__file__).with_name(file).read_text(encoding="utf-8").replace("float32", dtype)


def is_depthwise(w: tuple[int, ...], groups: int) -> bool:
    """True where filters see one channel of several, and are so few that products would be mostly empty vectors."""
    return groups > 1 and w[2] == 1 and w[3] // groups < _FEW_FILTERS


def forward(n: Node, places: Places, threads: int) -> Steps | None:
    """Results from images and filters."""
    x, w = n.values
    if n.out.dtype.name not in ("float32", "float64"):
        return None
    if not w.spec.size or not x.spec.size:
        return [_zeros(n)]
    words = _words(n, x.shape, w.shape, n.out.shape)
    operands = ((*_at(x, places), at.X), (*_at(w, places), at.W), (n.out, 0, at.G))
    work = n.out.spec.size * math.prod(w.shape[:3])
    walks = (_images(x, places, n.out.shape[1]), _whole(w, places, words[at.ROWS]), _rows(n.out))
    return [_step("forward", n, words, operands, work, words[at.ROWS], threads, walks)]


def by_input(n: Node, places: Places, threads: int) -> Steps | None:
    """The gradient by the images, from results' gradients and filters, which are transposed first."""
    g, w = n.values
    if n.out.dtype.name not in ("float32", "float64"):
        return None
    if not w.spec.size or not g.spec.size:
        return [_zeros(n)]
    words = _words(n, n.out.shape, w.shape, g.shape)
    work = g.spec.size * math.prod(w.shape[:3])
    rows = n.out.shape[0] * n.out.shape[1]
    if is_depthwise(w.shape, n.attrs["groups"]):
        operands = ((n.out, 0, at.X), (*_at(w, places), at.W), (*_at(g, places), at.G))
        walks = (_images(g, places, n.out.shape[1]), _whole(w, places, rows), _rows(n.out))
        return [_step("by_input", n, words, operands, work, rows, threads, walks)]
    if n.attrs["strides"] == (1, 1) and n.attrs["groups"] == 1 and g.shape[2] < _NARROW:
        return _as_forward(n, places, threads, work)
    turned = Value(spec((*w.shape[:2], w.shape[3], w.shape[2]), w.dtype))
    operands = ((n.out, 0, at.X), (turned, 0, at.W), (*_at(g, places), at.G))
    walks = (_images(g, places, n.out.shape[1]), pieces(turned, False, 1, w.spec.size, rows), _rows(n.out))
    return [
        _turn(w, turned, places, threads, around=False),
        _step("by_input", n, words, operands, work, rows, threads, walks),
    ]


def _as_forward(n: Node, places: Places, threads: int, work: int) -> Steps:
    """Without strides the gradient by the images is a convolution by the filters turned around; rows too short to make products of
    are better gathered."""
    g, w = n.values
    (kh, kw, each, filters), (dh, dw) = w.shape, n.attrs["dilation"]
    turned = Value(spec((kh, kw, filters, each), w.dtype))
    words = _words(n, g.shape, turned.shape, n.out.shape)
    (top, _), (left, _) = n.attrs["padding"]
    words[at.TOP], words[at.LEFT] = (kh - 1) * dh - top, (kw - 1) * dw - left
    operands = ((*_at(g, places), at.X), (turned, 0, at.W), (n.out, 0, at.G))
    rows = words[at.ROWS]
    walks = (_images(g, places, n.out.shape[1]), pieces(turned, False, 1, w.spec.size, rows), _rows(n.out))
    return [
        _turn(w, turned, places, threads, around=True),
        _step("forward", n, words, operands, work, rows, threads, walks),
    ]


def _turn(w: Value, turned: Value, places: Places, threads: int, around: bool) -> RoutineStep:
    """The filters with channels last, so that products read them along their rows; `around`: also the last tap first."""
    base, offset = _at(w, places)
    taps = w.shape[0] * w.shape[1]
    nanoseconds = 0.3 * w.spec.size
    return RoutineStep(
        f"conv2d_transpose: filters of {taps} taps turned", load("turn_filters", w.dtype.name),
        [0, 0, taps, *w.shape[2:], int(around)], ((base, offset, 0), (turned, 0, 1)), (base,), (turned,), taps, nanoseconds,
        nanoseconds / CHUNK_NANOSECONDS, threads,
    )  # fmt: skip


def by_filter(n: Node, places: Places, threads: int) -> Steps | None:
    """The gradient by the filters: parts from some rows of windows each, then their sum, whatever the number of threads."""
    x, g = n.values
    if n.out.dtype.name not in ("float32", "float64"):
        return None
    if not g.spec.size or not x.spec.size:
        return [_zeros(n)]
    words = _words(n, x.shape, n.out.shape, g.shape)
    work = g.spec.size * math.prod(n.out.shape[:3])
    rows, wanted = words[at.ROWS], min(_MOST_PARTS, hint(work) // _PART_WORK)
    # Of few filters there may be many parts: small ones are still in the cache after what made them.
    small, cheap = g.spec.nbytes // _NEAR_BYTES, g.spec.nbytes // (_SHARE * n.out.spec.nbytes)
    wanted = max(wanted, min(hint(small), hint(cheap)))
    fitting = min(wanted, hint(_PARTS_BYTES // n.out.spec.nbytes))
    while fitting > 1 and rows < fitting:
        fitting -= 1
    words[at.PARTS] = parts = 1 << (
        max(1, fitting).bit_length() - 1
    )  # a power of two: any usual number of threads shares it evenly
    out = n.out if parts == 1 else Value(spec((parts, *n.out.shape), n.out.dtype))
    operands = ((*_at(x, places), at.X), (out, 0, at.W), (*_at(g, places), at.G))
    walks = (_share(x, places, parts), pieces(out, True, parts, n.out.spec.size), _share(g, places, parts))
    steps: Steps = [_step("by_filter", n, words, operands, work, parts, threads, walks, writes=(out,))]
    if parts > 1:
        size = n.out.spec.size
        steps.append(
            RoutineStep(
                f"{n.op.name}: {parts} parts added up", load("add_parts", n.out.dtype.name), [0, 0, size, parts],
                ((out, 0, 0), (n.out, 0, 1)), (out,), (n.out,), size, 0.1 * size * parts,
                size * parts / _PIECE_WORK, threads, grain=64,
            )
        )  # fmt: skip
    return steps


def _step(
    entry: str, n: Node, words: list[int], operands: tuple[tuple[Value, int, int], ...], work: int, extent: int, threads: int,
    walks: tuple[Walk, ...], writes: tuple[Value, ...] | None = None,
) -> RoutineStep:  # fmt: skip
    kind, writes = n.out.dtype.name, writes or (n.out,)
    depthwise = is_depthwise(
        (0, 0, words[at.CHANNELS], words[at.GROUPS] * words[at.FILTERS]), words[at.GROUPS]
    )
    blocks: tuple[tuple[int, tuple[int, ...]], ...] = ()
    if not depthwise:
        product = gemm.plan(64, 64, 64, kind, split=gemm.Split.ROWS, provider="tiled")
        words[at.TILED] = product.kernel.address
        words[at.TEMPLATE_WORDS] = len(product.template)
        blocks = ((at.TEMPLATE, product.template),)
    how = (
        "one product for each row and tap"
        if entry == "by_input"
        else f"products of {words[at.BLOCK_WINDOWS]} windows"
    )
    return RoutineStep(
        f"{n.op.name}: {'channel by channel' if depthwise else how}",
        load(entry, kind, depthwise), words, operands, tuple([v for v, _, _ in operands if v not in writes]), writes, extent,
        work / _MULTIPLICATIONS_A_NANOSECOND[depthwise], work / _PIECE_WORK, threads, blocks=blocks, flops=2 * work,
        carries=at.EPILOGUE if entry == "forward" and not depthwise else 0,
        fits_block=words[at.BLOCK_WINDOWS] * n.out.shape[-1] * n.out.dtype.itemsize <= at.BLOCK_BYTES, own_walks=walks,
    )  # fmt: skip


def _at(v: Value, places: Places) -> tuple[Value, int]:
    base, layout = places[v]
    return base, layout.offset * base.dtype.itemsize


def _rows(v: Value) -> Walk:
    """Rows of images, one at each step."""
    return pieces(v, True, v.shape[0] * v.shape[1], v.shape[2] * v.shape[3])


def _images(v: Value, places: Places, rows: int) -> Walk:
    """Images, each of them at so many steps."""
    base, layout = places[v]
    return pieces(base, False, v.shape[0], math.prod(v.shape[1:]), rows, layout.offset)


def _whole(v: Value, places: Places, steps: int) -> Walk:
    """All of it at every step."""
    base, layout = places[v]
    return pieces(base, False, 1, v.spec.size, steps, layout.offset)


def _share(v: Value, places: Places, parts: int) -> Walk:
    """At each step the part of the windows' rows, and of the images, that `by_filter` goes through; all of it where parts are uneven."""
    if has_dims(v.shape) or v.shape[0] % parts:
        return _whole(v, places, parts)
    base, layout = places[v]
    return pieces(base, False, parts, v.spec.size // parts, 1, layout.offset)


def _zeros(n: Node) -> Any:
    return fill(f"{n.op.name}_of_nothing", 0, n.out, Layout.contiguous((n.out.spec.size,))), (), (n.out,)


def _words(n: Node, x: tuple[int, ...], w: tuple[int, ...], g: tuple[int, ...]) -> list[int]:
    """The argument block, but for addresses and the number of parts."""
    attrs, item = n.attrs, n.out.dtype.itemsize
    groups = attrs["groups"]
    words = [0] * at.WORDS
    words[at.HEIGHT : at.WIDTH + 1] = x[1:3]
    words[at.X_IMAGE : at.X_COLUMN + 1] = [x[1] * x[2] * x[3], x[2] * x[3], x[3]]
    words[at.OUT_HEIGHT : at.OUT_WIDTH + 1] = g[1:3]
    words[at.TAPS_DOWN : at.TAPS_ACROSS + 1] = w[:2]
    words[at.STRIDE_DOWN : at.STRIDE_ACROSS + 1] = attrs["strides"]
    words[at.DILATION_DOWN : at.DILATION_ACROSS + 1] = attrs["dilation"]
    words[at.TOP], words[at.LEFT] = attrs["padding"][0][0], attrs["padding"][1][0]
    words[at.GROUPS], words[at.CHANNELS], words[at.FILTERS] = groups, w[2], w[3] // groups
    words[at.ROWS] = g[0] * g[1]
    # Neighbouring windows lie side by side in memory only where there is one channel and no stride.
    words[at.BY_TAP] = int(attrs["strides"][1] * x[3] == 1)
    words[at.BLOCK_WINDOWS : at.BLOCK_CHANNELS + 1] = panel(w, item, bool(words[at.BY_TAP]))
    return words


def panel(w: tuple[int, ...], item: int, by_tap: bool) -> tuple[int, int, int]:
    """(windows, taps, channels) that a panel holds: whole windows if they are small, else whole rows of taps, taps, or some channels."""
    taps, across, each = w[0] * w[1], w[1], w[2]
    most = _PANEL_ROW // item
    channels = min(each, most)
    if taps * each > most:
        taps = across * (most // (across * each)) if across * each <= most else max(1, most // each)
    row, room = taps * channels, _LANE_BYTES // item
    windows = at.PANEL_BYTES // item // row - room if by_tap else at.PANEL_BYTES // item // (row + room)
    return min(_MOST_WINDOWS, windows // 8 * 8), taps, channels


__all__ = ["by_filter", "by_input", "forward", "panel"]
