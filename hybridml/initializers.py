"""Initial values of weights: `Initializer(...)(shape, dtype)` gives a tensor. Names and defaults are those of Keras.

A seed makes an initializer give the same numbers at each call; without one they come from the default generator of `hml.random`.

>>> import hybridml as hml
>>> hml.initializers.HeNormal(seed=1)((3, 4)).shape
(3, 4)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import hybridml as hml
from hybridml.errors import ShapeError

Shape = Sequence[int]


class Initializer:
    """The base: subclasses define `__call__(shape, dtype)`."""

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, shape, dtype=None)")

    def __repr__(self) -> str:
        given = ", ".join([f"{k}={v!r}" for k, v in vars(self).items() if v is not None])
        return f"{type(self).__name__}({given})"


class Zeros(Initializer):
    """All zeros."""

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        return hml.zeros(tuple(shape), dtype=dtype)


class Ones(Initializer):
    """All ones."""

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        return hml.ones(tuple(shape), dtype=dtype)


class Constant(Initializer):
    """One value, or an array that broadcasts to the shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        dtype = hml.float32 if dtype is None else dtype
        return hml.broadcast_to(hml.asarray(self.value, dtype=dtype), tuple(shape))


class Identity(Initializer):
    """The identity matrix times `gain`, for a shape of two dimensions; not square: the rest is zeros."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        if len(shape) != 2:
            raise ShapeError(f"an identity matrix has 2 dimensions, got the shape {tuple(shape)}")
        return hml.multiply(hml.eye(*shape, dtype=dtype), self.gain)


class _Random(Initializer):
    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def _source(self) -> Any:
        return hml.random if self.seed is None else hml.random.Generator(self.seed)


class RandomUniform(_Random):
    """Evenly over [minval, maxval)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        return self._source().uniform(tuple(shape), self.minval, self.maxval, dtype=dtype)


class RandomNormal(_Random):
    """Normally distributed."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        return self._source().normal(tuple(shape), self.mean, self.stddev, dtype=dtype)


class TruncatedNormal(RandomNormal):
    """Normally distributed within two standard deviations of the mean."""

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        return self._source().truncated_normal(tuple(shape), self.mean, self.stddev, dtype=dtype)


def fans(shape: Shape) -> tuple[int, int]:
    """(inputs, outputs) of one unit of a weight: a matrix (in, out), a convolution's kernel (*window, in, out).

    >>> fans((3, 3, 16, 32))
    (144, 288)
    """
    shape = tuple(shape)
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return shape[-2] * window, shape[-1] * window


class VarianceScaling(_Random):
    """Numbers whose variance is `scale` over the number of inputs ("fan_in"), outputs ("fan_out") or their mean ("fan_avg").

    distribution: "uniform", "untruncated_normal", or "truncated_normal" (also called "normal"), cut at two standard deviations.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
    ) -> None:
        super().__init__(seed)
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f'mode must be "fan_in", "fan_out" or "fan_avg", got {mode!r}')
        distribution = "truncated_normal" if distribution == "normal" else distribution
        if distribution not in ("uniform", "truncated_normal", "untruncated_normal"):
            raise ValueError(
                f'distribution must be "uniform", "truncated_normal" or "untruncated_normal", got {distribution!r}'
            )
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale!r}")
        self.scale, self.mode, self.distribution = scale, mode, distribution

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        inputs, outputs = fans(shape)
        n = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, n))
        draw = self._source()
        if self.distribution == "uniform":
            limit = math.sqrt(3) * deviation
            return draw.uniform(tuple(shape), -limit, limit, dtype=dtype)
        if self.distribution == "untruncated_normal":
            return draw.normal(tuple(shape), 0.0, deviation, dtype=dtype)
        # What is cut off takes variance with it: this is the deviation of a standard normal within [-2, 2].
        return draw.truncated_normal(tuple(shape), 0.0, deviation / 0.87962566103423978, dtype=dtype)


