"""Pooling over windows of images, channels last.

`max_pool2d` also says where in its window each largest element lies. Its gradient puts g there (`window_scatter`), whose gradient takes
from there (`window_take`): the two are each other's gradients, so every order is covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops.batching import stretched
from hybridml.ops.convolving import conv2d
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import equal, less_equal, where
from hybridml.ops.halves import in_single
from hybridml.ops.logic import logical_and, logical_not
from hybridml.ops.reductions import max as max_
from hybridml.ops.registry import Kind, Layout, Op, Promote, Sample, Saves, composite, public, register
from hybridml.ops.spec import Shape, TensorSpec, spec
from hybridml.ops.statistics import mean
from hybridml.ops.view import broadcast_to, reshape, strided_slice
from hybridml.ops.windows import Padding, Pair, Windows, as_padding, as_pair, check_image


def geometry(size: Shape, window: Pair, strides: Pair, padding: Padding) -> Windows:
    return Windows((size[0], size[1]), window, strides, padding)


def position_dtype(window: Pair) -> np.dtype:
    """What holds the number of an element within a window: a byte, where that is enough."""
    return np.dtype(np.uint8 if window[0] * window[1] <= 256 else np.int32)


# the largest element of each window, and its place


def _infer_max(
    x: TensorSpec, *, window: Pair, strides: Pair, padding: Padding
) -> tuple[TensorSpec, TensorSpec]:
    shape = (x.shape[0], *geometry(x.shape[1:3], window, strides, padding).count, x.shape[3])
    return spec(shape, x.dtype), spec(shape, position_dtype(window))


def _eager_max(xp: Any, x: Any, *, window: Pair, strides: Pair, padding: Padding) -> Any:
    windows = geometry(x.shape[1:3], window, strides, padding)
    shape = (x.shape[0], *windows.count, x.shape[3])
    best, place = xp.zeros(shape, x.dtype), xp.zeros(shape, position_dtype(window))
    seen = xp.zeros(windows.count, bool)[
        None, :, :, None
    ]  # windows that have begun: those before lie in the padding
    for tap, at, elements in windows.each():
        new, old = x[elements], best[at]
        larger = ~seen[at] | (new > old) | ((new != new) & (old == old))
        best[at] = xp.where(larger, new, old)
        place[at] = xp.where(larger, tap, place[at])
        seen[at] = True
    return best, place


def _max_vjp(g: Any, out: Any, x: Any, **attrs: Any) -> Any:
    return call(WINDOW_SCATTER, g[0], out[1], size=tuple(x.shape[1:3]), **attrs)


# an element of each window by its place, and back


def _check_places(shape: Shape, places: Any) -> None:
    if tuple(places.shape) != tuple(shape):
        raise ShapeError(f"expected positions of shape {tuple(shape)}, got {tuple(places.shape)}")
    if places.dtype.kind not in "iu":
        raise DTypeError(f"expected positions of integers, got {places.dtype.name}")


def _take_shape(x: Any, places: Any, *, window: Pair, strides: Pair, padding: Padding) -> Shape:
    shape = (x.shape[0], *geometry(x.shape[1:3], window, strides, padding).count, x.shape[3])
    _check_places(shape, places)
    return shape


def _scatter_shape(
    g: Any, places: Any, *, size: Pair, window: Pair, strides: Pair, padding: Padding
) -> Shape:
    count = geometry(size, window, strides, padding).count
    if tuple(g.shape[1:3]) != count:
        raise ShapeError(
            f"an image of {size} has {count} windows of {window}, got values of shape {tuple(g.shape)}"
        )
    _check_places(g.shape, places)
    return (g.shape[0], *size, g.shape[3])


def _eager_take(xp: Any, x: Any, places: Any, **attrs: Any) -> Any:
    out = xp.zeros(_take_shape(x, places, **attrs), x.dtype)
    for tap, at, elements in geometry(x.shape[1:3], **attrs).each():
        out[at] = xp.where(places[at] == tap, x[elements], out[at])
    return out


def _eager_scatter(xp: Any, g: Any, places: Any, *, size: Pair, **attrs: Any) -> Any:
    out = xp.zeros(_scatter_shape(g, places, size=size, **attrs), g.dtype)
    for tap, at, elements in geometry(size, **attrs).each():
        out[elements] += xp.where(places[at] == tap, g[at], g.dtype.type(0))
    return out


# compiled: windows that tile the image make every tap a strided view, and the rest is arithmetic that fuses with its neighbours

_FEW_TAPS = 16


def _tiles(windows: Windows) -> bool:
    """True if every element of the image is in exactly one window."""
    sizes = tuple([c * k for c, k in zip(windows.count, windows.window, strict=True)])
    return windows.strides == windows.window and sizes == windows.size and len(windows.taps) <= _FEW_TAPS


def _slices(x: Any, windows: Windows) -> list[Any]:
    (kh, kw), (n, h, w, c) = windows.window, x.shape
    return [strided_slice(x, (0, a, b, 0), (n, h, w, c), (1, kh, kw, 1)) for a, b in windows.taps]


def _expand_max(x: Any, **attrs: Any) -> Any:
    windows = geometry(x.shape[1:3], **attrs)
    if not _tiles(windows):
        return None
    best, *rest = _slices(x, windows)
    place: Any = None
    kind = position_dtype(windows.window)
    for tap, new in enumerate(rest, start=1):
        larger = logical_and(logical_not(less_equal(new, best)), equal(best, best))
        best = where(larger, new, best)
        place = where(larger, lift(kind.type(tap)), lift(kind.type(0)) if place is None else place)
    return best, broadcast_to(lift(kind.type(0)), best.shape) if place is None else place


def _expand_take(x: Any, places: Any, **attrs: Any) -> Any:
    windows = geometry(x.shape[1:3], **attrs)
    if not _tiles(windows):
        return None
    out: Any = x.dtype.type(0).item()
    for tap, new in enumerate(_slices(x, windows)):
        out = where(equal(places, tap), new, out)
    return out


def _expand_scatter(g: Any, places: Any, *, size: Pair, **attrs: Any) -> Any:
    windows = geometry(size, **attrs)
    if not _tiles(windows):
        return None
    (n, h, w, c), (kh, kw) = g.shape, windows.window
    numbers = np.arange(kh * kw).astype(places.dtype).reshape(1, 1, kh, 1, kw, 1)
    apart = (n, h, 1, w, 1, c)
    here = equal(reshape(places, apart), lift(numbers))
    return reshape(where(here, reshape(g, apart), g.dtype.type(0).item()), (n, *size, c))


# vmap: examples are more images


def _merged(op: Op, operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    wide = [stretched(x, m, size) for x, m in zip(operands, mapped, strict=True)]
    many = wide[0].shape[1]
    out = call(op, *[reshape(x, (size * many, *x.shape[2:])) for x in wide], **attrs)
    apart = [reshape(o, (size, many, *o.shape[1:])) for o in (out if isinstance(out, tuple) else (out,))]
    return tuple(apart) if isinstance(out, tuple) else apart[0]


# the rows

_CASES: tuple[tuple[Shape, Any, dict[str, Any]], ...] = (
    ((2, 4, 6, 3), 2, {}),
    ((2, 5, 5, 2), (3, 2), {"strides": 1, "padding": "same"}),
    ((1, 7, 6, 2), 3, {"strides": 2, "padding": "same"}),
    ((1, 7, 7, 2), 2, {"strides": 3}),
    ((1, 5, 4, 17), (2, 3), {"strides": (1, 2), "padding": ((0, 1), (2, 1))}),
    ((1, 18, 17, 1), 17, {"strides": 1}),
    ((0, 4, 4, 2), 2, {}),
)  # fmt: skip


def _resolved(size: Shape, window: Any, given: dict[str, Any], what: str) -> dict[str, Any]:
    taps = as_pair(window, "window")
    strides = given.get("strides")
    steps = taps if strides is None else as_pair(strides, "strides")
    padding = as_padding(given.get("padding", "valid"), (size[0], size[1]), taps, steps)
    if any(max(p) >= k for p, k in zip(padding, taps, strict=True)):
        raise ShapeError(
            f"{what}: padding {padding} would leave windows of {taps} without an element; expected less than the window"
        )
    return {"window": taps, "strides": steps, "padding": padding}


def _distinct(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return rng.permutation(int(np.prod(shape))).reshape(shape) / 8.0  # exact in half precision too


def _max_samples(rng: np.random.Generator) -> Any:
    for shape, window, given in _CASES:
        yield Sample((_distinct(rng, shape), window), given, label=f"{shape} by {window} {given}")
    special = np.array(
        [np.nan, 1.0, -np.inf, -np.inf, 2.0, np.nan, np.nan, 0.0, 3.0, 3.0, -0.0, 0.0]
    ).reshape(1, 2, 6, 1)
    yield Sample((special, 2), differentiable=False, label="ties and NaN")


def _cases_of_places(rng: np.random.Generator) -> Any:
    for shape, window, given in _CASES:
        attrs = _resolved(shape[1:3], window, given, "samples")
        windows = geometry(shape[1:3], **attrs)
        out = (shape[0], *windows.count, shape[3])
        yield shape, out, rng.integers(0, len(windows.taps), out), window, given


def _take_samples(rng: np.random.Generator) -> Any:
    for shape, _, places, window, given in _cases_of_places(rng):
        yield Sample((rng.normal(size=shape), places, window), given, label=f"{shape} by {window} {given}")


def _scatter_samples(rng: np.random.Generator) -> Any:
    for shape, out, places, window, given in _cases_of_places(rng):
        yield Sample(
            (rng.normal(size=out), places, shape[1:3], window), given, label=f"{out} by {window} {given}"
        )


def _each_window(shape: Shape, window: Any, given: dict[str, Any]) -> Any:
    """(index of the window, [(number of the tap, index of the element)] of those that are no padding), one by one."""
    attrs = _resolved(shape[1:3], window, given, "reference")
    windows = geometry(shape[1:3], **attrs)
    (sh, sw), ((top, _), (left, _)) = windows.strides, windows.padding
    for n, i, j, c in np.ndindex(shape[0], *windows.count, shape[3]):
        found = []
        for tap, (a, b) in enumerate(windows.taps):
            h, v = i * sh + a - top, j * sw + b - left
            if 0 <= h < shape[1] and 0 <= v < shape[2]:
                found.append((tap, (n, h, v, c)))
        yield (n, i, j, c), found


def _count(shape: Shape, window: Any, given: dict[str, Any]) -> Shape:
    return (
        shape[0],
        *geometry(shape[1:3], **_resolved(shape[1:3], window, given, "reference")).count,
        shape[3],
    )


def _reference_max(x: Any, window: Any, **given: Any) -> Any:
    out = np.zeros(_count(x.shape, window, given), x.dtype)
    places = np.zeros(out.shape, position_dtype(as_pair(window, "window")))
    for at, found in _each_window(x.shape, window, given):
        k = int(np.argmax([x[e] for _, e in found]))  # the first largest; NaN is larger than all
        places[at], out[at] = found[k][0], x[found[k][1]]
    return out, places


def _reference_take(x: Any, places: Any, window: Any, **given: Any) -> Any:
    out = np.zeros(places.shape, x.dtype)
    for at, found in _each_window(x.shape, window, given):
        element = dict(found).get(int(places[at]))
        if element is not None:
            out[at] = x[element]
    return out


def _reference_scatter(g: Any, places: Any, size: Any, window: Any, **given: Any) -> Any:
    out = np.zeros((g.shape[0], *size, g.shape[3]), g.dtype)
    for at, found in _each_window(out.shape, window, given):
        if int(places[at]) in dict(found):
            out[dict(found)[int(places[at])]] += g[at]
    return out


def _dense(layout: Layout) -> bool:
    return layout.is_contiguous


MAX_POOL: Op = register(Op(
    "max_pool2d", Kind.INDEX, provider="max_pool", reads=_dense, infer=_infer_max,
    eager=in_single(_eager_max), promote=Promote.NO, vjps=(_max_vjp,),
    saves=Saves.OUTPUT, expand=_expand_max, batch=lambda *args: _merged(MAX_POOL, *args), samples=_max_samples, reference=_reference_max,
))  # fmt: skip

WINDOW_TAKE: Op = register(Op(
    "window_take", Kind.INDEX, provider="window_take", reads=_dense, promote=Promote.NO, eager=in_single(_eager_take), saves=Saves.INPUTS,
    infer=lambda x, places, **attrs: spec(_take_shape(x, places, **attrs), x.dtype),
    vjps=(lambda g, out, x, places, **attrs: call(WINDOW_SCATTER, g, places, size=tuple(x.shape[1:3]), **attrs), None),
    expand=_expand_take, batch=lambda *args: _merged(WINDOW_TAKE, *args), samples=_take_samples, reference=_reference_take,
))  # fmt: skip

WINDOW_SCATTER: Op = register(Op(
    "window_scatter", Kind.INDEX, provider="window_scatter", reads=_dense, promote=Promote.NO,
    eager=in_single(_eager_scatter), saves=Saves.INPUTS,
    infer=lambda g, places, **attrs: spec(_scatter_shape(g, places, **attrs), g.dtype),
    vjps=(lambda h, out, g, places, *, size, **attrs: call(WINDOW_TAKE, h, places, **attrs), None),
    expand=_expand_scatter, batch=lambda *args: _merged(WINDOW_SCATTER, *args), samples=_scatter_samples, reference=_reference_scatter,
))  # fmt: skip


# the public functions


@public(MAX_POOL, namespace="nn")
def max_pool2d_with_positions(
    x: Any, /, window: int | Sequence[int], strides: int | Sequence[int] | None = None, padding: Any = "valid"
) -> tuple[Any, Any]:
    """`max_pool2d`, and where in its window each largest element lies: row * width + column, an unsigned byte where that is enough.

    >>> import hybridml as hml
    >>> values, positions = hml.nn.max_pool2d_with_positions([[[[1.], [2.]], [[4.], [3.]]]], 2)
    >>> values.tolist(), positions.tolist()
    ([[[[4.0]]]], [[[[2]]]])
    """
    x = lift(x)
    check_image(x.shape, "max_pool2d")
    given = {"strides": strides, "padding": padding}
    found: tuple[Any, Any] = call(MAX_POOL, x, **_resolved(x.shape[1:3], window, given, "max_pool2d"))
    return found


@composite(namespace="nn")
def max_pool2d(
    x: Any, /, window: int | Sequence[int], strides: int | Sequence[int] | None = None, padding: Any = "valid"
) -> Any:
    """The largest element of each window, channel by channel; padding is never the largest, and NaN is larger than all.

    x: images [examples, height, width, channels]. window, strides: an int or (height, width); the strides are the window's by default.
    padding: "valid", "same", an int, or ((top, bottom), (left, right)), less than the window.
    The first of several equal elements, row by row, takes the gradient.

    >>> import hybridml as hml
    >>> hml.nn.max_pool2d(hml.reshape(hml.arange(16.), (1, 4, 4, 1)), 2)[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    return max_pool2d_with_positions(x, window, strides, padding)[0]


@public(WINDOW_TAKE, namespace="nn")
def window_take(
    x: Any,
    positions: Any,
    /,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Any = "valid",
) -> Any:
    """Of each window the element at a position, as `max_pool2d_with_positions` numbers them; 0 for one in the padding.

    >>> import hybridml as hml
    >>> hml.nn.window_take([[[[1.], [2.]], [[4.], [3.]]]], [[[[3]]]], 2).tolist()
    [[[[3.0]]]]
    """
    x, positions = lift(x), lift(positions)
    check_image(x.shape, "window_take")
    given = {"strides": strides, "padding": padding}
    return call(WINDOW_TAKE, x, positions, **_resolved(x.shape[1:3], window, given, "window_take"))


@public(WINDOW_SCATTER, namespace="nn")
def window_scatter(
    values: Any,
    positions: Any,
    /,
    size: Sequence[int],
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Any = "valid",
) -> Any:
    """Images of `size`, zero but for the values, each at its position within its window; where windows overlap they add up.

    >>> import hybridml as hml
    >>> hml.nn.window_scatter([[[[5.]]]], [[[[3]]]], (2, 2), 2).tolist()
    [[[[0.0], [0.0]], [[0.0], [5.0]]]]
    """
    g, positions = lift(values), lift(positions)
    check_image(g.shape, "window_scatter")
    whole = as_pair(size, "size", least=0)
    given = {"strides": strides, "padding": padding}
    return call(WINDOW_SCATTER, g, positions, size=whole, **_resolved(whole, window, given, "window_scatter"))


@composite(namespace="nn")
def avg_pool2d(
    x: Any, /, window: int | Sequence[int], strides: int | Sequence[int] | None = None, padding: Any = "valid"
) -> Any:
    """The mean of each window, channel by channel; padding does not count, as in TensorFlow.

    x: images [examples, height, width, channels], floating point. window, strides, padding: as for `max_pool2d`.

    >>> import hybridml as hml
    >>> hml.nn.avg_pool2d(hml.reshape(hml.arange(16.), (1, 4, 4, 1)), 2)[0, :, :, 0].tolist()
    [[2.5, 4.5], [10.5, 12.5]]
    """
    x = lift(x)
    check_image(x.shape, "avg_pool2d")
    if not dtypes.is_float(x.dtype):
        raise DTypeError(f"avg_pool2d takes floating point images, got {x.dtype.name}; cast it with .astype")
    attrs = _resolved(x.shape[1:3], window, {"strides": strides, "padding": padding}, "avg_pool2d")
    windows = geometry(x.shape[1:3], **attrs)
    seen = np.zeros((1, *windows.count, 1))
    for _, at, _elements in windows.each():
        seen[at] += 1
    channels = x.shape[3]
    ones = np.ones((*windows.window, 1, channels), x.dtype)
    total = conv2d(x, ones, windows.strides, windows.padding, groups=max(channels, 1))
    return total / lift(np.maximum(seen, 1).astype(x.dtype))


@composite(namespace="nn")
def global_avg_pool2d(x: Any, /, *, keepdims: bool = False) -> Any:
    """The mean over height and width: [examples, channels], or with axes of size 1 between.

    >>> import hybridml as hml
    >>> hml.nn.global_avg_pool2d(hml.ones((2, 5, 5, 3))).shape
    (2, 3)
    """
    x = lift(x)
    check_image(x.shape, "global_avg_pool2d")
    return mean(x, axis=(1, 2), keepdims=keepdims)


@composite(namespace="nn")
def global_max_pool2d(x: Any, /, *, keepdims: bool = False) -> Any:
    """The largest element over height and width: [examples, channels], or with axes of size 1 between.

    >>> import hybridml as hml
    >>> hml.nn.global_max_pool2d(hml.ones((2, 5, 5, 3))).shape
    (2, 3)
    """
    x = lift(x)
    check_image(x.shape, "global_max_pool2d")
    return max_(x, axis=(1, 2), keepdims=keepdims)
