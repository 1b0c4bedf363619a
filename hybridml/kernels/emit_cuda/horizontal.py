"""One MAP kernel over several sets of operands in one launch: the update of many parameters.

Every set has its own arguments, `x0_of_0`, `x0_of_1`... of x0, and blocks of its own, from the end of the set before to `end_0`, ...:

    block = ix(cuda.blockIdx.x)
    if block < end_0:
        first, blocks = ix(0), end_0
        o0 = o0_of_0
        x0 = x0_of_0
        n_i = n_i_of_0
    else:
        first, blocks = end_0, ix(end_1 - end_0)
        ...
    row = ix((block - first) * cuda.blockDim.x + cuda.threadIdx.x)
    step = ix(blocks * cuda.blockDim.x)
    ...                                     # what the kernel does alone

A set may have no blocks. Which set it is the whole block agrees on, and what a set computes has the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from hybridml.kernels.emit_cuda.maps import MapPrinter
from hybridml.kernels.emit_cuda.printer import Parameter, Phase, parameters
from hybridml.kernels.launch import Shape
from hybridml.kernels.spec import KernelSpec

PARAMETER_BYTES = 4096  # of a kernel's arguments, on every device; each takes at most 8
MOST_COPIES = 16  # sets of one launch: the compiler's time grows faster than their number


def most_copies(spec: KernelSpec, shape: Shape) -> int:
    """How many sets of operands one launch may have."""
    return min(MOST_COPIES, PARAMETER_BYTES // 8 // (len(parameters(spec, shape)) + 1))


def horizontal_parameters(spec: KernelSpec, shape: Shape, copies: int) -> list[Parameter]:
    """The arguments of a kernel over that many sets, in order: those of each set, then where the blocks of each end."""
    found = parameters(spec, shape)
    index = np.dtype(f"i{shape.index // 8}")
    several = [Parameter(f"{p.name}_of_{k}", p.dtype, p.pointer) for k in range(copies) for p in found]
    return several + [Parameter(f"end_{k}", index) for k in range(copies)]


class HorizontalPrinter(MapPrinter):
    """The blocks shared out among the sets, and within each as ever."""

    def __init__(
        self, spec: KernelSpec, shape: Shape, phase: Phase, scratch: Collection[str], copies: int
    ) -> None:
        super().__init__(spec, shape, phase, scratch)
        self.copies = copies

    def arguments(self) -> list[Parameter]:
        return horizontal_parameters(self.spec, self.shape, self.copies)

    def start(self) -> None:
        out, names = self.out, [p.name for p in parameters(self.spec, self.shape)]
        out("block = ix(cuda.blockIdx.x)")
        for k in range(self.copies):
            last = k == self.copies - 1
            out.open("else:" if last else f"{'elif' if k else 'if'} block < end_{k}:")
            blocks = f"ix(end_{k} - end_{k - 1})" if k else f"end_{k}"
            out(f"first, blocks = {f'end_{k - 1}' if k else 'ix(0)'}, {blocks}")
            for name in names:
                out(f"{name} = {name}_of_{k}")
            out.close()
        out("row = ix((block - first) * cuda.blockDim.x + cuda.threadIdx.x)")
        out("step = ix(blocks * cuda.blockDim.x)")
