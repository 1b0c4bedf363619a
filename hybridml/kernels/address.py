"""Where a buffer lies when a program runs: at a fixed address, in an array of the call, or where a word points at that moment.

Each kind knows how to get into an argument block, once (fixed), at the start of a call (external), or by an instruction just before
the kernel that reads the block (pointer: rows of a scanned array, which move from one iteration to the next).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hybridml.kernels import jit
from hybridml.kernels.driver import Table


@dataclass(frozen=True)
class Fixed:
    """An address in the arena or of a constant."""

    address: int

    def at(self, offset: int) -> Fixed:
        return Fixed(self.address + offset)

    def bind(self, table: Table, block: int, word: int) -> None:
        """Nothing to do: the word was written with the block."""

    def move_to(self, table: Table, word: int) -> None:
        """Add an instruction that stores the address in the word at this address."""
        table.set(word, self.address)

    def now(self, externals: Sequence[np.ndarray]) -> int:
        """The address after a run on these arrays."""
        return self.address


@dataclass(frozen=True)
class External:
    """An array of the call, by its number."""

    index: int
    offset: int = 0
    address: int = 0  # not known before the call

    def at(self, offset: int) -> External:
        return External(self.index, self.offset + offset)

    def bind(self, table: Table, block: int, word: int) -> None:
        table.patch(self.index, block, word, self.offset)

    def move_to(self, table: Table, word: int) -> None:
        given = table.block([0])
        table.patch(self.index, given, 0, self.offset)
        table.move(word, given, 0)

    def now(self, externals: Sequence[np.ndarray]) -> int:
        return int(externals[self.index].ctypes.data) + self.offset


@dataclass(frozen=True)
class Pointer:
    """Where the word at an address points to when the kernel is called."""

    word: int
    offset: int = 0
    address: int = 0

    def at(self, offset: int) -> Pointer:
        return Pointer(self.word, self.offset + offset)

    def bind(self, table: Table, block: int, word: int) -> None:
        table.move(block + 8 * word, self.word, self.offset)

    def move_to(self, table: Table, word: int) -> None:
        table.move(word, self.word, self.offset)

    def now(self, externals: Sequence[np.ndarray]) -> int:
        return ctypes.c_int64.from_address(self.word).value + self.offset


Address = Fixed | External | Pointer


def add_copy(table: Table, source: Address, destination: Address, nbytes: int) -> None:
    """An instruction that copies bytes; none where there is nothing to copy."""
    if not nbytes or source == destination:
        return
    if isinstance(source, Fixed) and isinstance(destination, Fixed):
        table.copy(destination.address, source.address, nbytes)
        return
    name, text = copy_kernel()
    block = table.block([source.address, destination.address])
    source.bind(table, block, 0)
    destination.bind(table, block, 1)
    table.run(jit.load(text, name).address, block, nbytes)


def copy_kernel() -> tuple[str, str]:
    """Bytes from operand 0 to operand 1."""
    return "copy_bytes", (
        "from hybridml.kernels.pointer import uint8_in, uint8_out\n\n\n"
        "def copy_bytes(args, begin, end):\n"
        "    x0 = uint8_in(args, 0, 0)\n"
        "    o0 = uint8_out(args, 1, 1)\n"
        "    for i in range(begin, end):\n"
        "        o0[i] = x0[i]\n"
    )