def _scaling(name: str, paper: str, scale: float, mode: str, distribution: str) -> type[Initializer]:
    def __init__(self: Any, seed: int | None = None) -> None:
        VarianceScaling.__init__(self, scale, mode, distribution, seed)

    doc = f"VarianceScaling with scale {scale:g}, {mode}, {distribution} ({paper})."
    return type(name, (VarianceScaling,), {"__init__": __init__, "__doc__": doc, "__module__": __name__})


_GLOROT, _HE, _LECUN = "Glorot and Bengio, 2010", "He et al., 2015", "LeCun et al., 1998"
GlorotUniform = _scaling("GlorotUniform", _GLOROT, 1.0, "fan_avg", "uniform")
GlorotNormal = _scaling("GlorotNormal", _GLOROT, 1.0, "fan_avg", "truncated_normal")
HeUniform = _scaling("HeUniform", _HE, 2.0, "fan_in", "uniform")
HeNormal = _scaling("HeNormal", _HE, 2.0, "fan_in", "truncated_normal")
LecunUniform = _scaling("LecunUniform", _LECUN, 1.0, "fan_in", "uniform")
LecunNormal = _scaling("LecunNormal", _LECUN, 1.0, "fan_in", "truncated_normal")


class Orthogonal(_Random):
    """A matrix with orthonormal rows or columns, whichever are fewer, times `gain` (Saxe et al., 2013).

    More than two dimensions: all but the last are the rows.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        super().__init__(seed)
        self.gain = gain

    def __call__(self, shape: Shape, dtype: Any = None) -> Any:
        if len(shape) < 2:
            raise ShapeError(f"an orthogonal matrix has at least 2 dimensions, got the shape {tuple(shape)}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        a = self._source().normal((max(rows, columns), min(rows, columns)), dtype=hml.float64).numpy()
        q, r = np.linalg.qr(a)
        q = q * np.where(
            np.diagonal(r) < 0, -1.0, 1.0
        )  # evenly over all orthogonal matrices (Mezzadri, 2007)
        q = q if rows >= columns else q.T
        return hml.asarray(self.gain * q.reshape(tuple(shape)), dtype=hml.float32 if dtype is None else dtype)


CLASSES: dict[str, type[Initializer]] = {
    re.sub(r"(?<!^)([A-Z])", r"_\1", c.__name__).lower(): c
    for c in (
        Zeros, Ones, Constant, Identity, RandomUniform, RandomNormal, TruncatedNormal, VarianceScaling, GlorotUniform, GlorotNormal,
        HeUniform, HeNormal, LecunUniform, LecunNormal, Orthogonal,
    )
}  # fmt: skip
CLASSES |= {"uniform": RandomUniform, "normal": RandomNormal}  # as Keras calls them for short
# The lower-case names are the classes again: `hml.initializers.zeros()` and `get("zeros")` are one.
zeros, ones, constant, identity, orthogonal = Zeros, Ones, Constant, Identity, Orthogonal
random_uniform, random_normal, truncated_normal = RandomUniform, RandomNormal, TruncatedNormal
variance_scaling = VarianceScaling
glorot_uniform, glorot_normal = GlorotUniform, GlorotNormal
he_uniform, he_normal = HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal


def get(initializer: str | type[Initializer] | Callable[..., Any]) -> Callable[..., Any]:
    """An initializer from its name, its class, or itself. Raises ValueError for a name that is none.

    >>> get("he_normal")
    HeNormal(scale=2.0, mode='fan_in', distribution='truncated_normal')
    """
    if isinstance(initializer, str):
        if initializer not in CLASSES:
            raise ValueError(f"no initializer is called {initializer!r}; there are {', '.join(CLASSES)}")
        return CLASSES[initializer]()
    if isinstance(initializer, type) and issubclass(initializer, Initializer):
        return initializer()
    if not callable(initializer):
        raise TypeError(
            f"an initializer is a name, a class or a function of (shape, dtype), got {initializer!r}"
        )
    return initializer
