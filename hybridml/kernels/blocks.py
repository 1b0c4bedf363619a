"""The argument blocks of a program's kernels: the words that each of them reads, with the addresses of its operands among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybridml.kernels.address import Address
from hybridml.kernels.driver import Table, scalar_word
from hybridml.kernels.epilogue import Epilogue
from hybridml.kernels.gemm import Words
from hybridml.kernels.lower import Lowered
from hybridml.kernels.products import GemmStep
from hybridml.kernels.prologue import Prologue
from hybridml.kernels.steps import KernelStep, RoutineStep
from hybridml.kernels.sweep_memory import Named, OwnMemory, inside
from hybridml.trace.graph import Value


@dataclass
class Blocks:
    """Makes blocks in a table. `address` says where a buffer lies that is not the `own` of the sweep whose steps they are for."""

    table: Table
    address: Callable[[Value], Address]
    own: OwnMemory | None = None

    def of(self, s: KernelStep | GemmStep | RoutineStep) -> int:
        """The block of a step's kernel."""
        if isinstance(s, KernelStep):
            return self._lowered(s.lowered)
        return self._product(s) if isinstance(s, GemmStep) else self._routine(s)

    def _lowered(self, low: Lowered, given: int = 0) -> int:
        """What was lowered, but for the first operands, which are `given` otherwise."""
        operands = low.operands[given:]
        scalars = [scalar_word(x, dtype) for x, dtype in low.scalars]
        named = [(self._named(v, offset), word) for word, (v, offset) in enumerate(operands)]
        return self._block([0] * len(operands) + low.words + scalars, named)

    def _product(self, s: GemmStep) -> int:
        p, e = s.plan, s.epilogue
        words = p.words()
        named = [(self._named(v, offset), word) for v, offset, word in s.operands]
        if e is None:
            named.append((self._named(*s.c), p.c_word))
        else:
            named += self._epilogue(e, p.c_word, words, Words.EPILOGUE)
        for q in s.prologues:
            named.append(self._rider(q, words, (Words.PROLOGUE_A, Words.PROLOGUE_B)[q.operand]))
            words[Words.PANELS_B] |= int(q.in_panels)
        return self._block(words, named)

    def _routine(self, s: RoutineStep) -> int:
        words = list(s.words)
        for word, content in s.blocks:
            words[word] = self.table.block(content)
        named = [(self._named(v, offset), word) for v, offset, word in s.operands]
        if s.epilogue is not None:
            named += self._epilogue(s.epilogue, None, words, s.carries)
        return self._block(words, named)

    def _epilogue(
        self, e: Epilogue, c_word: int | None, words: list[int], at: int
    ) -> list[tuple[Named, int]]:
        """Puts an epilogue into the words from `at` on: its kernel, its block, whether the product is nowhere but in the block at hand;
        if it takes tiles, its function in place of the kernel, and whether others want the product. What else the product names."""
        words[at + 2] = int(e.place is None)
        place = e.prefetched if e.in_tile and e.place is None else e.place
        rider = self._rider(e, words, at)
        if e.in_tile:
            words[at], words[at + 3], words[at + 4] = 0, words[at], int(e.product in e.writes)
        return [rider] if place is None or c_word is None else [(self._named(place, 0), c_word), rider]

    def _rider(self, rider: Epilogue | Prologue, words: list[int], at: int) -> tuple[Named, int]:
        """Puts a rider's kernel into a product's words; its own block goes into the word behind that."""
        words[at] = rider.kernel.address
        return inside(self.own, self._lowered(rider.lowered, given=1)), at + 1

    def _named(self, v: Value, offset: int) -> Named:
        own = None if self.own is None else self.own.address(v)
        return self.address(v).at(offset) if own is None else own.at(offset)

    def _block(self, words: list[int], named: Sequence[tuple[Named, int]]) -> int:
        """A new block; what is `named` belongs in the words beside it."""
        for a, word in named:
            words[word] = a.address
        block = self.table.block(words)
        if self.own is not None:
            self.own.lengths[block] = len(words)
        for a, word in named:
            a.bind(self.table, block, word)
        return block
