"""How values of each dtype lie in memory, and how they travel between threads: texts of loads, stores and exchanges."""

from __future__ import annotations

import numpy as np

from hybridml.dtypes import is_half
from hybridml.kernels.spec import Operand, suffix

# Values travel between threads as one of four types; the others as the type of their bits.
EXCHANGED = {"b1": "i32", "i8": "i32", "i16": "i32", "u8": "i32", "u16": "i32", "u32": "i32", "u64": "i64"}


def in_memory(dtype: np.dtype) -> np.dtype:
    """Pointers to bool are beyond Numba, which keeps bools as bits in registers and as bytes in memory. Half precision is moved as bits."""
    return np.dtype(np.uint8) if dtype.kind == "b" else np.dtype(np.uint16) if is_half(dtype) else dtype


def form(dtype: np.dtype) -> str:
    """What the names of wide accesses say of a dtype."""
    return "_bools" if dtype.kind == "b" else f"_{suffix(dtype)}" if is_half(dtype) else ""


def load(place: str, dtype: np.dtype) -> str:
    """The value at a place."""
    if is_half(dtype):
        return f"from_{suffix(dtype)}({place})"
    return f"({place} != 0)" if dtype.kind == "b" else place


def as_stored(value: str, dtype: np.dtype) -> str:
    """A value as memory has it."""
    if is_half(dtype):
        return f"to_{suffix(dtype)}({value})"
    return f"u8({value})" if dtype.kind == "b" else value


def store(operand: Operand, index: str, value: str) -> str:
    """The statement that writes one element."""
    return f"{operand.name}[{index}] = {as_stored(value, operand.dtype)}"


def exchanged(dtype: np.dtype) -> str:
    """The type in which a value travels."""
    return EXCHANGED.get(suffix(dtype), suffix(dtype))


def forth(name: str, dtype: np.dtype) -> str:
    """A value, ready to travel."""
    return f"{exchanged(dtype)}({name})" if suffix(dtype) in EXCHANGED else name


def back(text: str, dtype: np.dtype) -> str:
    """A value that has travelled, in its own dtype."""
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"{suffix(dtype)}({text})" if suffix(dtype) in EXCHANGED else text
