"""Generators: a variable of two words, seed and counter, that every draw reads and moves on.

Because the state is a variable, a traced function draws new numbers at each call, and the same ones as eager code would.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml import backends, dtypes
from hybridml.eager.creation import asarray
from hybridml.eager.state import init_scope, state
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops.door import lift
from hybridml.ops.elementwise import astype, less, where
from hybridml.ops.indexing import take
from hybridml.ops.random import blocks_used, stateless_bits, stateless_normal, stateless_uniform
from hybridml.ops.sorting import argsort
from hybridml.ops.spec import is_int
from hybridml.ops.statistics import argmax
from hybridml.ops.transcendental import log, log1p
from hybridml.ops.view import expand_dims
from hybridml.symbolic import dim

Shape = Sequence[int] | int
RANDOM_STATE = "random_state"
_SECOND = np.array([0, 1], np.uint64)  # the counter of a state


def _shape(shape: Shape) -> tuple[int, ...]:
    return (dim(shape),) if is_int(shape) else tuple([dim(d) for d in shape])  # type: ignore[union-attr]  # it is no int


class Generator:
    """A stream of random numbers.

    The same seed gives the same numbers, eagerly, in a traced function, and on every device.

    >>> a, b = Generator(1), Generator(1)
    >>> a.normal((2,)).tolist() == b.normal((2,)).tolist() != a.normal((2,)).tolist()
    True
    """

    def __init__(self, seed: int | None = None) -> None:
        self._lock = threading.RLock()
        self._start = self._words(seed)
        self._states: dict[str, Variable] = {}  # one a device, made when that device first draws

    @property
    def state(self) -> Variable:
        """Seed and counter of the stream of the current device; on each device it begins with the seed."""
        name = backends.current().name
        if name not in self._states:
            with self._lock, init_scope(), backends.device(name):
                if name not in self._states:
                    self._states[name] = Variable(self._start, trainable=False, name=RANDOM_STATE)
        return self._states[name]

    @staticmethod
    def _words(seed: int | None) -> np.ndarray:
        return np.array([secrets.randbits(64) if seed is None else seed % 2**64, 0], np.uint64)

    def seed(self, seed: int | None = None) -> None:
        """Start again from a seed; None takes one from the operating system."""
        with self._lock:
            self._start = self._words(seed)
            for variable in self._states.values():
                variable.assign(self._start)

    def _draw(self, f: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Numbers from `f`; inside a `vmap`, different ones for each example."""
        if not state.now.levels:
            return self._advance(f, shape, dtype)
        out = self._advance(f, (*[level.size for level in state.now.levels], *shape), dtype)
        for level in state.now.levels:
            out = level.wrap(out)
        return out

    def _advance(self, f: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        used = blocks_used(shape, dtype)
        step = asarray(np.array([0, used], np.uint64)) if type(used) is int else asarray(_SECOND) * used  # type: ignore[operator]
        with self._lock:
            now = self.state.value()
            self.state.assign(now + step)  # type: ignore[operator]
        return f(now, shape, dtype)

    def _floats(self, f: Any, shape: Shape, dtype: Any) -> Any:
        dtype = dtypes.as_dtype(float if dtype is None else dtype)
        if not dtypes.is_float(dtype):
            raise DTypeError(f"expected a floating point dtype for random numbers, got {dtype.name}")
        return astype(
            self._draw(f, _shape(shape), dtypes.float64 if dtype == dtypes.float64 else dtypes.float32), dtype
        )

    def uniform(self, shape: Shape = (), minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None) -> Any:
        """Floats spread evenly over [minval, maxval); float32 unless told otherwise.

        >>> Generator(0).uniform((2, 3)).shape
        (2, 3)
        """
        u = self._floats(stateless_uniform, shape, dtype)
        return u if (minval, maxval) == (0.0, 1.0) else u * (maxval - minval) + minval

    def normal(self, shape: Shape = (), mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None) -> Any:
        """Normally distributed floats.

        >>> Generator(0).normal((2, 3)).shape
        (2, 3)
        """
        z = self._floats(stateless_normal, shape, dtype)
        return z if (mean, stddev) == (0.0, 1.0) else z * stddev + mean

    def truncated_normal(
        self, shape: Shape = (), mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None
    ) -> Any:
        """Normally distributed floats within two standard deviations of the mean.

        A uniform number goes through the inverse distribution function, so that every draw costs the same; the values are
        good to single precision.

        >>> bool((Generator(0).truncated_normal((1000,)).abs() <= 2.0).all())
        True
        """
        u = self._floats(stateless_uniform, shape, dtype)
        z = _inverse_erf((u * 2 - 1) * math.erf(math.sqrt(2))) * math.sqrt(2)
        return where(less(z, -2), -2, where(less(z, 2), z, 2)) * stddev + mean

    def randint(self, low: int, high: int | None = None, shape: Shape = (), dtype: Any = None) -> Any:
        """Integers in [low, high), or in [0, low) with one bound; int64 unless told otherwise.

        Raises ValueError for an empty range.

        >>> bool((Generator(0).randint(6, shape=(100,)) < 6).all())
        True
        """
        low, high = (0, low) if high is None else (low, high)
        if high <= low:
            raise ValueError(f"no integer lies in [{low}, {high})")
        dtype = dtypes.as_dtype(int if dtype is None else dtype)
        span = high - low
        if span <= 2**32:  # the high half of a 64-bit product: no division
            bits = astype(self._draw(stateless_bits, _shape(shape), dtypes.uint32), dtypes.uint64)
            offset = (bits * span) >> 32
        else:
            offset = self._draw(stateless_bits, _shape(shape), dtypes.uint64) % span
        return astype(astype(offset, dtypes.int64) + low, dtype)

    def bernoulli(self, p: Any = 0.5, shape: Shape | None = None, dtype: Any = None) -> Any:
        """True with probability `p`; the shape is that of `p` unless given, the dtype bool unless given.

        >>> Generator(0).bernoulli(1.0, (3,)).tolist()
        [True, True, True]
        """
        hit = less(self.uniform(lift(p).shape if shape is None else shape), p)
        return hit if dtype is None else astype(hit, dtype)

    def permutation(self, x: Any) -> Any:
        """0 to x - 1 in random order for an int, else the rows of `x` in random order.

        >>> sorted(Generator(0).permutation(4).tolist())
        [0, 1, 2, 3]
        """
        if is_int(x):
            return argsort(self._draw(stateless_bits, (dim(x),), dtypes.uint64))
        x = lift(x)
        if x.ndim == 0:
            raise ShapeError("permutation needs an int or a tensor of at least 1 dimension, got a 0-d tensor")
        return take(x, self.permutation(x.shape[0]), axis=0)

    def categorical(self, logits: Any, num_samples: int = 1) -> Any:
        """Class indices drawn with probability softmax(logits) over the last axis: shape (*logits.shape[:-1], num_samples).

        >>> Generator(0).categorical([[0., float("-inf")]], 3).tolist()
        [[0, 0, 0]]
        """
        logits = lift(logits)
        shape = (*logits.shape[:-1], num_samples, logits.shape[-1])
        bits = self._draw(stateless_bits, shape, dtypes.uint32)
        u = (astype(bits >> 9, dtypes.float32) + 0.5) * 2.0**-23  # exact, and never 0 or 1
        return argmax(expand_dims(logits, axis=-2) - log(-log(u)), axis=-1)


def _inverse_erf(x: Any) -> Any:
    """For |x| <= 0.96 (Giles, "Approximating the erfinv function", 2010)."""
    w = -log1p(-(x * x)) - 2.5
    p: Any = 2.81022636e-08
    for c in (3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727,
              1.50140941):  # fmt: skip
        p = w * p + c
    return p * x


default = Generator()
