"""What a program on a GPU consists of: commands for the device, and what the host decides or does between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hybridml.kernels.cuda.commands import Command, Place
from hybridml.kernels.region import Region
from hybridml.kernels.steps import PythonStep
from hybridml.trace.graph import Node, Value


@dataclass
class Array:
    """An array of the call: an input, a variable, an output, or a row or several rows that move from one iteration to the next. Rows
    of a variable are `variable`, too."""

    nbytes: int
    role: Literal["input", "variable", "output", "row", "rows"]
    variable: bool = False


@dataclass(frozen=True)
class Where:
    """The base of a region's arena, the places of what is given to it by number, all arrays of the call, and the byte that checks set."""

    base: int
    given: Sequence[Place]
    arrays: list[Array]
    stop: Place


@dataclass
class Branch:
    """A cond: the host reads the predicate and runs one of two lists."""

    predicate: Place
    true: list[Item]
    false: list[Item]


@dataclass
class While:
    """A while-loop: the host reads the predicate after each run of `cond`."""

    cond: list[Item]
    predicate: Place
    body: list[Item]


@dataclass
class Repeat:
    """A long scan: the body, or several of it, with arrays that point at their rows. `rows` are (number of the array, where it lies the
    first time, bytes to the next)."""

    length: int
    rows: list[tuple[int, Place, int]]
    body: list[Item]


@dataclass
class Eager:
    """A node that has no kernel: its row's eager form on device arrays."""

    step: PythonStep
    operands: dict[Value, Place]
    results: dict[Value, Place]
    region: Region

    @property
    def node(self) -> Node:
        return self.step.node


Item: TypeAlias = "Command | Branch | While | Repeat | Eager"
