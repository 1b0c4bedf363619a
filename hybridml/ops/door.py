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


interpreter = _Interpreter()


def call(op: Op, *operands: Any, **attrs: Any) -> Any:
    """Run or write down `op`. Operands are tensors, variables, Python scalars, or anything `asarray` takes."""
    return interpreter.run(op, operands, attrs)


def lift(x: Any) -> Any:
    """`x` as a tensor (a symbolic tensor stays symbolic)."""
    return interpreter.lift(x)
