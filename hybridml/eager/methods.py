"""Operators and methods, attached from the registry: nothing here names an op.

Operators on two plain tensors of one dtype with no tape active take a short way that allocates one array and one tensor; all
else goes through the door.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import backends
from hybridml.eager import dispatch, quiet
from hybridml.eager.state import state
from hybridml.eager.tensor import Operators, Tensor, wrap
from hybridml.ops.registry import ATTRIBUTES, METHODS, PUBLIC, Op, Promote

_COMPARISONS = {"lt", "gt", "le", "ge", "eq", "ne"}


def _reversed(f: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    def operate(self: Any, other: Any) -> Any:
        return f(other, self)

    return operate


def _fast_binary(op: Op, f: Callable[..., Any], swapped: bool = False) -> Callable[[Any, Any], Any]:
    """The short way of an operator: one array and one tensor are made, nothing else."""
    ufunc, enter, leave, quiet_setting, here = op.ufunc, quiet.enter_with, quiet.leave, quiet.QUIET, state
    new = Tensor.__new__
    kinds = {Promote.FLOAT: "f", Promote.NUMBER: "iuf"}.get(op.promote, "biuf")
    beside = {
        Tensor: "",
        float: "f",
        int: "".join(k for k in "iuf" if k in kinds),
    }  # scalar type -> tensor kinds it is weak beside

    def on_device(a: Any, b: Any) -> Callable[..., Any]:
        """What another array library runs."""
        return functools.partial(op.eager, backends.common((a, b)).xp)

    def operate(self: Tensor, other: Any) -> Any:
        cls = type(other)
        if cls in beside and type(self) is Tensor and not here.now.tapes:
            a = self._array
            if cls is Tensor:
                b = other._array
                plain = a.dtype is b.dtype and a.dtype.kind in kinds
            else:
                b = other
                plain = a.dtype.kind in beside[cls]
            if plain:
                token = enter(quiet_setting)
                try:
                    run = ufunc if type(a) is np.ndarray else on_device(a, b)
                    out = run(b, a) if swapped else run(a, b)
                except Exception as cause:
                    operands = [other, self] if swapped else [self, other]
                    raise dispatch.explain_failure(op, operands, {}, cause) from cause
                finally:
                    leave(token)
                if out.ndim:
                    t = new(Tensor)
                    t._array = out
                    t._id = None
                    return t
                return wrap(out)
        return f(other, self) if swapped else f(self, other)

    return operate


def _attach_operator(name: str, op: Op, f: Callable[..., Any]) -> None:
    if op.ufunc is not None and op.ufunc.nin == 1:
        setattr(Operators, f"__{name}__", f)
        return
    setattr(Operators, f"__{name}__", f)
    if name not in _COMPARISONS:  # Python reflects comparisons by itself
        setattr(Operators, f"__r{name}__", _reversed(f))
    if op.ufunc is not None:
        setattr(Tensor, f"__{name}__", _fast_binary(op, f))
        if name not in _COMPARISONS:
            setattr(Tensor, f"__r{name}__", _fast_binary(op, f, swapped=True))


def attach() -> None:
    """Give tensors and variables every operator and method of the registry."""
    for f in PUBLIC.values():
        op = getattr(f, "op", None)
        if op is not None and op.operator is not None:
            _attach_operator(op.operator, op, f)
    for name, f in METHODS.items():
        setattr(Operators, name, f)
    for name, f in ATTRIBUTES.items():
        setattr(Operators, name, property(f, doc=f.__doc__))


attach()
