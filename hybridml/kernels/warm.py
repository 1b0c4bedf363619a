"""`hybridml cache warm`: compile ahead what nearly every program needs, so that a first call finds it on disk.

Not the kernels of one model: those are known only when it is traced. The set is what has the longest compile times and the fewest
forms: the driver, the thread pool's worker, the matrix products, launches over many buffers, copies between buffers.
"""

from __future__ import annotations

from hybridml.kernels import driver, gemm, horizontal, jit, pool
from hybridml.kernels.address import copy_kernel


def warm() -> list[jit.Kernel]:
    """Load the common kernels, compiling those that the cache lacks."""
    with jit.recorded() as loads:
        jit.load(pool.native_source(), "run", driver.SIGNATURE)
        jit.load(pool.native_source(), "work", pool.SIGNATURE)
        jit.load(horizontal.SOURCE, "horizontal")
        name, text = copy_kernel()
        jit.load(text, name)
        for dtype in ("float32", "float64"):
            for entry in ("tiled", "row", "dotted"):
                gemm.load(entry, dtype)
        jit.finish(loads)
    return loads
