"""KernelSpec to Python source for Numba on CUDA: the same tree of statements as `emit` prints for the CPU, for many threads.

A softmax whose rows are shared by eight threads of two neighbouring elements each, for example, begins

    @m.device
    def at_element_0(v0, a0):
        a0 = m_maximum_f32(a0, v0)
        return a0

    def exp_max_subtract_sum_divide(o0, x0, n_i, n_j, o0_i, x0_i, c0, c1):
        lane = ix(cuda.threadIdx.x)
        rows = n_i
        wide = aligned_2(x0) and aligned_2(o0)
        tile = ix(cuda.blockIdx.x * 32)
        while tile < rows:
            ...
            j_0 = ix(lane * 2)
            inside = j_0 < n_j
            x0_0, x0_1 = load_2(x0, i * x0_i + j_0, wide, inside)
            if inside:
                a0 = at_element_0(x0_0, a0)
                a0 = at_element_0(x0_1, a0)
            a0 = m_maximum_f32(a0, shuffle_xor(a0, 4))      # 4, 2, 1: the largest of the row
            ...

`maps`, `tiles`, `rows`, `wide_rows` and `staged_rows` each say how a mode's threads share the work. Nothing depends on the order in
which blocks or threads run: equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Collection

from hybridml.kernels.emit_cuda.accesses import held_words, is_grouped, width
from hybridml.kernels.emit_cuda.fast import with_calls
from hybridml.kernels.emit_cuda.horizontal import HorizontalPrinter, horizontal_parameters, most_copies
from hybridml.kernels.emit_cuda.maps import MapPrinter
from hybridml.kernels.emit_cuda.printer import Parameter, Phase, Printer, parameters
from hybridml.kernels.emit_cuda.rows import RowPrinter
from hybridml.kernels.emit_cuda.staged_rows import StagedRowPrinter
from hybridml.kernels.emit_cuda.staging import staged_bytes
from hybridml.kernels.emit_cuda.tiles import TilePrinter
from hybridml.kernels.emit_cuda.tree import Reduction, is_splittable, reductions, space
from hybridml.kernels.emit_cuda.turns import tiles, turn
from hybridml.kernels.emit_cuda.wide_rows import WideRowPrinter
from hybridml.kernels.launch import Shape
from hybridml.kernels.spec import KernelSpec, Mode

__all__ = [
    "Parameter", "Phase", "Reduction", "emit", "emit_horizontal", "held_words", "horizontal_parameters", "is_grouped", "is_splittable",
    "most_copies", "parameters", "reductions", "space", "staged_bytes", "tiles", "turn", "width",
]  # fmt: skip


def emit(
    spec: KernelSpec, shape: Shape, phase: Phase = "whole", scratch: Collection[str] = (), fast: bool = False
) -> tuple[str, str]:
    """(name, source) of the kernel for blocks of this shape; equal structures give equal text.

    Args:
        phase: "partial" reduces part `blockIdx.y` of the reduced axes into the buffers `w0`, `w1`...; "finish" combines them.
        scratch: operands that nobody reads afterwards. Threads keep such values in registers.
        fast: whether float32 functions and quotients may be the hardware's approximations.

    Raises:
        ValueError: the kernel cannot be printed in this phase, or for this shape.
    """
    grouped = shape.vector > 1 or shape.held > 0 or shape.staged
    if grouped and not is_grouped(spec):
        raise ValueError(f"kernel {spec.title} takes its elements one by one, got {shape}")
    if shape.held and not held_words(spec):
        raise ValueError(f"kernel {spec.title} has no rows that registers could hold, got {shape}")
    if shape.staged and (shape.y > 1 or not staged_bytes(spec)):
        raise ValueError(
            f"shared memory holds one row a block, of a kernel that reads some of it twice: {spec.title} got {shape}"
        )
    if shape.turn is not None and (spec.mode is not Mode.MAP or grouped):
        raise ValueError(
            f"tiles are of MAP kernels, and of one element a thread, got {shape} for {spec.title}"
        )
    kind: type[Printer] = RowPrinter
    if shape.turn is not None:
        kind = TilePrinter
    elif spec.mode is Mode.MAP:
        kind = MapPrinter
    elif grouped:
        kind = StagedRowPrinter if shape.staged and phase == "whole" else WideRowPrinter
    return kind(with_calls(spec) if fast else spec, shape, phase, scratch).print(
        "cuda_fast" if fast else "cuda"
    )


def emit_horizontal(spec: KernelSpec, shape: Shape, copies: int, fast: bool = False) -> tuple[str, str]:
    """(name, source) of a MAP kernel over that many sets of operands; see `horizontal`."""
    if spec.mode is not Mode.MAP or shape.turn is not None:
        raise ValueError(
            f"kernels that go over several sets of operands are plain MAP kernels, got {spec.title}"
        )
    printer = HorizontalPrinter(with_calls(spec) if fast else spec, shape, "whole", (), copies)
    return printer.print("cuda_fast" if fast else "cuda")
