"""The hardware's approximations of float32 functions, for kernels under `config.fast_math`: one instruction of PTX, or two.

They stand in for the scalar functions of the same names where a kernel's text calls these. What a scalar function calls inside stays
exact: random numbers keep their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# An instruction with one operand for each scalar function that it computes as it stands.
UNARY = {
    "m_exp2_f32": "ex2.approx.f32",
    "m_log2_f32": "lg2.approx.f32",
    "m_sin_f32": "sin.approx.f32",
    "m_cos_f32": "cos.approx.f32",
    "m_tanh_f32": "tanh.approx.f32",
    "m_sqrt_f32": "sqrt.approx.f32",
    "m_rsqrt_f32": "rsqrt.approx.f32",
}
RECIPROCAL, QUOTIENT = "rcp.approx.f32", "div.full.f32"
LOG2_E, LN_2, LOG10_2 = (np.float32(x) for x in (1.4426950408889634, 0.6931471805599453, 0.3010299956639812))


def approximations(device: Callable[..., Any]) -> dict[str, Any]:
    """The approximate functions by name; `device` makes one of a Python function."""
    found = {name: _instruction(text, 1) for name, text in UNARY.items()}
    exp2, log2 = found["m_exp2_f32"], found["m_log2_f32"]
    one, reciprocal = np.float32(1), _instruction(RECIPROCAL, 1)

    def m_exp_f32(x: Any) -> Any:
        return exp2(x * LOG2_E)

    def m_log_f32(x: Any) -> Any:
        return log2(x) * LN_2

    def m_log10_f32(x: Any) -> Any:
        return log2(x) * LOG10_2

    def m_sigmoid_f32(x: Any) -> Any:
        return reciprocal(one + exp2(-x * LOG2_E))

    composed = (m_exp_f32, m_log_f32, m_log10_f32, m_sigmoid_f32)
    found |= {f.__name__: device(f) for f in composed}
    return found | {"m_divide_f32": _instruction(QUOTIENT, 2)}


def _instruction(text: str, count: int) -> Any:
    """An instruction on that many float32 registers, as a function of kernels."""
    from llvmlite import ir
    from numba import types
    from numba.cuda.extending import intrinsic

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        single = ir.FloatType()
        operands = ", ".join(f"${k}" for k in range(count + 1))
        kind = ir.FunctionType(single, [single] * count)
        code = ir.InlineAsm(kind, f"{text} {operands};", ",".join(["=f", *["f"] * count]))
        return builder.call(code, args)

    def unary(typing_context: Any, x: Any) -> Any:
        return types.float32(types.float32), emit

    def binary(typing_context: Any, x: Any, y: Any) -> Any:
        return types.float32(types.float32, types.float32), emit

    return intrinsic({1: unary, 2: binary}[count])
