"""A user's function as a workload."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import hybridml as hml
from hybridml.compare.case import Case, Workload


def workload_of(f: Callable[..., Any], args: tuple[Any, ...], name: str | None = None) -> Workload:
    """`f(*args)` as a workload whose every build puts the variables back to the values they have now.

    Raises TypeError if `f` cannot be called.
    """
    if not callable(f):
        raise TypeError(f"hml.compare needs a function and its arguments, got {type(f).__name__}")
    f = getattr(f, "python_function", f)
    variables = tuple(hml.function(f).get_concrete_function(*args).variables)
    start = [v.numpy() for v in variables]

    def build() -> Case:
        for v, value in zip(variables, start, strict=True):
            v.assign(value)
        return Case(f, lambda i: args, variables)

    inner = f.func if isinstance(f, functools.partial) else f
    label = name or str(getattr(inner, "__name__", type(inner).__name__))
    return Workload(label, label, build)
