"""ROW kernels whose rows wait in shared memory between the passes, where registers cannot hold them.

A thread takes `STAGED_BATCH` elements at a time: first all their loads, so that many are under way at once, then the results. What later
passes read again goes to shared memory; they find it there, and an output is stored when it has its last value. So each element is
read once and written once, like a row in registers:

        for g_0 in range(lane, groups, ix(LANES * 2)):
            j_0 = ix(g_0 * 4)
            g_1 = ix(g_0 + LANES)
            inside_1 = g_1 < groups
            j_1 = ix(g_1 * 4)
            x0_0, x0_1, x0_2, x0_3 = load_4(x0, i * x0_i + j_0, wide, True)
            x0_4, x0_5, x0_6, x0_7 = load_4(x0, i * x0_i + j_1, wide, inside_1)
            a0 = at_element_0(a0, x0_0)
            ...
            t0[ux(g_0)] = x0_0
            t0[ux(g_0 + groups)] = x0_1
            ...

Neighbouring threads use neighbouring words: the first elements of all groups lie together, then the second ones, and so on.
"""

from __future__ import annotations

from hybridml.kernels.emit_cuda import memory
from hybridml.kernels.emit_cuda.element import Element
from hybridml.kernels.emit_cuda.staging import Staging
from hybridml.kernels.emit_cuda.tree import Reduction, loops
from hybridml.kernels.emit_cuda.wide_rows import WideRowPrinter
from hybridml.kernels.launch import STAGED_BATCH
from hybridml.kernels.spec import Loop, Operand, suffix


class StagedRowPrinter(WideRowPrinter):
    """Rows in groups of neighbouring elements, kept in shared memory."""

    def before_rows(self) -> None:
        super().before_rows()
        out, size, width = self.out, self.axis.size, self.shape.vector
        self.staging = Staging(self.spec)
        out(f"groups = {size if width == 1 else f'ix({size} // {width})'}")
        for slot in self.staging.slots:
            out(f"{slot.name} = cuda.shared.array(0, {suffix(slot.dtype)})")
        self.batch = max(STAGED_BATCH // width, 1)
        self.begins: dict[str, str] = {}
        for slot in self.staging.slots:
            if slot.before:
                self.begins[slot.name] = f"{slot.name}_at"
                out(f"{slot.name}_at = ix({size} * {slot.before // slot.dtype.itemsize})")
        self.present = set()

    def elements_of(self, loop: Loop, found: list[Reduction]) -> None:
        number = [id(x) for x in loops(self.spec)].index(id(loop))
        self._batched(self.elements[number], number)

    def _batched(self, function: Element, number: int) -> None:
        """All elements of the thread, a batch at a time."""
        out, staging = self.out, self.staging
        kept = [s for s in function.loads if s.operand in self.present and s.operand.name in staging.of]
        fresh = [s for s in function.loads if s not in kept]
        self.present |= {s.operand for s in function.loads} | {s.operand for s in function.stores}
        out.open(f"for g_0 in range(lane, groups, ix(LANES * {self.batch})):")
        for u in range(self.batch):
            if u:
                out(f"g_{u} = ix(g_0 + LANES * {u})" if u > 1 else "g_1 = ix(g_0 + LANES)")
                out(f"inside_{u} = g_{u} < groups")
            first = f"g_{u}" if self.shape.vector == 1 else f"ix(g_{u} * {self.shape.vector})"
            out(f"{self._at(u)} = {first}")
        for s in fresh:
            for u in range(self.batch):
                self.groups.load(s, self._at(u), u, f"inside_{u}" if u else "True")
        changed = dict.fromkeys([*[s.operand for s in fresh], *[s.operand for s in function.stores]])
        last = [s for s in function.stores if not self._stored_after(s.operand, number)]
        for u in range(self.batch):
            if u:
                out.open(f"if inside_{u}:")
            for s in kept:
                self._take(s.operand, u)
            self.groups.compute(function, self._at(u), u)
            for operand in changed:
                if staging.is_read_after(operand, number):
                    self._put(operand, u)
            self._stores(last, self._at(u), u)
            if u:
                out.close()
        out.close()

    def _at(self, u: int) -> str:
        return f"{self.axis.name}_{u}"

    def _slots_of(self, operand: Operand, u: int) -> list[str]:
        """Where the elements of a group lie in shared memory. Unsigned, because Numba counts a negative index from the end."""
        slot = self.staging.of[operand.name]
        begin = f" + {self.begins[slot.name]}" if slot.name in self.begins else ""
        found = []
        for k in range(self.shape.vector):
            plane = "" if k == 0 else " + groups" if k == 1 else f" + groups * {k}"
            found.append(f"{slot.name}[ux(g_{u}{plane}{begin})]")
        return found

    def _take(self, operand: Operand, u: int) -> None:
        for name, place in zip(self.groups.names(operand, u), self._slots_of(operand, u), strict=True):
            self.out(f"{name} = {memory.load(place, operand.dtype)}")

    def _put(self, operand: Operand, u: int) -> None:
        for name, place in zip(self.groups.names(operand, u), self._slots_of(operand, u), strict=True):
            self.out(f"{place} = {memory.as_stored(name, operand.dtype)}")
