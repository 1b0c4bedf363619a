"""Primitives of the CPU target: one LLVM instruction or intrinsic each, so that loops vectorise.

Numba's own `math.floor` returns an integer and its `math.sqrt` raises; the intrinsics here keep the float
type and never branch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.kernels.language import halves, lanes, types
from hybridml.kernels.language.functions import device, intrinsic

from . import HALVES

FLOATS: dict[str, Any] = {"f32": types.float32, "f64": types.float64}
INTEGERS: dict[str, Any] = {"f32": types.int32, "f64": types.int64}


def _intrinsic(name: str, typing: Any, lanewise: bool = True) -> Any:
    typing.__name__ = name  # what error messages show
    return intrinsic(typing, lanewise=lanewise)


def _llvm(name: str, kind: str, count: int) -> Any:
    """The LLVM float intrinsic `llvm.<name>` with `count` operands of one type."""
    wanted = FLOATS[kind]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(lanes.intrinsic(builder, name, args[0].type, count), args)

    def typing_1(typing_context: Any, x: Any) -> Any:
        return (wanted(wanted), emit) if x == wanted else None

    def typing_2(typing_context: Any, x: Any, y: Any) -> Any:
        return (wanted(wanted, wanted), emit) if x == y == wanted else None

    return _intrinsic(f"{name}_{kind}", {1: typing_1, 2: typing_2}[count])


def _fma(kind: str) -> Any:
    wanted = FLOATS[kind]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.call(lanes.intrinsic(builder, "fma", args[0].type, 3), args)

    def typing(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return (wanted(wanted, wanted, wanted), emit) if a == b == c == wanted else None

    return _intrinsic(f"fma_{kind}", typing)


def _bitcast(source: Any, result: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    def typing(typing_context: Any, x: Any) -> Any:
        return (result(source), emit) if x == source else None

    return _intrinsic(f"bits_to_{result}", typing)


def _fmod(kind: str) -> Any:
    """C's fmod: LLVM's `frem`, which it lowers to the C library's call."""
    wanted = FLOATS[kind]

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.frem(*args)

    def typing(typing_context: Any, x: Any, y: Any) -> Any:
        return (wanted(wanted, wanted), emit) if x == y == wanted else None

    return _intrinsic(f"fmod_{kind}", typing)


def _nearest(suffix: str) -> Any:
    single = types.float32

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return halves.on_cpu(HALVES[suffix]).nearest(builder, args[0])

    def typing(typing_context: Any, x: Any) -> Any:
        return (single(single), emit) if x == single else None

    return _intrinsic(f"nearest_{suffix}", typing, lanewise=False)


def namespace() -> dict[str, Any]:
    """A fresh namespace with every name of `hybridml.kernels.primitives.NAMES`."""
    names: dict[str, Any] = {
        "device": device,
        "f32": np.float32,
        "f64": np.float64,
        **{f"i{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"u{bits}": getattr(np, f"uint{bits}") for bits in (8, 16, 32, 64)},
    }
    names |= {f"nearest_{suffix}": _nearest(suffix) for suffix in HALVES}
    for kind, float_type in FLOATS.items():
        for name in ("sqrt", "floor", "ceil", "rint", "trunc", "fabs"):
            names[f"{name}_{kind}"] = _llvm(name, kind, 1)
        names[f"copysign_{kind}"] = _llvm("copysign", kind, 2)
        names[f"fmod_{kind}"] = _fmod(kind)
        names[f"fma_{kind}"] = _fma(kind)
        names[f"bits_{kind}"] = _bitcast(float_type, INTEGERS[kind])
        names[f"float_from_bits_{kind}"] = _bitcast(INTEGERS[kind], float_type)
    return names
