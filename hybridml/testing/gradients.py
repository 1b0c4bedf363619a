"""Gradients against central differences, in one random direction: cheap at any size, and it misses nothing by accident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 1,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    seed: int = 0,
) -> None:
    """Compare the gradients of `f` with central differences, up to `order`; raises AssertionError with both numbers.

    f: takes `args` (nested structures of tensors, arrays and anything else), returns a structure of tensors.
    The result is weighed with random numbers, and the arguments are moved along a random direction d: the derivative along d
    must be the gradient's product with d. Floating point arguments are taken to float64, whose differences are precise enough;
    all other arguments stay as they are.

    >>> import hybridml as hml
    >>> check_grads(lambda x: (x * x).sum(), (hml.asarray([1., 2.]),), order=2)
    """
    rng = np.random.default_rng(seed)
    leaves, structure = pytree.flatten(tuple(args))
    places = [i for i, x in enumerate(leaves) if _is_float_array(x)]
    point = [np.array(leaves[i], np.float64) for i in places]
    if not point:
        raise ValueError("check_grads needs at least one floating point tensor or array among the arguments")

    def call(values: list[Any]) -> list[Any]:
        full = list(leaves)
        for i, v in zip(places, values, strict=True):
            full[i] = v if isinstance(v, Tensor) else asarray(v)
        out = f(*pytree.unflatten(structure, full))
        return [
            t for t in pytree.leaves(out) if isinstance(t, (Tensor, Variable)) and dtypes.is_float(t.dtype)
        ]

    _check(call, point, order, rng, eps, rtol, atol, order)


def _is_float_array(x: Any) -> bool:
    return isinstance(x, (Tensor, Variable, np.ndarray)) and dtypes.is_float(x.dtype)


def _check(
    f: Callable[[list[Any]], list[Any]], point: list[np.ndarray], order: int, rng: np.random.Generator,
    eps: float, rtol: float, atol: float, total: int,
) -> None:  # fmt: skip
    weights = [rng.normal(size=o.shape) for o in f(point)]
    direction = [rng.normal(size=p.shape) for p in point]

    def gradient(values: list[Any]) -> list[Any]:
        """The gradient of the weighed result, as tensors that outer tapes follow."""
        inputs = [v if isinstance(v, Tensor) else asarray(v) for v in values]
        with GradientTape() as tape:
            tape.watch(inputs)
            loss: Any = asarray(np.zeros(()))
            for out, w in zip(f(inputs), weights, strict=True):
                loss = loss + (out * w).sum()
        return tape.gradient(loss, inputs, unconnected_gradients="zero")

    def value(values: list[np.ndarray]) -> float:
        return sum(float(np.vdot(o.numpy(), w)) for o, w in zip(f(values), weights, strict=True))

    grads = gradient(point)
    for g, p in zip(grads, point, strict=True):
        assert g.shape == p.shape, f"a gradient has shape {g.shape}, its argument {p.shape}"
        assert g.dtype == p.dtype, f"a gradient has dtype {g.dtype}, its argument {p.dtype}"
    found = sum(float(np.vdot(g.numpy(), d)) for g, d in zip(grads, direction, strict=True))
    ahead = value([p + eps * d for p, d in zip(point, direction, strict=True)])
    behind = value([p - eps * d for p, d in zip(point, direction, strict=True)])
    expected = (ahead - behind) / (2 * eps)
    # Rounding in the difference grows with the values themselves.
    slack = atol + rtol * abs(expected) + 1e-15 * abs(ahead) / eps
    which = f"of order {total - order + 1}"
    assert abs(found - expected) <= slack, (
        f"the derivative {which} along a random direction is {found!r}, by central differences {expected!r}"
    )
    if order > 1:
        _check(gradient, point, order - 1, rng, eps, rtol, atol, total)
