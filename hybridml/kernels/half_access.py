"""Half precision on a GPU, as Numba's intrinsics: bits to numbers and back, and rounding.

bfloat16 is rounded by the one instruction that sm_80 and later have for it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

from hybridml.kernels.language import halves
from hybridml.kernels.primitives import HALVES

CODE = {"float16": halves.FLOAT16, "bfloat16": halves.BFLOAT16}
ROUND_BFLOAT16 = "cvt.rn.bf16.f32"
_SINGLE, _BITS = types.float32, types.uint16


def functions() -> dict[str, Any]:
    """The functions of `hybridml.kernels.half`."""
    forth = {f"from_{s}": _function(_SINGLE, _BITS, CODE[name].widened) for s, name in HALVES.items()}
    return forth | {f"to_{s}": _function(_BITS, _SINGLE, CODE[name].narrowed) for s, name in HALVES.items()}


def nearest(suffix: str) -> Any:
    """`nearest_f16` or `nearest_bf16`."""
    return _function(_SINGLE, _SINGLE, CODE["float16"].nearest if suffix == "f16" else _nearest_bfloat16)


def _nearest_bfloat16(builder: Any, x: Any) -> Any:
    kind = ir.FunctionType(ir.IntType(16), [ir.FloatType()])
    bits = builder.call(ir.InlineAsm(kind, f"{ROUND_BFLOAT16} $0, $1;", "=h,f"), [x])
    return CODE["bfloat16"].widened(builder, bits)


def _function(result: Any, operand: Any, emit: halves.Emit) -> Any:
    def typing(typing_context: Any, x: Any) -> Any:
        return result(operand), lambda context, builder, signature, args: emit(builder, args[0])

    return intrinsic(typing)
