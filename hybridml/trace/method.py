"""Traced functions that are methods: one for each instance, which it does not keep alive."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hybridml.eager.state import state
from hybridml.trace import autograph

if TYPE_CHECKING:
    from hybridml.trace.function import Function


class BoundFunction:
    """A traced method: the function that its instance has, and the instance, kept alive as long as somebody may call it.

    >>> import hybridml as hml
    >>> class Scale:
    ...     @hml.function
    ...     def twice(self, x):
    ...         return x * 2
    >>> Scale().twice(hml.asarray(3.0)).item()
    6.0
    """

    __slots__ = ("__self__", "__wrapped__")

    def __init__(self, function: Function, instance: Any) -> None:
        self.__wrapped__ = function
        self.__self__ = instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in self.__slots__:  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundFunction) and self.__wrapped__ is other.__wrapped__

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def weak_method(f: Callable[..., Any], instance: Any, convert: bool) -> Callable[..., Any]:
    """`f` bound to an instance that it does not keep alive."""
    ref = weakref.ref(instance)
    inner = f.__get__(instance)

    @functools.wraps(f)
    def method(*args: Any, **kwargs: Any) -> Any:
        if convert and state.now.traces:
            return autograph.run(f, (ref(), *args), kwargs)
        return f(ref(), *args, **kwargs)

    method.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]  # functions take attributes
    return method
