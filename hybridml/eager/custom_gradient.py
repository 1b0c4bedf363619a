"""A function with its own gradient rule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hybridml import pytree
from hybridml.eager.creation import zeros_like
from hybridml.eager.state import state
from hybridml.eager.step import record_step
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import ShapeError
from hybridml.ops.identity import stop_gradient


def custom_gradient(f: Callable[..., tuple[Any, Callable[..., Any]]]) -> Callable[..., Any]:
    """Decorator: `f(*args)` returns its result and the function that takes the result's gradients to those of the arguments.

    The rule gets one gradient for each tensor of the result, and returns one for each tensor of the positional arguments (a
    single one need not be in a tuple; None passes nothing). Gradients flow to arguments only, not to what f closes over. The
    rule is differentiated in its turn for higher orders. Raises ShapeError if it returns another number of gradients.

    >>> import hybridml as hml
    >>> @hml.custom_gradient
    ... def clipped(x):
    ...     return x * 1, lambda g: hml.clip(g, -1, 1)
    >>> float(hml.grad(lambda x: clipped(x) * 100)(hml.asarray(2.0)))
    1.0
    """

    @functools.wraps(f)
    def with_rule(*args: Any, **kwargs: Any) -> Any:
        operands = [a for a in pytree.leaves(args) if isinstance(a, (Tensor, Variable))]
        if state.now.traces and any(isinstance(x, Variable) or type(x) is not Tensor for x in operands):
            return state.now.traces[-1].custom_gradient(f, args, kwargs)  # the graph keeps the rule
        inner, rule = f(*args, **kwargs)
        results, structure = pytree.flatten(inner)
        # Aliases that no tape connects with f's own steps: those stay recorded, because the rule may read their values and
        # a higher order differentiates it.
        aliases = [stop_gradient(r) for r in results]
        record_step(operands, aliases, pullback_of(f, rule, operands, results))
        return pytree.unflatten(structure, aliases)

    return with_rule


def pullback_of(
    f: Callable[..., Any], rule: Callable[..., Any], operands: list[Any], results: list[Any]
) -> Any:
    """The rule that a function returned, as tapes call it."""
    specs = [r.spec for r in results]
    n = len(operands)

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        found = rule(*[zeros_like(s) if g is None else g for g, s in zip(grads, specs, strict=True)])
        gradients = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(gradients) != n:
            raise ShapeError(
                f"the gradient rule of {f.__name__} returned {len(gradients)} gradients for {n} tensor arguments"
            )
        return [g if want else None for g, want in zip(gradients, wanted, strict=True)]

    return pull
