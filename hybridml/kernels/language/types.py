"""The types of kernel text, with the names and the call syntax of `numba.types`.

>>> print(int64(float32, float32))
int64(float32, float32)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from llvmlite import ir


class Type:
    """A type: `value` is how LLVM holds it in a register, `memory` in memory (a bool takes a byte there).

    `kind` is "b", "i", "u" or "f" for numbers, as in NumPy, and "" for everything else.
    """

    def __init__(
        self, name: str, value: ir.Type, memory: ir.Type | None = None, kind: str = "", bits: int = 0
    ) -> None:
        self.name, self.value, self.memory = name, value, memory or value
        self.kind, self.bits = kind, bits

    def __call__(self, *arguments: Type) -> Signature:
        return Signature(self, arguments)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Signature:
    """The types of a function's result and arguments."""

    return_type: Type
    args: tuple[Type, ...]

    def __str__(self) -> str:
        return f"{self.return_type}({', '.join(map(str, self.args))})"


class Pointer(Type):
    """An operand of a kernel: what lies in memory, as what it is loaded and stored (`dtype`: half precision as float32), its number
    (which is its alias scope), and whether it may be written."""

    def __init__(self, element: Type, operand: int, writable: bool) -> None:
        self.element, self.operand, self.writable = element, operand, writable
        self.dtype = float32 if element in HALVES else element
        name = f"Pointer({element}, {operand}, {'out' if writable else 'in'})"
        super().__init__(name, element.memory.as_pointer())


class CPointer(Type):
    """A plain address of elements: the argument block of a kernel."""

    def __init__(self, dtype: Type) -> None:
        self.dtype = dtype
        super().__init__(f"CPointer({dtype})", dtype.memory.as_pointer())


class IntegerLiteral(Type):
    """An int64 that is known when the kernel is compiled."""

    def __init__(self, literal_value: int) -> None:
        self.literal_value = literal_value
        super().__init__(f"Literal[int]({literal_value})", ir.IntType(64), kind="i", bits=64)


class Lanes(Type):
    """Numbers of one type side by side: one for each of the elements that a text is translated for at once. `lanes` makes them."""

    def __init__(self, of: Type, count: int) -> None:
        self.of, self.count = of, count
        memory = ir.VectorType(of.memory, count)
        super().__init__(f"lanes({of}, {count})", ir.VectorType(of.value, count), memory, of.kind, of.bits)


class Along(Type):
    """An int64 that is one more in each of the next lanes, held as that of the first: an index along `count` elements."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__(f"along({count})", ir.IntType(64), kind="i", bits=64)


@functools.cache
def lanes(of: Type, count: int) -> Lanes:
    """The one type of so many lanes: types are told apart by identity."""
    return Lanes(of, count)


@functools.cache
def along(count: int) -> Along:
    """The one type of an index along so many lanes."""
    return Along(count)


@dataclass(frozen=True)
class Tile:
    """What takes a register tile of so many rows of two vectors of `lanes` each; `sums`: how many sums over its rows it makes."""

    lanes: Lanes
    rows: int
    sums: int


@dataclass(frozen=True)
class Panel:
    """What makes some rows of two vectors of `lanes` each."""

    lanes: Lanes


def _integer(name: str, kind: str, bits: int) -> Type:
    return Type(name, ir.IntType(bits), kind=kind, bits=bits)


none = Type("none", ir.VoidType())
boolean = Type("bool", ir.IntType(1), ir.IntType(8), "b", 1)
int8, int16, int32, int64 = [_integer(f"int{n}", "i", n) for n in (8, 16, 32, 64)]
uint8, uint16, uint32, uint64 = [_integer(f"uint{n}", "u", n) for n in (8, 16, 32, 64)]
float32 = Type("float32", ir.FloatType(), kind="f", bits=32)
float64 = Type("float64", ir.DoubleType(), kind="f", bits=64)

float16 = Type("float16", ir.FloatType(), ir.IntType(16))
bfloat16 = Type("bfloat16", ir.FloatType(), ir.IntType(16))
HALVES = (float16, bfloat16)  # what may lie in memory, and no type of a value

NUMBERS = {
    t.name: t for t in (boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64)
}
"""The number types by the names of their NumPy dtypes."""


def parse_signature(text: str) -> Signature | Tile | Panel:
    """The signature of a C function, as in ``"void(CPointer(int64), int64, int64)"``, or ``"Tile(lanes(float32, 16), 8, 0)"``, or
    ``"Panel(lanes(float32, 16))"``."""
    names: dict[str, Any] = {
        "__builtins__": {}, "void": none, "CPointer": CPointer, "Tile": Tile, "Panel": Panel, "lanes": lanes, **NUMBERS,
    }  # fmt: skip
    signature: Signature | Tile | Panel = eval(text, names)
    return signature
