"""The buffers that only the steps of one sweep read and write, and the argument block of a sweep.

A thread has room for a part's share of them on its stack. So the words of argument blocks that name them change from part to part and
from thread to thread: `sweep_loop` makes copies of those blocks, and what is written down here says which and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from hybridml.kernels.address import External, Fixed, Pointer
from hybridml.kernels.driver import Table
from hybridml.kernels.sweep import SweepStep
from hybridml.kernels.sweep_layout import COPY_BYTES
from hybridml.trace.graph import Value


@dataclass
class OwnMemory:
    """Written down while the blocks of the steps are made: their lengths, the words that name own buffers, and blocks inside blocks."""

    step: SweepStep
    lengths: dict[int, int] = field(default_factory=dict)
    places: list[tuple[int, int, int, int]] = field(
        default_factory=list
    )  # block, word, offset, bytes of a unit
    nested: list[tuple[int, int, int]] = field(default_factory=list)  # block, word, the block inside

    def address(self, v: Value) -> Own | None:
        """Where a buffer of the sweep's own lies; None for others."""
        offset = self.step.own_offsets.get(v)
        return None if offset is None else Own(self, offset, v.spec.nbytes // self.step.units)

    def words(self, kernels: Sequence[int], blocks: Sequence[int]) -> list[int]:
        """The argument block of the sweep: the numbers of what follows, then all steps, copied blocks, words to fill in for each part,
        words that name a copied block."""
        copied = dict.fromkeys(block for block, *_ in self.places)
        copied |= dict.fromkeys(outer for outer, _, inner in self.nested if inner in copied)
        at: dict[int, int] = {}
        free = 0
        for block in copied:
            at[block] = free
            free += 8 * self.lengths[block]
        if free > COPY_BYTES:
            raise AssertionError(
                f"the argument blocks of a sweep take {free} bytes: there is room for {COPY_BYTES}"
            )
        steps = zip(kernels, blocks, self.step.scales, strict=True)
        nested = [(at[outer] + 8 * word, at[inner]) for outer, word, inner in self.nested if inner in at]
        found = [len(kernels), self.step.part, len(at), len(self.places), len(nested)]
        for kernel, block, scale in steps:
            found += [kernel, at.get(block, block), int(block in at), scale]
        for block, offset in at.items():
            found += [offset, block, 8 * self.lengths[block]]
        for block, word, offset, unit in self.places:
            found += [at[block] + 8 * word, offset, unit]
        for pair in nested:
            found += pair
        return found


@dataclass(frozen=True)
class Own:
    """The address of a buffer of a sweep's own, as far as it is known before the sweep runs."""

    memory: OwnMemory
    offset: int
    unit: int
    address: int = 0

    def at(self, offset: int) -> Own:
        return replace(self, offset=self.offset + offset)

    def bind(self, table: Table, block: int, word: int) -> None:
        self.memory.places.append((block, word, self.offset, self.unit))


@dataclass(frozen=True)
class Inside:
    """An argument block that another one names."""

    memory: OwnMemory
    address: int

    def bind(self, table: Table, block: int, word: int) -> None:
        self.memory.nested.append((block, word, self.address))


Named: TypeAlias = Fixed | External | Pointer | Own | Inside  # what a word of an argument block may name


def inside(memory: OwnMemory | None, block: int) -> Fixed | Inside:
    """An argument block's address, as a word of another one."""
    return Fixed(block) if memory is None else Inside(memory, block)
