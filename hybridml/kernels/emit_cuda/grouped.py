"""Neighbouring elements of one thread, in variables named after their operands: x0_0, x0_1, ... of x0.

Group g holds the elements g * width to (g + 1) * width - 1 of the thread; one access moves a group.
"""

from __future__ import annotations

import re

from hybridml.kernels.emit_cuda import memory
from hybridml.kernels.emit_cuda.accesses import kind
from hybridml.kernels.emit_cuda.element import Element
from hybridml.kernels.spec import Load, Operand, Store
from hybridml.kernels.text import Lines


class Groups:
    """Prints loads, results and stores of a thread's groups along `axis`.

    Args:
        wide: the text of what is true where the addresses allow accesses of a whole group.
    """

    def __init__(self, out: Lines, axis: str, width: int, wide: str = "True") -> None:
        self.out, self.axis, self.width, self.wide = out, axis, width, wide

    def names(self, operand: Operand, group: int) -> list[str]:
        """The variables of an operand's elements in a group."""
        return [f"{operand.name}_{group * self.width + k}" for k in range(self.width)]

    def load(self, s: Load, at: str, group: int, inside: str = "True") -> None:
        """The group's elements of an operand; zeros, and no access, where `inside` is false."""
        found, operand = self.names(s.operand, group), s.operand.name
        form = memory.form(s.operand.dtype)
        if kind(s.index, self.axis) == "unit" and self.width > 1:
            index = self._index(s.index, at)
            self.out(
                f"{', '.join(found)} = load{form}_{self.width}({operand}, {index}, {self.wide}, {inside})"
            )
            return
        for k, name in enumerate(found):
            index = self._index(s.index, self._place(at, k))
            if inside == "True":
                self.out(f"{name} = {memory.load(f'{operand}[{index}]', s.operand.dtype)}")
            else:
                self.out(f"({name},) = load{form}_1({operand}, {index}, True, {inside})")

    def compute(self, function: Element, at: str, group: int) -> None:
        """The function of one element, for each of the group."""
        for k in range(self.width):
            given = {s.name: self.names(s.operand, group)[k] for s in function.loads}
            given[self.axis] = self._place(at, k)
            targets = [self.names(s.operand, group)[k] for s in function.stores]
            for line in function.call([*targets, *function.accumulators], given):
                self.out(line)

    def store(self, s: Store, at: str, group: int) -> None:
        """Write the group's results."""
        found, operand = self.names(s.operand, group), s.operand
        index = self._index(s.index, at)
        if self.width == 1:
            self.out(memory.store(operand, index, found[0]))
        else:
            form = memory.form(operand.dtype)
            values = f"({', '.join(found)})"
            self.out(f"store{form}_{self.width}({operand.name}, {index}, {values}, {self.wide})")

    def _place(self, at: str, k: int) -> str:
        return f"ix({at} + {k})" if k else at

    def _index(self, index: str, at: str) -> str:
        return re.sub(rf"\b{self.axis}\b", at, index)
