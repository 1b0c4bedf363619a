"""ROW and COLUMN kernels: the threads of a block share rows (or columns), pass after pass.

Element j of a row belongs to the same thread in every pass, so what one pass stores the next one reads back without a barrier.
Threads beyond the last row repeat that row and store nothing, so all threads of a block meet at every barrier.
"""

from __future__ import annotations

from collections.abc import Collection

from hybridml.kernels.emit_cuda import memory
from hybridml.kernels.emit_cuda.combine import Combining
from hybridml.kernels.emit_cuda.printer import Phase
from hybridml.kernels.emit_cuda.tree import Reduction, innermost, is_kept, reductions_of, register
from hybridml.kernels.launch import Shape
from hybridml.kernels.spec import Accumulate, KernelSpec, Let, Load, Loop, Mode, Statement, Store


class RowPrinter(Combining):
    """Each thread strides along its row, one element after the other."""

    def __init__(self, spec: KernelSpec, shape: Shape, phase: Phase, scratch: Collection[str]) -> None:
        super().__init__(spec, shape, phase, scratch)
        self.guarded = self.tile > 1  # the last block may have fewer rows than it has threads for
        self.stores: list[Store] = []  # one a row, by one thread, at the end

    def body(self) -> None:
        out = self.out
        self.shared()
        row, lane = ("y", "x") if self.along_x else ("x", "y")
        if self.lanes > 1:
            out(f"lane = ix(cuda.threadIdx.{lane})")
        if self.phase == "partial":
            out("part = ix(cuda.blockIdx.y)")
        out(f"rows = {self.product(self.kept)}")
        self.before_rows()
        if self.guarded:
            out(f"tile = ix(cuda.blockIdx.x * {self.tile})")
            out.open("while tile < rows:")
            out(f"row = ix(tile + cuda.threadIdx.{row})")
            out("own = row < rows")
            out("row = row if own else ix(rows - 1)")
        else:
            out("row = ix(cuda.blockIdx.x)")
            out.open("while row < rows:")
        self.unflatten("row", self.kept)
        for s in self.spec.body:
            if not isinstance(s, Loop):
                self._once(s)
            elif is_kept(self.spec, s):
                for t in s.body:
                    self._once(t)
            else:
                self._pass(s)
                if self.phase == "partial":
                    break
        self._finish()
        if self.barriers == 1:
            out("cuda.syncthreads()")  # everybody has read what the next row overwrites
        if self.guarded:
            out(f"tile = ix(tile + cuda.gridDim.x * {self.tile})")
        else:
            out("row = ix(row + cuda.gridDim.x)")
        out.close()

    def before_rows(self) -> None:
        """What is the same for all rows."""

    def elements_of(self, loop: Loop, found: list[Reduction]) -> None:
        """One walk over the row's elements, each by one of the threads that share it."""
        several = len(self.reduced) > 1
        self.range("q" if several else self.reduced[0].name, self.product(self.reduced))
        if several:
            self.unflatten("q", self.reduced)
        self._one(innermost(loop), {r.step.name: r for r in found})
        self.out.close()

    def _once(self, s: Statement) -> None:
        """A statement that runs once a row: in every thread, except that one of them stores, at the end."""
        match s:
            case Store(operand, _, value) if self.spec.mode is Mode.COLUMN:
                if all(t.operand != operand for t in self.stores):
                    self.stores.append(Store(operand, s.index, register(operand.name)))
                self.out(f"{register(operand.name)} = {value}")
            case Store():
                self.stores.append(s)
            case Load(name, operand, _) if self._in_register(operand.name):
                self.out(f"{name} = {register(operand.name)}")
            case _:
                self.loaded |= isinstance(s, Load)
                self.plain(s)

    def _in_register(self, operand: str) -> bool:
        return self.spec.mode is Mode.COLUMN and any(s.operand.name == operand for s in self.stores)

    def _pass(self, loop: Loop) -> None:
        out, numbers = self.out, self.numbers()
        found = reductions_of(innermost(loop))
        for a in loop.reduces:
            out(f"{a.name} = {a.identity}")
        if self.phase == "finish":
            self.range("q", "parts")
            for r in found:
                part = memory.load(f"w{numbers[r.name]}[q * rows + row]", r.step.dtype)
                self.step(r, part)
            out.close()
        else:
            self.elements_of(loop, found)
        if self.lanes > 1 and found:
            self.combine(found)
        if self.phase == "partial":
            places = [f"w{numbers[r.name]}[part * rows + row]" for r in found]
            lines = [
                f"{p} = {memory.as_stored(r.name, r.step.dtype)}" for p, r in zip(places, found, strict=True)
            ]
            self._guard(lines)

    def range(self, name: str, size: str, width: int = 1) -> None:
        """Open the loop of one thread over its elements of a row, or over every `width`-th of them."""
        times = f" * {width}" * (width > 1)
        if self.phase == "partial":
            lane = " + lane" if self.lanes > 1 else ""
            first = f"part * LANES{lane}" if width == 1 else f"(part * LANES{lane}){times}"
            self.out.open(f"for {name} in range(ix({first}), {size}, ix(parts * LANES{times})):")
        elif self.lanes > 1:
            first, step = ("lane", "LANES") if width == 1 else (f"ix(lane{times})", f"ix(LANES{times})")
            self.out.open(f"for {name} in range({first}, {size}, {step}):")
        else:
            self.out.open(f"for {name} in range({size}):")

    def _one(self, body: list[Statement], found: dict[str, Reduction]) -> None:
        stores = []
        for s in body:
            match s:
                case Accumulate(name, value):
                    self.step(found[name], value)
                case Let(step=Accumulate(name, value)):
                    self.step(found[name], value)
                case Load(name, operand) if self._in_register(operand.name):
                    if name not in found:
                        self.out(f"{name} = {register(operand.name)}")
                case Store(operand, index, value):
                    if not self._in_register(operand.name):
                        stores.append(memory.store(operand, index, value))
                case _:
                    self.loaded |= isinstance(s, Load) and not self.along_x
                    self.plain(s)
        if stores and self.guarded:
            self.out.open("if own:")
        for line in stores:
            self.out(line)
        if stores and self.guarded:
            self.out.close()

    def _finish(self) -> None:
        """The stores that happen once a row."""
        stores = [s for s in self.stores if s.operand.name not in self.scratch]
        if not stores or self.phase == "partial":
            return
        if self.loaded and self.lanes > 1:
            self.barrier()  # the store may overwrite what slower threads of the row have still to load
        self._guard([memory.store(s.operand, s.index, s.value) for s in stores])

    def _guard(self, lines: list[str]) -> None:
        """These lines run in one thread a row."""
        tests = ["own"] * self.guarded + ["lane == 0"] * (self.lanes > 1)
        if tests:
            self.out.open(f"if {' and '.join(tests)}:")
        for line in lines:
            self.out(line)
        if tests:
            self.out.close()
