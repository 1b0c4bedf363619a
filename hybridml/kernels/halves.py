"""Half precision in kernels: 16 bits in memory, single precision in registers, rounded after each step as the definition does.

One operation on half precision, done in single and rounded, is correctly rounded, so sums, products and quotients have the interpreter's
bits. What adds up in single has been told apart before (`trace.passes.halves`): no accumulator is of half precision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.kernels.spec import Let, Loop, Scalar, Statement, suffix

_NAMED = re.compile(r"(_|\b)b?f16(?=\()")


def in_single(scalars: Sequence[Scalar], body: Sequence[Statement]) -> tuple[list[Scalar], list[Statement]]:
    """Literals and statements of a kernel, with the arithmetic on half precision done in float32; operands stay what they are in memory."""
    return [replace(s, dtype=_wider(s.dtype)) for s in scalars], list(map(_statement, body))


def literal(value: Any, dtype: np.dtype) -> Any:
    """The value of a literal, of the dtype in which kernels compute with it."""
    if not dtypes.is_half(dtype):
        return np.asarray(value, dtype)[()]
    with np.errstate(over="ignore"):  # beyond half precision it is infinite there
        return np.float32(np.asarray(float(value)).astype(dtype))


def _statement(s: Statement) -> Statement:
    if isinstance(s, Loop):
        assert not any(dtypes.is_half(a.dtype) for a in s.reduces)
        return replace(s, body=list(map(_statement, s.body)))
    if not isinstance(s, Let):
        return s
    text = _NAMED.sub(r"\1f32", s.text)
    if not dtypes.is_half(s.dtype):
        return s if text == s.text else replace(s, text=text)
    assert s.step is None
    return replace(s, text=f"m_nearest_{suffix(s.dtype)}(f32({text}))", dtype=dtypes.float32)


def _wider(dtype: np.dtype) -> np.dtype:
    return dtypes.float32 if dtypes.is_half(dtype) else dtype
