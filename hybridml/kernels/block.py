"""What the threads of a block do together, for printed CUDA kernels. Imported by their texts only.

CUDA's simulator has no warps; there the same exchange goes through a table of the block, and every thread of the block has to take
part (printed kernels see to that: their loops over rows have the same length for all threads of a block).
"""

from __future__ import annotations

import threading
from typing import Any

import numba
import numba.cuda

cuda: Any = numba.cuda
ALL = 0xFFFFFFFF  # every lane of the warp takes part


def _shuffle_xor(value: Any, distance: Any) -> Any:
    """The value that the lane `distance` away (by exclusive or) holds; int32, int64, float32 or float64."""
    return cuda.shfl_xor_sync(ALL, value, distance)


def _simulated_shuffle_xor(value: Any, distance: Any) -> Any:
    thread: Any = threading.current_thread()
    slots: dict[int, Any] = vars(thread._manager).setdefault("shuffled", {})
    slots[thread.thread_id] = value
    thread.syncthreads()
    other = slots[thread.thread_id ^ distance]
    thread.syncthreads()
    return other


# Not a device function in the simulator: calling one there swaps a global of this module, in all threads at once
# (https://github.com/NVIDIA/numba-cuda/pull/690).
simulated = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
shuffle_xor = _simulated_shuffle_xor if simulated else cuda.jit(device=True)(_shuffle_xor)
