"""The optimisers' formulas once more, in float64 NumPy, as plainly as the papers state them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

Array = np.ndarray
Rule = Callable[
    [Array, Iterator[Array]], Iterator[Array]
]  # start and gradients -> the parameter after each step


def sgd(
    x: Array, grads: Iterator[Array], rate: float, momentum: float = 0.0, nesterov: bool = False
) -> Iterator[Array]:
    v = np.zeros_like(x)
    for g in grads:
        v = momentum * v - rate * g
        x = x + (momentum * v - rate * g if nesterov else v)
        yield x


def adam(
    x: Array, grads: Iterator[Array], rate: float, b1: float, b2: float, eps: float, decay: float = 0.0
) -> Iterator[Array]:
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        x = x - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x)
        yield x


def adamax(
    x: Array, grads: Iterator[Array], rate: float, b1: float, b2: float, eps: float
) -> Iterator[Array]:
    m, u = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m, u = b1 * m + (1 - b1) * g, np.maximum(b2 * u, np.abs(g))
        x = x - rate / (1 - b1**t) * m / (u + eps)
        yield x


def nadam(x: Array, grads: Iterator[Array], rate: float, b1: float, b2: float, eps: float) -> Iterator[Array]:
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        look = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        x = x - rate * look / (np.sqrt(v / (1 - b2**t)) + eps)
        yield x


def adagrad(x: Array, grads: Iterator[Array], rate: float, eps: float) -> Iterator[Array]:
    a = np.zeros_like(x)
    for g in grads:
        a = a + g**2
        x = x - rate * g / (np.sqrt(a) + eps)
        yield x


def rmsprop(
    x: Array,
    grads: Iterator[Array],
    rate: float,
    rho: float,
    eps: float,
    momentum: float = 0.0,
    centered: bool = False,
) -> Iterator[Array]:
    v, mean, moved = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)
    for g in grads:
        v, mean = rho * v + (1 - rho) * g**2, rho * mean + (1 - rho) * g
        moved = momentum * moved + rate * g / (np.sqrt(v - mean**2 if centered else v) + eps)
        x = x - moved
        yield x


def adadelta(x: Array, grads: Iterator[Array], rate: float, rho: float, eps: float) -> Iterator[Array]:
    v, s = np.zeros_like(x), np.zeros_like(x)
    for g in grads:
        v = rho * v + (1 - rho) * g**2
        step = np.sqrt(s + eps) / np.sqrt(v + eps) * g
        s = rho * s + (1 - rho) * step**2
        x = x - rate * step
        yield x


def lion(
    x: Array, grads: Iterator[Array], rate: float, b1: float, b2: float, decay: float = 0.0
) -> Iterator[Array]:
    m = np.zeros_like(x)
    for g in grads:
        x = x - rate * (np.sign(b1 * m + (1 - b1) * g) + decay * x)
        m = b2 * m + (1 - b2) * g
        yield x


def lamb(
    x: Array, grads: Iterator[Array], rate: float, b1: float, b2: float, eps: float, decay: float
) -> Iterator[Array]:
    m, v = np.zeros_like(x), np.zeros_like(x)
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        d = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * x
        size, length = np.linalg.norm(x), np.linalg.norm(d)
        x = x - rate * (size / length if size > 0 and length > 0 else 1.0) * d
        yield x
