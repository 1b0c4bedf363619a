"""Standardising: less the mean, over the standard deviation. The core of layer, group, instance and batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.halves import computed_in_single, in_single
from hybridml.ops.registry import Kind, Op, Promote, Sample, Saves, public, register
from hybridml.ops.spec import normalize_axes
from hybridml.ops.statistics import mean
from hybridml.ops.transcendental import rsqrt


def _eager(xp: Any, x: Any, *, axis: tuple[int, ...], epsilon: float) -> Any:
    n = math.prod(
        [x.shape[a] for a in axis]
    )  # NumPy's own `mean` is Python, and costs as much as all the rest of a small one
    centred = x - xp.add.reduce(x, axis=axis, keepdims=True) / n
    variance = xp.add.reduce(centred * centred, axis=axis, keepdims=True) / n
    centred *= xp.reciprocal(xp.sqrt(variance + epsilon))
    return centred


def _parts(x: Any, axis: tuple[int, ...], epsilon: float) -> tuple[Any, Any]:
    """x less its mean, and one over its standard deviation."""
    centred = x - mean(x, axis=axis, keepdims=True)
    return centred, rsqrt(mean(centred * centred, axis=axis, keepdims=True) + epsilon)


def _expand(x: Any, *, axis: tuple[int, ...], epsilon: float) -> Any:
    centred, scale = _parts(x, axis, epsilon)
    return centred * scale


def _vjp(g: Any, out: Any, x: Any, *, axis: tuple[int, ...], epsilon: float) -> Any:
    """With both means over g known as soon as x's is: a kernel walks over a row three times, not four as for the chain rule's terms."""
    centred, scale = _parts(x, axis, epsilon)
    slope = mean(g * centred, axis=axis, keepdims=True) * (scale * scale)
    return (g - mean(g, axis=axis, keepdims=True) - centred * slope) * scale


def _samples(rng: np.random.Generator) -> Any:
    # With a small epsilon the squares of a row add up to its length whatever x is, and a gradient of that is rounding alone.
    for shape, axis in (
        ((3, 5), -1),
        ((3, 5), 0),
        ((2, 3, 4), (0, 2)),
        ((40, 70), 0),
        ((3, 300), 1),
        ((1, 1), 1),
    ):
        x = rng.uniform(-2, 2, shape)
        yield Sample((x,), {"axis": axis, "epsilon": 0.5}, label=f"{shape} {axis}")
        yield Sample((x,), {"axis": axis}, differentiable=False, label=f"{shape} {axis}, small epsilon")
    yield Sample((np.full((2, 4), 3.0),), {"axis": 1}, differentiable=False, label="a constant row")
    yield Sample((np.zeros((0, 3)),), {"axis": 1}, label="no rows")
    for value in (np.nan, np.inf):
        x = rng.uniform(-2, 2, (3, 4))
        x[1, 2] = value
        yield Sample((x,), {"axis": 1}, differentiable=False, label=f"a {value}")


def _reference(x: Any, axis: Any = -1, epsilon: float = 1e-5) -> Any:
    wide = np.asarray(x, np.float64)
    return (wide - wide.mean(axis=axis, keepdims=True)) / np.sqrt(
        wide.var(axis=axis, keepdims=True) + epsilon
    )


STANDARDIZE = register(Op(
    "standardize", Kind.EXTERN, infer=infer.only("f", lambda x, *, axis, epsilon: x), promote=Promote.FLOAT, eager=in_single(_eager),
    vjps=(_vjp,), saves=Saves.INPUTS, expand=_expand, samples=_samples, reference=_reference,
))  # fmt: skip


@public(STANDARDIZE, namespace="nn")
@computed_in_single
def standardize(x: Any, /, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5) -> Any:
    """x less its mean over `axis`, over its standard deviation: (x - mean(x)) / sqrt(var(x) + epsilon).

    Integers become floats; half precision is computed in single. Raises ShapeError for an axis that x has not.

    >>> import hybridml as hml
    >>> hml.nn.standardize([1., 3.], epsilon=0.0).tolist()
    [-1.0, 1.0]
    """
    x = lift(x)
    return call(STANDARDIZE, x, axis=normalize_axes(axis, x.ndim), epsilon=float(epsilon))
