"""What shared memory holds of rows that are too long for registers: which operands, in which dtype, and where.

Element j of a row belongs to the same thread in every pass, so a thread reads back only what it has written itself, and no barrier is
needed. An operand has a place if a later pass reads again what an earlier one loaded or computed; one that is no longer read leaves
its place to the next of the same dtype: a softmax's exponentials lie where its row was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybridml.kernels.emit_cuda.accesses import bodies, held_words
from hybridml.kernels.emit_cuda.memory import in_memory
from hybridml.kernels.emit_cuda.tree import axes
from hybridml.kernels.spec import KernelSpec, Load, Operand, Store


@dataclass
class Slot:
    """A place for one value of every element of a row: `name` in the text, `before` bytes an element lie in front of it."""

    name: str
    dtype: np.dtype
    last: int  # pass in which its present owner is last read
    before: int = 0


class Staging:
    """The places of a kernel's operands.

    slots  all of them, widest dtype first, so that each begins at a multiple of its item size whatever the row's length
    of     the place of an operand, by its name
    """

    def __init__(self, spec: KernelSpec) -> None:
        self.slots: list[Slot] = []
        self.of: dict[str, Slot] = {}
        self._last: dict[str, int] = {}
        if held_words(spec):
            self._assign(spec)
        self.slots.sort(key=lambda s: -s.dtype.itemsize)
        for k, slot in enumerate(self.slots):
            slot.name, slot.before = f"t{k}", sum(s.dtype.itemsize for s in self.slots[:k])

    @property
    def bytes(self) -> int:
        """Bytes of shared memory for each element of a row; 0 if no pass reads anything again."""
        return sum(s.dtype.itemsize for s in self.slots)

    def is_read_after(self, operand: Operand, number: int) -> bool:
        """True if a pass after this one reads the operand from its place."""
        return self._last.get(operand.name, -1) > number

    def _assign(self, spec: KernelSpec) -> None:
        kept, reduced = axes(spec)
        everywhere = (
            reduced[-1].name if kept else None
        )  # the index of what all rows share: a cache keeps that
        first: dict[Operand, int] = {}
        last: dict[Operand, int] = {}
        for k, body in enumerate(bodies(spec)):
            for s in body:
                if isinstance(s, (Load, Store)) and s.index != everywhere:
                    first.setdefault(s.operand, k)
                    if isinstance(s, Load) and k > first[s.operand]:
                        last[s.operand] = k
        for operand in sorted(last, key=lambda o: (first[o], o.name)):
            dtype = in_memory(operand.dtype)
            slot = next((s for s in self.slots if s.dtype == dtype and s.last <= first[operand]), None)
            if slot is None:
                slot = Slot("", dtype, 0)
                self.slots.append(slot)
            slot.last = self._last[operand.name] = last[operand]
            self.of[operand.name] = slot


def staged_bytes(spec: KernelSpec) -> int:
    """Bytes of shared memory that an element of a row needs for it to be read once and written once; 0 where there is nothing to keep."""
    return Staging(spec).bytes
