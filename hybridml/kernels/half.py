"""Half precision in memory, for printed CUDA kernels that compute in single. Imported by their texts only.

`from_f16(u16)` and `from_bf16(u16)` are the number with these bits, `to_f16(f32)` and `to_bf16(f32)` the bits of a number that has been
rounded (`m_nearest_f16`, `m_nearest_bf16`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from hybridml import dtypes
from hybridml.kernels.primitives import HALVES


def _from(half: np.dtype) -> Callable[[Any], Any]:
    return lambda bits: np.float32(np.uint16(bits).view(half))


def _to(half: np.dtype) -> Callable[[Any], Any]:
    return lambda x: np.float32(x).astype(half).view(np.uint16)


def in_python() -> dict[str, Callable[..., Any]]:
    """The Python form of each, by name."""
    halves = {suffix: dtypes.as_dtype(name) for suffix, name in HALVES.items()}
    return {f"from_{s}": _from(d) for s, d in halves.items()} | {f"to_{s}": _to(d) for s, d in halves.items()}


def _on_device() -> dict[str, Any]:
    from hybridml.kernels import half_access

    return half_access.functions()


simulated = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
globals().update(in_python() if simulated else _on_device())
