"""The accumulators of the threads that share a row or column, combined: every thread ends with the same bits."""

from __future__ import annotations

from hybridml.kernels.emit_cuda import memory
from hybridml.kernels.emit_cuda.printer import Printer
from hybridml.kernels.emit_cuda.tree import Reduction, reductions
from hybridml.kernels.launch import WARP
from hybridml.kernels.text import typed


class Combining(Printer):
    """Shuffles within a warp, then a table in shared memory; always in the same order."""

    barriers = 0
    loaded = False  # since the last barrier: an output may take over the memory of an input

    def numbers(self) -> dict[str, int]:
        """The number of each accumulator, by its name."""
        return {r.name: k for k, r in enumerate(reductions(self.spec))}

    def shared(self) -> None:
        """Declare the tables."""
        if self.lanes == 1 or (self.along_x and self.lanes <= WARP):
            return
        size = str(self.lanes // WARP) if self.along_x else f"({self.lanes}, {self.tile})"
        for k, r in enumerate(reductions(self.spec)):
            self.out(f"s{k} = cuda.shared.array({size}, {memory.exchanged(r.step.dtype)})")

    def step(self, r: Reduction, value: str) -> None:
        """One more value."""
        self.out(f"{r.name} = {typed(r.step.combine.format(r.name, value), r.step)}")

    def combine(self, found: list[Reduction]) -> None:
        """Every thread of the row gets the combination of all its threads' accumulators."""
        out, numbers = self.out, self.numbers()
        if self.along_x:
            distance = min(self.lanes, WARP) // 2
            while distance:
                for r in found:
                    other = f"shuffle_xor({memory.forth(r.name, r.step.dtype)}, {distance})"
                    self.step(r, memory.back(other, r.step.dtype))
                distance //= 2
            if self.lanes <= WARP:
                return
            out.open(f"if lane & {WARP - 1} == 0:")
            for r in found:
                out(f"s{numbers[r.name]}[lane >> 5] = {memory.forth(r.name, r.step.dtype)}")
            out.close()
        else:
            for r in found:
                out(f"s{numbers[r.name]}[lane, cuda.threadIdx.x] = {memory.forth(r.name, r.step.dtype)}")
        self.barrier()
        place = "{}" if self.along_x else "{}, cuda.threadIdx.x"
        for r in found:
            out(f"{r.name} = {memory.back(f's{numbers[r.name]}[{place.format(0)}]', r.step.dtype)}")
        out.open(f"for w in range(1, {self.lanes // WARP if self.along_x else self.lanes}):")
        for r in found:
            self.step(r, memory.back(f"s{numbers[r.name]}[{place.format('w')}]", r.step.dtype))
        out.close()

    def barrier(self) -> None:
        """All threads of the block meet."""
        self.out("cuda.syncthreads()")
        self.barriers += 1
        self.loaded = False
