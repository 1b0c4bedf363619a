"""What a name stands for while a kernel is translated: a typed LLVM value, or a Python object of the text's own module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from hybridml.kernels.language import types
from hybridml.kernels.language.types import Type


class Unsupported(Exception):
    """The text uses something that this translator leaves to Numba."""


@dataclass(frozen=True)
class Value:
    """A number or an operand; `literal` is its Python value where that is known."""

    type: Type
    llvm: Any
    literal: int | float | bool | None = None


CASTS: dict[Any, Type] = {getattr(np, name): t for name, t in types.NUMBERS.items() if name != "bool"}
"""The casts of kernel text: `f32` is `np.float32`."""


def constant(x: Any) -> Any:
    """A Python or NumPy number as a value; anything else as it is."""
    if isinstance(x, (bool, np.bool_)):
        return Value(types.boolean, ir.Constant(types.boolean.value, int(x)), bool(x))
    if isinstance(x, np.generic):
        t = CASTS.get(type(x))
        return x if t is None else _number(t, x.item())
    if isinstance(x, int):
        if not -(2**63) <= x < 2**64:
            raise Unsupported(f"the integer {x}")
        return _number(types.int64 if x < 2**63 else types.uint64, int(x))
    if isinstance(x, float):
        return _number(types.float64, x)
    return x


def _number(t: Type, x: Any) -> Value:
    if t.kind == "u" and x >= 2 ** (t.bits - 1):
        return Value(t, ir.Constant(t.value, x - 2**t.bits), x)
    return Value(t, ir.Constant(t.value, x), x)
