"""Convolution and pooling over images [examples, height, width, channels] and sequences [examples, steps, channels]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.nn import activations
from hybridml.nn.layers.core import last_axis, positive
from hybridml.nn.module import Module

Size = int | Sequence[int]


def sizes(name: str, value: Size, n: int) -> tuple[int, ...]:
    """A size for each of n axes."""
    given = (value,) * n if isinstance(value, int) else tuple(value)
    if len(given) != n:
        raise ValueError(f"{name} takes an int or {n} ints, got {value!r}")
    return tuple([positive(name, d) for d in given])


class _Convolution(Module):
    """A kernel, a bias for each filter, and an activation. A subclass says the kernel's shape and how it is slid."""

    axes = 2
    kernel: Any = None
    bias: Any = None

    def __init__(
        self,
        kernel_size: Size,
        strides: Size,
        padding: Any,
        dilation_rate: Size,
        activation: Any,
        use_bias: bool,
        initializers: tuple[Any, Any],
        dtype: Any,
        name: str | None,
    ) -> None:
        super().__init__(name=name)
        self.kernel_size = sizes("kernel_size", kernel_size, self.axes)
        self.strides = sizes("strides", strides, self.axes)
        self.dilation_rate = sizes("dilation_rate", dilation_rate, self.axes)
        self.padding = padding
        self.activation, self.use_bias, self.dtype = activations.get(activation), use_bias, dtype
        self.kernel_initializer, self.bias_initializer = map(hml.initializers.get, initializers)

    def _kernel_shape(self, channels: int) -> tuple[tuple[int, ...], int]:
        """The kernel's shape, and the number of results' channels."""
        raise NotImplementedError(f"{type(self).__name__} must define _kernel_shape")

    def _slide(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _slide")

    def build(self, input_shape: Any) -> None:
        if len(input_shape) != self.axes + 2:
            raise ShapeError(
                f"{self.name} takes {self.axes + 2} dimensions, the examples first and the channels last; got the shape {input_shape}"
            )
        shape, filters = self._kernel_shape(last_axis(self, input_shape))
        self.kernel = self.add_weight(shape, self.kernel_initializer, "kernel", dtype=self.dtype)
        if self.use_bias:
            self.bias = self.add_weight((filters,), self.bias_initializer, "bias", dtype=self.dtype)

    def call(self, x: Any) -> Any:
        out = self._slide(hml.asarray(x))
        return activations.apply(self.activation, out if self.bias is None else out + self.bias)


class Conv2D(_Convolution):
    """Filters slid over images (`hml.nn.conv2d`). kernel: (height, width, channels // groups, filters), bias: (filters,).

    padding: "valid", "same", or whatever `hml.nn.conv2d` takes.

    >>> import hybridml as hml
    >>> hml.nn.Conv2D(8, 3, strides=2, padding="same", activation="relu")(hml.ones((2, 28, 28, 1))).shape
    (2, 14, 14, 8)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        padding: Any = "valid",
        dilation_rate: Size = 1,
        groups: int = 1,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        start = (kernel_initializer, bias_initializer)
        super().__init__(
            kernel_size, strides, padding, dilation_rate, activation, use_bias, start, dtype, name
        )
        self.filters, self.groups = positive("filters", filters), positive("groups", groups)

    def _kernel_shape(self, channels: int) -> tuple[tuple[int, ...], int]:
        if channels % self.groups or self.filters % self.groups:
            raise ShapeError(
                f"{self.name}: {channels} channels and {self.filters} filters cannot both be split in {self.groups} groups"
            )
        return (*self.kernel_size, channels // self.groups, self.filters), self.filters

    def _slide(self, x: Any) -> Any:
        return hml.nn.conv2d(x, self.kernel, self.strides, self.padding, self.dilation_rate, self.groups)


class Conv1D(Conv2D):
    """Filters slid over sequences (`hml.nn.conv1d`). kernel: (steps, channels // groups, filters). padding also "causal".

    >>> import hybridml as hml
    >>> hml.nn.Conv1D(8, 3, padding="causal")(hml.ones((2, 10, 4))).shape
    (2, 10, 8)
    """

    axes = 1

    def _slide(self, x: Any) -> Any:
        (stride,), (dilation,) = self.strides, self.dilation_rate
        return hml.nn.conv1d(x, self.kernel, stride, self.padding, dilation, self.groups)


class Conv2DTranspose(Conv2D):
    """The gradient of a convolution by its images: makes images larger (`hml.nn.conv2d_transpose`).

    kernel: (height, width, filters // groups, channels).

    >>> import hybridml as hml
    >>> hml.nn.Conv2DTranspose(3, 3, strides=2, padding="same")(hml.ones((2, 7, 7, 8))).shape
    (2, 14, 14, 3)
    """

    def _kernel_shape(self, channels: int) -> tuple[tuple[int, ...], int]:
        super()._kernel_shape(channels)
        return (*self.kernel_size, self.filters // self.groups, channels), self.filters

    def _slide(self, x: Any) -> Any:
        return hml.nn.conv2d_transpose(
            x, self.kernel, self.strides, self.padding, self.dilation_rate, self.groups
        )


class DepthwiseConv2D(_Convolution):
    """Every channel by `depth_multiplier` filters of its own. kernel: (height, width, channels, depth_multiplier).

    >>> import hybridml as hml
    >>> hml.nn.DepthwiseConv2D(3, depth_multiplier=2)(hml.ones((2, 8, 8, 4))).shape
    (2, 6, 6, 8)
    """

    def __init__(
        self,
        kernel_size: Size,
        strides: Size = 1,
        padding: Any = "valid",
        depth_multiplier: int = 1,
        dilation_rate: Size = 1,
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        start = (depthwise_initializer, bias_initializer)
        super().__init__(
            kernel_size, strides, padding, dilation_rate, activation, use_bias, start, dtype, name
        )
        self.depth_multiplier = positive("depth_multiplier", depth_multiplier)

    def _kernel_shape(self, channels: int) -> tuple[tuple[int, ...], int]:
        return (*self.kernel_size, channels, self.depth_multiplier), channels * self.depth_multiplier

    def _slide(self, x: Any) -> Any:
        return hml.nn.depthwise_conv2d(x, self.kernel, self.strides, self.padding, self.dilation_rate)


class _Pool(Module):
    def __init__(
        self,
        pool_size: Size = 2,
        strides: Size | None = None,
        padding: Any = "valid",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self.pool_size = sizes("pool_size", pool_size, 2)
        self.strides = self.pool_size if strides is None else sizes("strides", strides, 2)
        self.padding = padding


class MaxPool2D(_Pool):
    """The largest element of each window of an image.

    >>> import hybridml as hml
    >>> hml.nn.MaxPool2D()(hml.ones((2, 28, 28, 8))).shape
    (2, 14, 14, 8)
    """

    def call(self, x: Any) -> Any:
        return hml.nn.max_pool2d(x, self.pool_size, self.strides, self.padding)


class AvgPool2D(_Pool):
    """The mean of each window of an image; what is padded does not count.

    >>> import hybridml as hml
    >>> hml.nn.AvgPool2D(3, strides=1, padding="same")(hml.ones((1, 4, 4, 1))).shape
    (1, 4, 4, 1)
    """

    def call(self, x: Any) -> Any:
        return hml.nn.avg_pool2d(x, self.pool_size, self.strides, self.padding)


class GlobalAvgPool2D(Module):
    """The mean of each channel of an image: (examples, channels), or (examples, 1, 1, channels) with keepdims.

    >>> import hybridml as hml
    >>> hml.nn.GlobalAvgPool2D()(hml.ones((2, 5, 5, 3))).shape
    (2, 3)
    """

    def __init__(self, keepdims: bool = False, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.keepdims = keepdims

    def call(self, x: Any) -> Any:
        return hml.nn.global_avg_pool2d(x, keepdims=self.keepdims)


class GlobalMaxPool2D(GlobalAvgPool2D):
    """The largest element of each channel of an image; shapes as for GlobalAvgPool2D.

    >>> import hybridml as hml
    >>> hml.nn.GlobalMaxPool2D(keepdims=True)(hml.ones((2, 5, 5, 3))).shape
    (2, 1, 1, 3)
    """

    def call(self, x: Any) -> Any:
        return hml.nn.global_max_pool2d(x, keepdims=self.keepdims)
