"""The scalar functions as Numba CUDA device functions, some of them the hardware's approximations.

A module of its own, importable by name, as `for_cuda` is. CUDA's simulator has no approximations.
"""

from numba import config

from ..primitives.cuda_fast import approximations
from . import for_cuda

globals().update({name: f for name, f in vars(for_cuda).items() if not name.startswith("__")})
if not config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
    globals().update(approximations(vars(for_cuda)["device"]))
