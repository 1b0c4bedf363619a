"""Primitives of the Numba CUDA target, from libdevice. Imports numba-cuda only when asked for.

Under `NUMBA_ENABLE_CUDASIM=1` device functions are Python functions, so the plain-Python primitives serve.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import HALVES, python

# libdevice's name in float32 and float64.
LIBDEVICE = {
    "sqrt": ("fsqrt_rn", "dsqrt_rn"),
    "floor": ("floorf", "floor"),
    "ceil": ("ceilf", "ceil"),
    "rint": ("rintf", "rint"),
    "trunc": ("truncf", "trunc"),
    "fabs": ("fabsf", "fabs"),
    "copysign": ("copysignf", "copysign"),
    "fmod": ("fmodf", "fmod"),
    "fma": ("fmaf", "fma"),
    "bits": ("float_as_int", "double_as_longlong"),
    "float_from_bits": ("int_as_float", "longlong_as_double"),
}


def namespace() -> dict[str, Any]:
    """A fresh namespace with every name of `hybridml.kernels.primitives.NAMES`.

    Raises ImportError where Numba's CUDA target cannot be imported.
    """
    from numba import config

    if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
        return python.namespace()
    from numba.cuda import jit, libdevice

    from hybridml.kernels.half_access import nearest

    device: Any = jit
    names: dict[str, Any] = {
        # fastmath stays off: it would break NaN handling and the exact splits into high and low parts.
        "device": device(device=True, forceinline=True, fastmath=False),
        "f32": np.float32,
        "f64": np.float64,
        **{f"i{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"u{bits}": getattr(np, f"uint{bits}") for bits in (8, 16, 32, 64)},
    }
    names |= {f"nearest_{suffix}": nearest(suffix) for suffix in HALVES}
    for name, (single, double) in LIBDEVICE.items():
        names[f"{name}_f32"] = getattr(libdevice, single)
        names[f"{name}_f64"] = getattr(libdevice, double)
    return names
