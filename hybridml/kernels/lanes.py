"""Steps of float reductions that LLVM may spread over vector lanes.

The flags sit on this one instruction, so nothing else in a kernel is reordered: user arithmetic stays as written.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.kernels.language import types
from hybridml.kernels.language.functions import intrinsic

_FLOATS = {"f32": types.float32, "f64": types.float64}


def _arithmetic(instruction: str, kind: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args, flags=("reassoc",))

    def typing(typing_context: Any, accumulator: Any, value: Any) -> Any:
        return (kind(kind, kind), emit) if accumulator == value == kind else None

    return intrinsic(typing)


def _extremum(name: str, kind: Any) -> Any:
    """llvm.maximum and llvm.minimum propagate NaN and need no reordering flag: they are associative as they are.

    Which zero is the larger one is left open, as in NumPy: on AVX2, telling them apart takes two instructions of five.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        llvm_type = context.get_value_type(kind)
        shape = ir.FunctionType(llvm_type, [llvm_type, llvm_type])
        callee = builder.module.declare_intrinsic(f"llvm.{name}", [llvm_type], shape)
        return builder.call(callee, args, fastmath=("nsz",))

    def typing(typing_context: Any, accumulator: Any, value: Any) -> Any:
        return (kind(kind, kind), emit) if accumulator == value == kind else None

    return intrinsic(typing)


for _suffix, _kind in _FLOATS.items():
    globals()[f"lane_add_{_suffix}"] = _arithmetic("fadd", _kind)
    globals()[f"lane_multiply_{_suffix}"] = _arithmetic("fmul", _kind)
    globals()[f"lane_maximum_{_suffix}"] = _extremum("maximum", _kind)
    globals()[f"lane_minimum_{_suffix}"] = _extremum("minimum", _kind)
