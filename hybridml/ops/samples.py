"""Inputs for the tests of a row: plain, broadcast, 0-d, empty, scalar operands, and special values.

Arrays are float64 prototypes; the tests recast them to every dtype the row accepts and also pass them non-contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hybridml.ops.registry import Sample, SampleMaker

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-42, 3e38, -3e38, 0.5, 88.0])


def unary_samples(low: float, high: float, *, special: bool = False) -> Callable[..., Iterator[Sample]]:
    """Shapes (), (0, 3), (7,) and (3, 5) with values in [low, high); `special` adds NaN, infinities, zeros and huge values.

    Further arguments of the maker follow x in the call.
    """

    def make(rng: np.random.Generator, *more: Any) -> Iterator[Sample]:
        for shape in ((3, 5), (7,), (), (0, 3), (2, 3, 4)):
            yield Sample((rng.uniform(low, high, shape), *more), label=f"shape {shape}")
        if special:
            yield Sample((SPECIAL, *more), differentiable=False, label="special values")

    return make


def binary_samples(
    low: float, high: float, *, special: bool = False, ties: bool = False, differentiable: bool = True
) -> SampleMaker:
    """Equal shapes, every kind of broadcasting, 0-d, empty, and a Python scalar on either side."""

    def make(rng: np.random.Generator) -> Iterator[Sample]:
        def u(*shape: int) -> np.ndarray:
            return rng.uniform(low, high, shape)

        pairs = [
            ((3, 5), (3, 5)),
            ((3, 5), (5,)),
            ((3, 1), (1, 5)),
            ((), (4,)),
            ((), ()),
            ((0, 3), (3,)),
            ((2, 3, 4), (3, 1)),
        ]
        for a, b in pairs:
            yield Sample((u(*a), u(*b)), differentiable=differentiable, label=f"shapes {a} {b}")
        yield Sample((u(4), 2), differentiable=differentiable, label="Python int on the right")
        yield Sample((1.5, u(4)), differentiable=differentiable, label="Python float on the left")
        if ties:
            x = np.round(u(4, 4))
            yield Sample((x, np.where(u(4, 4) > (low + high) / 2, x, -x)), differentiable=False, label="ties")
        if special:
            yield Sample((SPECIAL[:, None], SPECIAL), differentiable=False, label="special values")

    return make


def ternary_samples(low: float, high: float) -> SampleMaker:
    """A bool first operand and two of equal or broadcast shape."""

    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for c, a, b in (((3, 5), (3, 5), (3, 5)), ((3, 1), (5,), ()), ((), (4,), (4,)), ((0,), (0,), ())):
            yield Sample(
                (rng.uniform(size=c) > 0.5, rng.uniform(low, high, a), rng.uniform(low, high, b)),
                label=f"{c} {a} {b}",
            )
        yield Sample((rng.uniform(size=4) > 0.5, rng.uniform(low, high, 4), 0.0), label="Python scalar")

    return make
