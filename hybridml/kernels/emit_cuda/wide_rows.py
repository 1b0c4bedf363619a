"""ROW kernels whose threads take several neighbouring elements at once, and keep a row of moderate length in registers.

A thread of a held row has `Shape.held` groups of `Shape.vector` elements, all of them full but perhaps the last one. It loads them where a
pass first needs them; later passes find them, and what earlier passes computed, in registers, and an output is stored once: when
it has its last value. So each element is read once and written once:

        j_0 = ix(lane * 4)
        j_1 = ix(lane * 4 + 128)
        inside = j_1 < n_j
        a0 = c0
        x0_0, x0_1, x0_2, x0_3 = load_4(x0, i * x0_i + j_0, wide, True)
        x0_4, x0_5, x0_6, x0_7 = load_4(x0, i * x0_i + j_1, wide, inside)
        a0 = at_element_0(x0_0, a0)
        ...
        if inside:
            a0 = at_element_0(x0_4, a0)
            ...

Longer rows are walked in a loop, group by group, once a pass. `wide` is false where an address forbids accesses of a whole group:
the same threads then load the same elements one by one.
"""

from __future__ import annotations

from collections.abc import Iterator

from hybridml.kernels.emit_cuda import accesses
from hybridml.kernels.emit_cuda.element import Element, element
from hybridml.kernels.emit_cuda.grouped import Groups
from hybridml.kernels.emit_cuda.rows import RowPrinter
from hybridml.kernels.emit_cuda.tree import Reduction, innermost, loops
from hybridml.kernels.spec import Loop, Operand, Store


class WideRowPrinter(RowPrinter):
    """Rows in groups of neighbouring elements."""

    def before_rows(self) -> None:
        width, self.held = self.shape.vector, self.shape.held if self.phase == "whole" else 0
        self.axis = self.reduced[-1]
        self.groups = Groups(self.out, self.axis.name, width, "wide" if width > 1 else "True")
        self.elements = [
            element(f"at_element_{k}", innermost(loop)) for k, loop in enumerate(loops(self.spec))
        ]
        self.present: set[Operand] = set()  # what registers hold of the row
        if width > 1 and self.phase != "finish":
            tests = [f"aligned_{width}({o})" for o in accesses.unit_operands(self.spec)]
            self.out(f"wide = {' and '.join(tests)}")

    def elements_of(self, loop: Loop, found: list[Reduction]) -> None:
        number = [id(x) for x in loops(self.spec)].index(id(loop))
        function = self.elements[number]
        if self.held:
            self._held(function, number)
        else:
            self._strided(function)

    def _strided(self, function: Element) -> None:
        """Group after group, in a loop."""
        several, width = len(self.reduced) > 1, self.shape.vector
        self.range("q" if several else self.axis.name, self.product(self.reduced), width)
        if several:
            self.unflatten("q", self.reduced)
        for s in function.loads:
            self.groups.load(s, self.axis.name, 0)
        self.groups.compute(function, self.axis.name, 0)
        self._stores(list(function.stores), self.axis.name, 0)
        self.out.close()

    def _held(self, function: Element, number: int) -> None:
        """All groups of the thread, one after the other."""
        if number == 0:
            self._places()
        for s in function.loads:
            if s.operand not in self.present:
                for g, at in self._groups():
                    self.groups.load(s, at, g, self._inside(g))
        self.present |= {s.operand for s in function.loads} | {s.operand for s in function.stores}
        last = [s for s in function.stores if not self._stored_after(s.operand, number)]
        for g, at in self._groups():
            guarded = self._inside(g) != "True"
            if guarded:
                self.out.open("if inside:")
            self.groups.compute(function, at, g)
            self._stores(last, at, g)
            if guarded:
                self.out.close()

    def _places(self) -> None:
        """Where the thread's groups begin, and whether the last one lies within the row."""
        step = self.lanes * self.shape.vector
        first = "lane" if self.shape.vector == 1 else f"lane * {self.shape.vector}"
        for g, at in self._groups():
            self.out(f"{at} = {f'ix({first} + {g * step})' if g else f'ix({first})'}")
        self.out(f"inside = {self.axis.name}_{self.held - 1} < {self.axis.size}")

    def _groups(self) -> Iterator[tuple[int, str]]:
        return ((g, f"{self.axis.name}_{g}") for g in range(self.held))

    def _inside(self, group: int) -> str:
        return "inside" if group == self.held - 1 else "True"

    def _stored_after(self, operand: Operand, number: int) -> bool:
        return any(s.operand == operand for e in self.elements[number + 1 :] for s in e.stores)

    def _stores(self, stores: list[Store], at: str, group: int) -> None:
        if stores and self.guarded:
            self.out.open("if own:")
        for s in stores:
            self.groups.store(s, at, group)
        if stores and self.guarded:
            self.out.close()
