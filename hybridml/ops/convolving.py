"""Convolution as people call it: images and sequences, transposed, depthwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.errors import ShapeError
from hybridml.ops.convolution import CONV, CONV_FILTER, CONV_INPUT
from hybridml.ops.convolution_geometry import resolved, transposed_size
from hybridml.ops.door import call, lift
from hybridml.ops.registry import composite, public
from hybridml.ops.spec import Shape
from hybridml.ops.view import reshape
from hybridml.ops.windows import as_pair, check_image


def check_filters(shape: Shape, what: str) -> None:
    if len(shape) != 4:
        raise ShapeError(
            f"{what} takes filters of shape (height, width, channels // groups, filters), got shape {shape}"
        )


@public(CONV, namespace="nn")
def conv2d(
    x: Any,
    filters: Any,
    /,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[Any] = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    """Filters slid over images: out[n, i, j, f] is the sum of x[n, i * s + a * d, j * s + b * d, c] * filters[a, b, c, f].

    x: images [examples, height, width, channels], floating point.
    filters: [height, width, channels // groups, number of filters].
    strides s, dilation d: an int, or one for each of height and width. padding: "valid", "same" (as TensorFlow: the odd element comes
    after), an int, or ((top, bottom), (left, right)). groups: filters of one of so many equal groups see that group's channels only.
    Returns [examples, out height, out width, filters]. Raises ShapeError where sizes do not fit, DTypeError for integers.

    >>> import hybridml as hml
    >>> hml.nn.conv2d(hml.ones((1, 4, 4, 1)), hml.ones((3, 3, 1, 2)))[0, :, :, 0].tolist()
    [[9.0, 9.0], [9.0, 9.0]]
    >>> hml.nn.conv2d(hml.ones((8, 28, 28, 1)), hml.ones((3, 3, 1, 32)), strides=2, padding="same").shape
    (8, 14, 14, 32)
    """
    x, w = lift(x), lift(filters)
    check_image(x.shape, "conv2d")
    check_filters(w.shape, "conv2d")
    given = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return call(CONV, x, w, **resolved(x.shape, w.shape, given))


@public(CONV_INPUT, namespace="nn")
def conv2d_transpose(
    x: Any,
    filters: Any,
    /,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[Any] = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    size: Sequence[int] | None = None,
) -> Any:
    """The gradient of `conv2d` by its images: every element of x spreads a filter into a larger image ("deconvolution").

    x: [examples, height, width, channels]. filters: [height, width, out channels // groups, channels], as in TensorFlow.
    strides, padding, dilation and groups are those of the convolution whose gradient it is.
    size: (height, width) of the result, where several belong to one x; by default stride times x's size for padding "same", else the
    least that all of x's windows cover. Returns [examples, *size, out channels].

    >>> import hybridml as hml
    >>> hml.nn.conv2d_transpose(hml.ones((1, 2, 2, 1)), hml.ones((2, 2, 1, 1)), strides=2)[0, :, :, 0].tolist()
    [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """
    g, w = lift(x), lift(filters)
    check_image(g.shape, "conv2d_transpose")
    check_filters(w.shape, "conv2d_transpose")
    given = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    found = transposed_size(g.shape, w.shape, given) if size is None else as_pair(size, "size", least=0)
    attrs = resolved((g.shape[0], *found, g.shape[3]), w.shape, given)
    return call(CONV_INPUT, g, w, size=found, **attrs)


@public(CONV_FILTER, namespace="nn")
def conv2d_filter_gradient(
    x: Any,
    g: Any,
    /,
    window: int | Sequence[int],
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[Any] = "valid",
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    """The gradient of `conv2d` by its filters: x seen through each tap, times g, summed over examples and places.

    x: the images. g: the gradient of the convolution. window: height and width of the filters; the rest as for `conv2d`.
    Returns [*window, channels // groups, filters].

    >>> import hybridml as hml
    >>> hml.nn.conv2d_filter_gradient(hml.ones((1, 4, 4, 1)), hml.ones((1, 3, 3, 1)), 2)[:, :, 0, 0].tolist()
    [[9.0, 9.0], [9.0, 9.0]]
    """
    x, g = lift(x), lift(g)
    check_image(x.shape, "conv2d_filter_gradient")
    check_image(g.shape, "conv2d_filter_gradient")
    taps = as_pair(window, "window")
    given = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    return call(CONV_FILTER, x, g, window=taps, **resolved(x.shape, taps, given))


@composite(namespace="nn")
def depthwise_conv2d(
    x: Any,
    filters: Any,
    /,
    strides: int | Sequence[int] = 1,
    padding: str | int | Sequence[Any] = "valid",
    dilation: int | Sequence[int] = 1,
) -> Any:
    """Every channel by filters of its own: `conv2d` with as many groups as channels.

    x: [examples, height, width, channels]. filters: [height, width, channels, multiplier], as in TensorFlow.
    Returns [examples, out height, out width, channels * multiplier], the results of one channel side by side.

    >>> import hybridml as hml
    >>> hml.nn.depthwise_conv2d(hml.ones((1, 3, 3, 5)), hml.ones((2, 2, 5, 2))).shape
    (1, 2, 2, 10)
    """
    x, w = lift(x), lift(filters)
    check_image(x.shape, "depthwise_conv2d")
    if w.ndim != 4 or w.shape[2] != x.shape[3]:
        raise ShapeError(
            f"depthwise_conv2d of images {x.shape} takes filters of shape (height, width, {x.shape[3]}, multiplier), got {w.shape}"
        )
    channels = x.shape[3]
    each = reshape(w, (*w.shape[:2], 1, channels * w.shape[3]))
    return conv2d(x, each, strides, padding, dilation, groups=max(channels, 1))


@composite(namespace="nn")
def conv1d(
    x: Any,
    filters: Any,
    /,
    stride: int = 1,
    padding: str | int | Sequence[int] = "valid",
    dilation: int = 1,
    groups: int = 1,
) -> Any:
    """Filters slid over sequences: `conv2d` of height 1.

    x: [examples, steps, channels]. filters: [steps, channels // groups, filters]. padding: "valid", "same", "causal" (all of it before, so
    that no result sees a later step), an int, or (before, after). Returns [examples, out steps, filters].

    >>> import hybridml as hml
    >>> hml.nn.conv1d([[[1.], [2.], [3.]]], [[[1.]], [[1.]]], padding="causal")[0, :, 0].tolist()
    [1.0, 3.0, 5.0]
    """
    x, w = lift(x), lift(filters)
    if x.ndim != 3 or w.ndim != 3:
        raise ShapeError(
            f"conv1d takes sequences (examples, steps, channels) and filters (steps, channels // groups, filters), got "
            f"shapes {x.shape} and {w.shape}"
        )
    sides: Any
    if isinstance(padding, str) and padding.lower() == "causal":
        sides = ((0, 0), ((w.shape[0] - 1) * dilation, 0))
    elif isinstance(padding, str):
        sides = padding
    else:
        sides = ((0, 0), (padding, padding) if isinstance(padding, (int, np.integer)) else tuple(padding))
    n, t, c = x.shape
    out = conv2d(
        reshape(x, (n, 1, t, c)), reshape(w, (1, *w.shape)), (1, stride), sides, (1, dilation), groups
    )
    return reshape(out, (n, *out.shape[2:]))
