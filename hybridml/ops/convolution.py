"""Convolution in two dimensions, channels last, filters [height, width, channels // groups, filters] as in TensorFlow.

One trilinear form, the sum over all windows of g * (x seen through w), gives three rows: CONV is its derivative by g, CONV_INPUT by x
and CONV_FILTER by w. Each one's gradients are the other two, so gradients of any order are among them. (What deep learning calls
convolution is the correlation of signal processing: filters are not flipped.)
"""

from __future__ import annotations

import math
from typing import Any

from hybridml import dtypes
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops.batching import stretched
from hybridml.ops.convolution_geometry import geometry
from hybridml.ops.convolution_samples import (
    conv_samples,
    filter_samples,
    input_samples,
    reference_conv,
    reference_filter,
    reference_input,
)
from hybridml.ops.door import call
from hybridml.ops.halves import in_single
from hybridml.ops.registry import Kind, Layout, Op, Saves, register
from hybridml.ops.spec import Shape, spec
from hybridml.ops.view import permute_dims, reshape
from hybridml.ops.windows import Pair, Windows


def _check(*operands: Any) -> None:
    for a in operands:
        if not dtypes.is_float(a.dtype):
            raise DTypeError(f"expected floating point tensors, got {a.dtype.name}; cast it with .astype")
        if len(a.shape) != 4:
            raise ShapeError(f"expected images and filters of 4 dimensions, got shape {tuple(a.shape)}")


def _check_channels(x: Shape, filters: Shape, groups: int) -> None:
    channels, each, count = x[3], filters[2], filters[3]
    if channels != each * groups or count % groups:
        raise ShapeError(
            f"images {tuple(x)} and filters {tuple(filters)} in {groups} group{'s' * (groups != 1)}: expected filters of shape "
            f"(height, width, {channels} // {groups}, a multiple of {groups})"
        )


def _check_windows(g: Shape, x: Shape, windows: Windows, count: int) -> None:
    if tuple(g) != (x[0], *windows.count, count):
        raise ShapeError(
            f"the convolution of images {tuple(x)} by {windows.window} has the shape "
            f"{(x[0], *windows.count, count)}, got {tuple(g)}"
        )


# the three results' shapes; eager calls ask them too, for NumPy would not notice all that does not fit


def _conv_shape(x: Any, w: Any, **attrs: Any) -> Shape:
    _check(x, w)
    _check_channels(x.shape, w.shape, attrs["groups"])
    return (x.shape[0], *geometry(x.shape, w.shape, attrs).count, w.shape[3])


def _input_shape(g: Any, w: Any, *, size: Pair, **attrs: Any) -> Shape:
    _check(g, w)
    x = (g.shape[0], *size, w.shape[2] * attrs["groups"])
    _check_channels(x, w.shape, attrs["groups"])
    _check_windows(g.shape, x, geometry(x, w.shape, attrs), w.shape[3])
    return x


