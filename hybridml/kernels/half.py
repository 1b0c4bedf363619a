"""Half precision in kernels that compute in single, for printed CUDA kernels. Imported by their texts only.

`from_half(u16)` is the number with these bits, `to_half(f32)` the bits of the nearest one, `half(f32)` the nearest number itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def _from_half(bits: Any) -> Any:
    return np.float32(np.uint16(bits).view(np.float16))


def _to_half(x: Any) -> Any:
    with np.errstate(over="ignore"):
        return np.float16(x).view(np.uint16)


def in_python() -> dict[str, Callable[..., Any]]:
    """The Python form of each, by name."""
    return {"from_half": _from_half, "to_half": _to_half, "half": lambda x: _from_half(_to_half(x))}


def _on_device() -> dict[str, Any]:
    from hybridml.kernels import wide_access

    return wide_access.halves()


simulated = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
globals().update(in_python() if simulated else _on_device())
