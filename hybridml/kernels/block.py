"""What the threads of a block do together, for printed CUDA kernels. Imported by their texts only.

CUDA's simulator has no warps; there the same exchange goes through shared memory, and every thread of the block has to take part
(printed kernels see to that: their loops over rows have the same length for all threads of a block).
"""

from __future__ import annotations

from typing import Any

import numba
import numba.cuda
import numpy as np

cuda: Any = numba.cuda  # under the name that CUDA's simulator replaces while a kernel runs
ALL = 0xFFFFFFFF  # every lane of the warp takes part


def _shuffle_xor(value: Any, distance: Any) -> Any:
    """The value that the lane `distance` away (by exclusive or) holds; int32, int64, float32 or float64."""
    return cuda.shfl_xor_sync(ALL, value, distance)


def _simulated_shuffle_xor(value: Any, distance: Any) -> Any:
    slots = cuda.shared.array(1024, np.dtype(object))
    own = cuda.threadIdx.x + cuda.threadIdx.y * cuda.blockDim.x
    slots[own] = value
    cuda.syncthreads()
    other = slots[own ^ distance]
    cuda.syncthreads()
    return other


simulated = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
shuffle_xor = cuda.jit(device=True)(_simulated_shuffle_xor if simulated else _shuffle_xor)
