"""float16 in kernels: half precision in memory, single precision in registers, rounded after each step as the definition does.

Reductions accumulate in single precision and are rounded once. One operation on half precision, done in single and rounded, is correctly
rounded, so sums, products and quotients have the interpreter's bits.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from hybridml.kernels.spec import Accumulate, KernelSpec, Let, Loop, Statement

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
_NAMED = re.compile(r"(_|\b)f16(?=\()")


def in_single(spec: KernelSpec) -> KernelSpec:
    """The kernel with its arithmetic on float16 done in float32; operands stay what they are in memory."""
    if all(o.dtype != HALF for o in spec.operands) and not any(map(_is_half, spec.body)):
        return spec
    scalars = [replace(s, dtype=_wider(s.dtype)) for s in spec.scalars]
    body = [t for s in spec.body for t in _statements(s)]
    return replace(spec, scalars=scalars, body=body)


def _is_half(s: Statement) -> bool:
    """A value between casts may be one where no operand is."""
    if isinstance(s, Loop):
        return any(map(_is_half, s.body)) or any(a.dtype == HALF for a in s.reduces)
    return isinstance(s, (Let, Accumulate)) and s.dtype == HALF


def _statements(s: Statement) -> list[Statement]:
    if isinstance(s, Loop):
        reduces = tuple([replace(a, dtype=_wider(a.dtype)) for a in s.reduces])
        body = [t for x in s.body for t in _statements(x)]
        rounded = [Let(a.name, f"half({a.name})", SINGLE) for a in s.reduces if a.dtype == HALF]
        return [replace(s, body=body, reduces=reduces), *rounded]
    if isinstance(s, Let):
        text = _NAMED.sub(r"\1f32", s.text)
        step = None if s.step is None else _step(s.step)
        return [
            replace(
                s, text=f"half(f32({text}))" if s.dtype == HALF else text, dtype=_wider(s.dtype), step=step
            )
        ]
    return [_step(s)] if isinstance(s, Accumulate) else [s]


def _step(s: Accumulate) -> Accumulate:
    return replace(s, combine=_NAMED.sub(r"\1f32", s.combine), dtype=_wider(s.dtype))


def _wider(dtype: np.dtype) -> np.dtype:
    return SINGLE if dtype == HALF else dtype