def _filter_shape(x: Any, g: Any, *, window: Pair, **attrs: Any) -> Shape:
    _check(x, g)
    groups = attrs["groups"]
    w = (*window, x.shape[3] // groups, g.shape[3])
    _check_channels(x.shape, w, groups)
    _check_windows(g.shape, x.shape, geometry(x.shape, w, attrs), g.shape[3])
    return w


# eager: a matrix product over the elements of all windows, one a group; without channels to sum over, one tap at a time


def _by_group(x: Any, groups: int) -> Any:
    """[..., channels] as [groups, everything before, channels // groups]."""
    return x.reshape(math.prod(x.shape[:-1]), groups, x.shape[-1] // groups).transpose(1, 0, 2)


def _columns(xp: Any, windows: Windows, x: Any, groups: int) -> Any:
    """[groups, windows, elements of a window in the group]."""
    p = windows.patches(xp, x)
    each = x.shape[3] // groups
    p = p.reshape(*p.shape[:5], groups, each).transpose(5, 0, 1, 2, 3, 4, 6)
    return p.reshape(groups, math.prod(p.shape[1:4]), math.prod(windows.window) * each)


def _filters_by_group(w: Any, groups: int) -> Any:
    """[groups, elements of a window in the group, filters // groups]."""
    return _by_group(w, groups)


def _eager_conv(xp: Any, x: Any, w: Any, **attrs: Any) -> Any:
    shape, groups = _conv_shape(x, w, **attrs), attrs["groups"]
    windows = geometry(x.shape, w.shape, attrs)
    if w.shape[2] == 1 == w.shape[3] // groups:
        out = xp.zeros(shape, x.dtype)
        for tap, at, elements in windows.each():
            out[at] += x[elements] * w.reshape(-1, shape[3])[tap]
    else:
        product = xp.matmul(_columns(xp, windows, x, groups), _filters_by_group(w, groups))
        out = product.transpose(1, 0, 2).reshape(shape)
    return out


def _eager_input(xp: Any, g: Any, w: Any, *, size: Pair, **attrs: Any) -> Any:
    shape, groups = _input_shape(g, w, size=size, **attrs), attrs["groups"]
    windows = geometry(shape, w.shape, attrs)
    out = xp.zeros(shape, g.dtype)
    if w.shape[2] == 1 == w.shape[3] // groups:
        for tap, at, elements in windows.each():
            out[elements] += g[at] * w.reshape(-1, shape[3])[tap]
        return out
    taps, each = len(windows.taps), w.shape[2]
    columns = xp.matmul(_by_group(g, groups), _filters_by_group(w, groups).swapaxes(1, 2))
    columns = columns.reshape(groups, *g.shape[:3], taps, each).transpose(4, 1, 2, 3, 0, 5)
    columns = columns.reshape(taps, *g.shape[:3], shape[3])
    for tap, at, elements in windows.each():
        out[elements] += columns[tap][at]
    return out


def _eager_filter(xp: Any, x: Any, g: Any, *, window: Pair, **attrs: Any) -> Any:
    shape, groups = _filter_shape(x, g, window=window, **attrs), attrs["groups"]
    windows = geometry(x.shape, shape, attrs)
    if shape[2] == 1 == shape[3] // groups:
        out = xp.zeros((len(windows.taps), shape[3]), x.dtype)
        for tap, at, elements in windows.each():
            out[tap] = (x[elements] * g[at]).sum(axis=(0, 1, 2))
    else:
        product = xp.matmul(_columns(xp, windows, x, groups).swapaxes(1, 2), _by_group(g, groups))
        out = product.transpose(1, 0, 2)
    return out.reshape(shape)


# gradients


def _gradient_by_input(h: Any, w: Any, x: Any, attrs: dict[str, Any]) -> Any:
    return call(CONV_INPUT, h, w, size=tuple(x.shape[1:3]), **attrs)


def _gradient_by_filter(x: Any, g: Any, w: Any, attrs: dict[str, Any]) -> Any:
    return call(CONV_FILTER, x, g, window=tuple(w.shape[:2]), **attrs)


# vmap: examples of an image batch are more images; where filters differ from example to example, examples are groups


def _into_channels(x: Any) -> Any:
    """[size, a, b, c, d] as [a, b, c, size * d]."""
    size, a, b, c, d = x.shape
    return reshape(permute_dims(x, (1, 2, 3, 0, 4)), (a, b, c, size * d))


def _out_of_channels(x: Any, size: int) -> Any:
    a, b, c, d = x.shape
    return permute_dims(reshape(x, (a, b, c, size, d // size)), (3, 0, 1, 2, 4))


def _grouped(op: Op, operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    wide = [_into_channels(stretched(x, m, size)) for x, m in zip(operands, mapped, strict=True)]
    return _out_of_channels(call(op, *wide, **{**attrs, "groups": attrs["groups"] * size}), size)


def _batch_images(op: Op, operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    """The first operand is images, the second filters."""
    x, w = operands
    if mapped[1] and size:
        return _grouped(op, operands, mapped, size, attrs)
    if mapped[1]:
        w, x = w.sum(axis=0), stretched(x, mapped[0], size)  # no examples: any filters will do
    out = call(op, reshape(x, (size * x.shape[1], *x.shape[2:])), w, **attrs)
    return reshape(out, (size, x.shape[1], *out.shape[1:]))


def _batch_filter(operands: list[Any], mapped: list[bool], size: int, attrs: dict[str, Any]) -> Any:
    if size:
        return _grouped(CONV_FILTER, operands, mapped, size, attrs)
    x, g = [o[0] if not m else o.sum(axis=0) for o, m in zip(operands, mapped, strict=True)]
    out = call(CONV_FILTER, x, g, **attrs)
    return reshape(out, (1, *out.shape))[:0]


# the rows


def _dense(layout: Layout) -> bool:
    return layout.is_contiguous


CONV: Op = register(Op(
    "conv2d", Kind.EXTERN, provider="conv", reads=_dense, eager=in_single(_eager_conv), saves=Saves.INPUTS,
    infer=lambda x, w, **attrs: spec(_conv_shape(x, w, **attrs), x.dtype),
    vjps=(
        lambda g, out, x, w, **attrs: _gradient_by_input(g, w, x, attrs),
        lambda g, out, x, w, **attrs: _gradient_by_filter(x, g, w, attrs),
    ),
    batch=lambda *args: _batch_images(CONV, *args), samples=conv_samples, reference=reference_conv,
))  # fmt: skip

CONV_INPUT: Op = register(Op(
    "conv2d_transpose", Kind.EXTERN, provider="conv_input", reads=_dense, eager=in_single(_eager_input), saves=Saves.INPUTS,
    infer=lambda g, w, **attrs: spec(_input_shape(g, w, **attrs), g.dtype),
    vjps=(
        lambda h, out, g, w, *, size, **attrs: call(CONV, h, w, **attrs),
        lambda h, out, g, w, *, size, **attrs: _gradient_by_filter(h, g, w, attrs),
    ),
    batch=lambda *args: _batch_images(CONV_INPUT, *args), samples=input_samples, reference=reference_input,
))  # fmt: skip

CONV_FILTER: Op = register(Op(
    "conv2d_filter_gradient", Kind.EXTERN, provider="conv_filter", reads=_dense, eager=in_single(_eager_filter),
    saves=Saves.INPUTS,
    infer=lambda x, g, **attrs: spec(_filter_shape(x, g, **attrs), x.dtype),
    vjps=(
        lambda v, out, x, g, *, window, **attrs: _gradient_by_input(g, v, x, attrs),
        lambda v, out, x, g, *, window, **attrs: call(CONV, x, v, **attrs),
    ),
    batch=_batch_filter, samples=filter_samples, reference=reference_filter,
))  # fmt: skip
