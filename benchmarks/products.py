"""Matrix products as programs of one instruction, for whoever times them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybridml import config
from hybridml.kernels import gemm
from hybridml.kernels.driver import Program, Table
from hybridml.kernels.gemm_cost import Split


@dataclass(frozen=True)
class Shape:
    """C = op(A) @ op(B), op(A) of m x k, op(B) of k x n, float32, contiguous, `batch` times."""

    m: int
    n: int
    k: int
    transa: bool = False
    transb: bool = False
    batch: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.m * self.n * self.k * self.batch

    def __str__(self) -> str:
        a, b = "A^T" if self.transa else "A", "B^T" if self.transb else "B"
        return f"{a} {b} {self.m}x{self.n}x{self.k}" + (f", {self.batch} times" if self.batch > 1 else "")


def plan(shape: Shape, provider: str | None = None, split: Split | None = None) -> gemm.Plan:
    return gemm.plan(
        shape.m, shape.n, shape.k, "float32", shape.transa, shape.transb, shape.batch, config.get().num_threads,
        provider=provider, split=split,
    )  # fmt: skip


def program(shape: Shape, provider: str | None = None, split: Split | None = None) -> Program:
    """The product on random operands."""
    rng = np.random.default_rng(0)
    a = rng.random((shape.batch, shape.m, shape.k), np.float32)
    b = rng.random((shape.batch, shape.k, shape.n), np.float32)
    c = np.empty((shape.batch, shape.m, shape.n), np.float32)
    p = plan(shape, provider, split)
    table = Table()
    table.keep(a, b, c)
    block = table.block(p.words(a.ctypes.data, b.ctypes.data, c.ctypes.data))
    table.run(p.kernel.address, block, p.extent, p.chunks, p.grain)
    return table.finish()
