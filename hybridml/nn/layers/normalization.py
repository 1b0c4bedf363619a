"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.nn.layers.core import last_axis, positive, when
from hybridml.nn.module import Module


class _Scaled(Module):
    """A normalisation with a factor `gamma` and an offset `beta`."""

    gamma: Any = None
    beta: Any = None

    def __init__(self, epsilon: float, center: bool, scale: bool, dtype: Any, name: str | None) -> None:
        super().__init__(name=name)
        if epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {epsilon!r}")
        self.epsilon, self.center, self.scale, self.dtype = epsilon, center, scale, dtype

    def _make(self, shape: tuple[int, ...]) -> None:
        if self.scale:
            self.gamma = self.add_weight(shape, "ones", "gamma", dtype=self.dtype)
        if self.center:
            self.beta = self.add_weight(shape, "zeros", "beta", dtype=self.dtype)


class BatchNorm(_Scaled):
    """Each channel with mean 0 and variance 1 over the batch while training, over all batches seen so far otherwise.

    While training the moving statistics move: new = momentum * old + (1 - momentum) * batch. A layer with `trainable = False` uses
    the moving ones always (Ioffe and Szegedy, 2015; conventions of Keras). gamma, beta, moving_mean, moving_variance: (channels,).

    >>> import hybridml as hml
    >>> norm = hml.nn.BatchNorm()
    >>> norm(hml.asarray([[1.], [3.]]), training=True).numpy().round(2).tolist(), round(float(norm.moving_mean[0]), 3)
    ([[-1.0], [1.0]], 0.02)
    """

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epsilon, center, scale, dtype, name)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum!r}")
        self.axis, self.momentum = axis, momentum
        self.moving_mean: Any = None
        self.moving_variance: Any = None

    def build(self, input_shape: Any) -> None:
        if not -len(input_shape) <= self.axis < len(input_shape):
            raise ShapeError(
                f"{self.name} normalises axis {self.axis}, but the input has the shape {input_shape}"
            )
        shape = (input_shape[self.axis],)
        self._make(shape)
        self.moving_mean = self.add_weight(shape, "zeros", "moving_mean", trainable=False, dtype=self.dtype)
        self.moving_variance = self.add_weight(
            shape, "ones", "moving_variance", trainable=False, dtype=self.dtype
        )

    def call(self, x: Any, training: Any = False) -> Any:
        x = hml.asarray(x)
        if not self.trainable:
            training = False
        mean, variance = when(
            training,
            lambda: self._of_batch(x),
            lambda: (self.moving_mean.value(), self.moving_variance.value()),
        )
        parts: list[Any] = [mean, variance, self.gamma, self.beta]
        axis = self.axis % x.ndim
        if axis != x.ndim - 1:
            shape = tuple([d if i == axis else 1 for i, d in enumerate(x.shape)])
            parts = [None if p is None else hml.reshape(p, shape) for p in parts]
        mean, variance, gamma, beta = parts
        return hml.nn.batch_norm(x, mean, variance, gamma, beta, epsilon=self.epsilon)

    def _of_batch(self, x: Any) -> tuple[Any, Any]:
        axis = self.axis % x.ndim
        others = tuple([i for i in range(x.ndim) if i != axis])
        mean = hml.mean(x, axis=others, keepdims=True)
        centred = x - mean
        channels = self.moving_mean.shape
        mean = hml.reshape(mean, channels)
        variance = hml.reshape(hml.mean(centred * centred, axis=others, keepdims=True), channels)
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + hml.stop_gradient(now) * (1 - self.momentum))
        kind = self.moving_mean.dtype
        return hml.astype(mean, kind), hml.astype(variance, kind)


class LayerNorm(_Scaled):
    """Each example with mean 0 and variance 1 over `axis`, one or several (Ba et al., 2016).

    >>> import hybridml as hml
    >>> hml.nn.LayerNorm()(hml.asarray([[1., 3.]])).numpy().round(2).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        axis: int | Sequence[int] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epsilon, center, scale, dtype, name)
        self.axis = axis if isinstance(axis, int) else tuple(axis)

    def _axes(self, n: int) -> tuple[int, ...]:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        if any(not -n <= a < n for a in axes):
            raise ShapeError(f"{self.name} normalises {self.axis}, but the input has {n} dimensions")
        return tuple(sorted([a % n for a in axes]))

    def build(self, input_shape: Any) -> None:
        self._make(tuple([input_shape[a] for a in self._axes(len(input_shape))]))

    def call(self, x: Any) -> Any:
        x = hml.asarray(x)
        axes = self._axes(x.ndim)
        parts = [self.gamma, self.beta]
        if axes != tuple(range(x.ndim - len(axes), x.ndim)):
            shape = tuple([d if i in axes else 1 for i, d in enumerate(x.shape)])
            parts = [None if p is None else hml.reshape(p, shape) for p in parts]
        return hml.nn.layer_norm(x, *parts, axis=axes, epsilon=self.epsilon)


class GroupNorm(_Scaled):
    """Each example's channels in `groups` groups, each with mean 0 and variance 1 (Wu and He, 2018). Channels come last.

    >>> import hybridml as hml
    >>> hml.nn.GroupNorm(2)(hml.ones((3, 5, 5, 4))).shape
    (3, 5, 5, 4)
    """

    def __init__(
        self,
        groups: int = 32,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(epsilon, center, scale, dtype, name)
        self.groups = positive("groups", groups)

    def build(self, input_shape: Any) -> None:
        self._make((last_axis(self, input_shape),))

    def call(self, x: Any) -> Any:
        return hml.nn.group_norm(x, self.groups, self.gamma, self.beta, epsilon=self.epsilon)


class RMSNorm(Module):
    """x over the root of its mean square along `axis`, times a factor (Zhang and Sennrich, 2019).

    >>> import hybridml as hml
    >>> hml.nn.RMSNorm()(hml.asarray([[3., 3.]])).numpy().round(3).tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self, axis: int = -1, epsilon: float = 1e-6, *, dtype: Any = None, name: str | None = None
    ) -> None:
        super().__init__(name=name)
        self.axis, self.epsilon, self.dtype = axis, epsilon, dtype
        self.scale: Any = None

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight((input_shape[self.axis],), "ones", "scale", dtype=self.dtype)

    def call(self, x: Any) -> Any:
        x = hml.asarray(x)
        axis = self.axis % x.ndim
        scale = self.scale
        if axis != x.ndim - 1:
            scale = hml.reshape(scale, (-1, *(1,) * (x.ndim - 1 - axis)))
        return hml.nn.rms_norm(x, scale, axis=axis, epsilon=self.epsilon)
