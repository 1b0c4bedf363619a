"""MAP kernels: a thread an element, or several neighbouring ones with one access, in a loop that strides over the grid.

    done = ix(0)
    if aligned_4(x0) and aligned_4(o0):
        done = ix(rows // 4 * 4)
    at = ix(row * 4)
    while at < done:
        i = at
        x0_0, x0_1, x0_2, x0_3 = load_4(x0, i, True, True)
        o0_0 = at_element(x0_0, c0)
        ...
        store_4(o0, i, (o0_0, o0_1, o0_2, o0_3), True)
        at = ix(at + step * 4)
    row = ix(done + row)
    while row < rows:           # what is left over, or all of it

Addresses are looked at in the kernel: they are the same for all threads, so the branch costs nothing, and a recorded graph whose
arrays have moved needs no other kernel.
"""

from __future__ import annotations

from hybridml.kernels.emit_cuda import accesses
from hybridml.kernels.emit_cuda.element import element
from hybridml.kernels.emit_cuda.grouped import Groups
from hybridml.kernels.emit_cuda.printer import Printer
from hybridml.kernels.spec import Axis, Loop, Statement


class MapPrinter(Printer):
    """The flattened space, shared out among the threads."""

    def body(self) -> None:
        out, width = self.out, self.shape.vector
        self.start()
        out(f"rows = {self.product(self.kept)}")
        if width > 1:
            self._several(width)
            out("row = ix(done + row)")
        out.open("while row < rows:")
        self.unflatten("row", self.kept)
        if width > 1:
            self._group(1)
        else:
            self._flat(self.spec.body)
        out("row = ix(row + step)")
        out.close()

    def start(self) -> None:
        """Where the thread begins, and how far it is to its next element."""
        self.out("row = ix(cuda.grid(1))")
        self.out("step = ix(cuda.gridsize(1))")

    def _several(self, width: int) -> None:
        out = self.out
        varying, self.shared = accesses.levels(self.spec)
        self.elements = [element("at_element", varying)]
        self.groups = Groups(self.out, self.innermost.name, width)
        tests = [f"aligned_{width}({o})" for o in accesses.unit_operands(self.spec)]
        out("done = ix(0)")
        out.open(f"if {' and '.join(tests)}:")
        out("done = rows" if len(self.kept) > 1 else f"done = ix(rows // {width} * {width})")
        out.close()
        out(f"at = ix(row * {width})")
        out.open("while at < done:")
        self.unflatten("at", self.kept)
        self._group(width)
        out(f"at = ix(at + step * {width})")
        out.close()

    @property
    def innermost(self) -> Axis:
        return self.kept[-1]

    def _group(self, width: int) -> None:
        """As many neighbouring elements, in a row of the innermost axis."""
        for s in self.shared:
            self.plain(s)
        groups = Groups(self.out, self.innermost.name, width)
        (function,) = self.elements
        for s in function.loads:
            groups.load(s, self.innermost.name, 0)
        groups.compute(function, self.innermost.name, 0)
        for t in function.stores:
            groups.store(t, self.innermost.name, 0)

    def _flat(self, body: list[Statement]) -> None:
        """The body without the loops whose axes are spread over threads; those that run in order stay within one thread."""
        for s in body:
            if not isinstance(s, Loop):
                self.plain(s)
            elif s.running:
                self.out.open(f"for {s.axis.name} in range({s.axis.size}):")
                self._flat(s.body)
                self.out.close()
            else:
                self._flat(s.body)
