"""KernelSpec: what one kernel does, before it is text for a target.

A tree of loops, loads, scalar computations and stores over named axes. It knows neither addresses nor sizes: those are words of the
argument block, so one compiled kernel serves every shape of its structure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from hybridml.dtypes import bfloat16


def suffix(dtype: np.dtype) -> str:
    """The name of a dtype in kernel text: f32, i64, u8, b1, bf16."""
    if dtype == bfloat16:
        return "bf16"
    return "b1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize * 8}"


class Mode(Enum):
    """How the iteration space is walked."""

    MAP = "map"  # element by element
    ROW = "row"  # a row at a time; its reductions are scalars
    COLUMN = "column"  # down the columns; its reductions are vectors along the innermost axis


@dataclass(frozen=True)
class Axis:
    """A loop variable and the name of its size."""

    name: str
    size: str


@dataclass(frozen=True)
class Operand:
    """A buffer: `x0`, `x1`... are read, `o0`, `o1`... are written (and may be read back)."""

    name: str
    dtype: np.dtype
    written: bool = False


@dataclass(frozen=True)
class Scalar:
    """A literal of the program, handed over in the argument block."""

    name: str
    dtype: np.dtype


@dataclass(frozen=True)
class Load:
    name: str
    operand: Operand
    index: str


@dataclass(frozen=True)
class Let:
    """`name = text`; the text is scalar arithmetic over earlier names."""

    name: str
    text: str
    dtype: np.dtype
    note: str = ""
    step: Accumulate | None = (
        None  # set where the text is a reduction's step on an accumulator that lives in memory
    )


@dataclass(frozen=True)
class Store:
    operand: Operand
    index: str
    value: str


@dataclass(frozen=True)
class Flag:
    """The one bool of `operand` becomes true if the condition text `when` holds anywhere; nothing ever makes it false."""

    operand: Operand
    when: str


@dataclass(frozen=True)
class Accumulate:
    """`name` is combined with `value`: combine is text over {0} and {1}; `lanes` names the reassociable form, if any."""

    name: str
    value: str
    combine: str
    lanes: str | None
    dtype: np.dtype


@dataclass(frozen=True)
class Accumulator:
    """A scalar that starts at `identity` (the name of a Scalar) before a reduction's loops."""

    name: str
    identity: str
    dtype: np.dtype


@dataclass(frozen=True)
class Stream:
    """After each piece of a loop, what lies in the buffer `near` goes to `operand`, from element `begin` on, past the caches."""

    operand: Operand
    begin: str
    near: Operand


@dataclass(frozen=True)
class Ahead:
    """Before each piece of a loop, ask for as many elements of an operand, from `begin` on: they will be read soon, or are not there."""

    operand: Operand
    begin: str


@dataclass
class Loop:
    """A loop over one axis. `reduces` lists the accumulators that live across it (outermost reduction loop only)."""

    axis: Axis
    body: list[Statement] = field(default_factory=list)
    reduces: tuple[Accumulator, ...] = ()
    split: bool = False  # this axis is the kernel's own extent: it runs from begin to end
    running: bool = (
        False  # a step needs what the one before has stored: they are taken in order, by one thread
    )
    streams: tuple[Stream, ...] = ()  # where there are any it runs in pieces
    ahead: tuple[Ahead, ...] = ()  # only where it does


Statement = Load | Let | Store | Flag | Accumulate | Loop


@dataclass
class KernelSpec:
    """One kernel.

    words     names of the int64 words after the operands' addresses: sizes and strides
    parallel  the axes that [begin, end) runs over, flattened in row-major order; empty where a Loop is `split`
    body      what happens for each of them
    crossed   the axes of rows across which something is added up, in memory, by loops of the body
    near      buffers of one piece of a loop, on the thread's stack
    title     the ops, in order, for people
    """

    mode: Mode
    operands: list[Operand]
    words: list[str]
    scalars: list[Scalar]
    parallel: list[Axis]
    body: list[Statement]
    title: str
    notes: list[str]
    crossed: tuple[Axis, ...] = ()
    near: tuple[Operand, ...] = ()
