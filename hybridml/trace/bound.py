"""A traced method, bound to its instance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
