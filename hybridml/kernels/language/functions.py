"""What a kernel may call: functions of the same language, and machine operations that write their LLVM code themselves."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from hybridml.kernels.language.types import Signature, Type


class KernelTypeError(TypeError):
    """A kernel calls an operation with types that it does not take."""


class Device:
    """A Python function in the kernel language, always inlined into the kernel that calls it.

    Division by zero gives inf or NaN, never an exception. Called from Python it raises; the "python" target of the scalar functions
    serves that purpose.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.__name__} is for kernels and cannot be called from Python")  # type: ignore[attr-defined]


device = Device

Emit = Callable[["Context", Any, Signature, Any], Any]


class Intrinsic:
    """A machine operation: `typing(context, *types)` gives its signature and what emits its code, or None for other types.

    The emitter is called as ``emit(context, builder, signature, values)`` and returns the LLVM value of the result. As in Numba's
    intrinsics, whose protocol this is, integer literals come as `IntegerLiteral` where `prefer_literal` asks for them. One that is
    `lanewise` also emits code for vectors, with the types of its values: it is asked for the types of their elements.
    """

    __name__: str  # that of its typing function

    def __init__(
        self,
        typing: Callable[..., tuple[Signature, Emit] | None],
        prefer_literal: bool = False,
        lanewise: bool = False,
    ) -> None:
        self.typing, self.prefer_literal, self.lanewise = typing, prefer_literal, lanewise
        functools.update_wrapper(self, typing)

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.__name__} is for kernels and cannot be called from Python")


def intrinsic(typing: Any = None, *, prefer_literal: bool = False, lanewise: bool = False) -> Any:
    """Decorator that makes an `Intrinsic` of its typing function."""
    if typing is None:
        return functools.partial(Intrinsic, prefer_literal=prefer_literal, lanewise=lanewise)
    return Intrinsic(typing, prefer_literal, lanewise)


class Context:
    """What an emitter may ask about types."""

    def get_value_type(self, t: Type) -> ir.Type:
        return t.value

    def get_dummy_value(self) -> None:
        """The value of an operation that has no result."""
        return None


context = Context()
