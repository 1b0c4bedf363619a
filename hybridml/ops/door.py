"""The one door: every operation on every kind of tensor goes through `call`.

This layer knows neither tensors nor traces. The eager layer puts its interpreter here when it is imported, and hands symbolic
operands on to the trace they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridml.ops.registry import Op


class _Interpreter:
    run: Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]
    lift: Callable[..., Any]
    beside: Callable[..., Any]


interpreter = _Interpreter()


def call(op: Op, *operands: Any, **attrs: Any) -> Any:
    """Run or write down `op`. Operands are tensors, variables, Python scalars, or anything `asarray` takes."""
    return interpreter.run(op, operands, attrs)


def lift(x: Any, like: Any = None) -> Any:
    """`x` as a tensor (a symbolic tensor stays symbolic); what is not one yet comes to lie on the device of `like`."""
    return interpreter.lift(x, like)


def beside(x: Any) -> Any:
    """A context in which tensors made of nothing (constants, positions) come to lie on the device of `x`."""
    return interpreter.beside(x)
