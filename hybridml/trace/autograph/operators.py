"""The operators that converted code calls, under the name `ag__`. Each decides at run time between Python's meaning and the graph's."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from hybridml.errors import TraceError, TracerError, located, user_line
from hybridml.trace.autograph.calls import callee
from hybridml.trace.autograph.conditions import (
    Binding,
    and_,
    assert_,
    compare,
    if_,
    if_exp,
    not_,
    not_any,
    or_,
    symbolic,
)
from hybridml.trace.autograph.iterables import tensor_iterable
from hybridml.trace.autograph.loops import for_, while_
from hybridml.trace.autograph.slots import attribute, contents
from hybridml.trace.autograph.touched import store


def walrus(cell: Callable[[], Any], value: Any) -> Any:
    """`(name := value)` inside an operand that became a lambda: `cell` is a lambda that reads the name."""
    assert isinstance(cell, types.FunctionType)
    assert cell.__closure__ is not None
    cell.__closure__[0].cell_contents = value
    return value


def stores(x: Any, text: str) -> Any:
    """`x`, which the statement is about to change in place; the user calls it `text`."""
    store(x, text)
    return x


def rows(iterable: Any) -> Any:
    """What a comprehension goes over: a tensor's rows one by one, as it makes a Python list."""
    items = tensor_iterable(iterable)
    return iterable if items is None else iter(items)


def keep(test: Any) -> Any:
    """The `if` of a comprehension."""
    if symbolic(test) is None:
        return test
    raise TracerError(
        located(
            "the `if` of a comprehension is a tensor here, so the length of the list would be known only when the function runs. "
            "Keep all items and choose with hml.where(condition, x, 0), or filter outside the function",
            user_line(),
        )
    )


def result(returned: Any, value: Callable[[], Any]) -> Any:
    """What a function returns that may run off its end."""
    if symbolic(returned) is None:
        return value() if returned else None
    found = value()
    if found is None:
        return None
    raise TraceError(
        located(
            "the function returns a value only if a condition on a tensor holds, and runs off its end otherwise. Return a value of the "
            "same shape and dtype at the end too, e.g. hml.zeros_like(...)",
            user_line(),
        )
    )


__all__ = [
    "Binding",
    "and_",
    "assert_",
    "attribute",
    "callee",
    "compare",
    "contents",
    "for_",
    "if_",
    "if_exp",
    "keep",
    "not_",
    "not_any",
    "or_",
    "result",
    "rows",
    "stores",
    "walrus",
    "while_",
]
