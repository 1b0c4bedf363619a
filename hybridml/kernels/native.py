"""The machine operations that the driver and the thread pool are written in: raw words, atomics, calls by
address.

Addresses are plain int64 values here. Nothing checks them: these are for the runtime's own few loops,
generated kernels use the typed operands of `pointer`.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from hybridml.kernels.language import types
from hybridml.kernels.language.functions import intrinsic

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_MOVE = ir.FunctionType(ir.VoidType(), [_BYTES, _BYTES, _I64, ir.IntType(1)])
_SET = ir.FunctionType(ir.VoidType(), [_BYTES, ir.IntType(8), _I64, ir.IntType(1)])


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


def _int64_operation(arity: int, emit: Any, returns: types.Type = types.int64) -> Any:
    """An intrinsic of ``arity`` int64 arguments whose code is ``emit(builder, *values)``."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        result = emit(builder, *values)
        return context.get_dummy_value() if returns == types.none else result

    sig = returns(*[types.int64] * arity)
    # The number of arguments is that of the Python signature.
    return intrinsic(
        {
            0: lambda typingctx: (sig, codegen),
            1: lambda typingctx, a: (sig, codegen),
            2: lambda typingctx, a, b: (sig, codegen),
            3: lambda typingctx, a, b, c: (sig, codegen),
            4: lambda typingctx, a, b, c, d: (sig, codegen),
            5: lambda typingctx, a, b, c, d, e: (sig, codegen),
            8: lambda typingctx, a, b, c, d, e, f, g, h: (sig, codegen),
            9: lambda typingctx, a, b, c, d, e, f, g, h, i: (sig, codegen),
        }[arity]
    )


def _emit_compare_exchange(builder: Any, address: Any, expected: Any, new: Any) -> Any:
    pair = builder.cmpxchg(_word(builder, address), expected, new, "seq_cst", "seq_cst")
    return builder.zext(builder.extract_value(pair, 1), _I64)


def _emit_pause(builder: Any) -> None:
    """Tell the processor that this is a waiting loop; on an architecture without such a hint, nothing."""
    architecture = llvm.get_process_triple().split("-")[0]
    if architecture in ("x86_64", "i686", "i386"):
        function = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), function), [])
    elif architecture in ("aarch64", "arm64"):
        function = ir.FunctionType(ir.VoidType(), [_I32])
        builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), function), [_I32(1)])


def _call(result: ir.Type, *parameters: ir.Type) -> Any:
    def emit(builder: Any, function: Any, *arguments: Any) -> Any:
        pointer = builder.inttoptr(function, ir.FunctionType(result, parameters).as_pointer())
        narrowed = [
            builder.trunc(value, parameter) if parameter != value.type else value
            for value, parameter in zip(arguments, parameters, strict=True)
        ]
        returned = builder.call(pointer, narrowed)
        return builder.sext(returned, _I64) if result == _I32 else returned

    return emit


load = _int64_operation(1, lambda b, address: b.load(_word(b, address)))
store = _int64_operation(2, lambda b, address, value: b.store(value, _word(b, address)), types.none)
load_byte = _int64_operation(
    1, lambda b, address: b.zext(b.load(b.inttoptr(address, ir.IntType(8).as_pointer())), _I64)
)
load_half = _int64_operation(
    1, lambda b, address: b.zext(b.load(b.inttoptr(address, _I32.as_pointer())), _I64)
)
copy_bytes = _int64_operation(
    3,
    lambda b, to, of, count: b.call(
        b.module.declare_intrinsic("llvm.memmove", [_BYTES, _BYTES, _I64], _MOVE),
        [
            b.inttoptr(to, ir.IntType(8).as_pointer()),
            b.inttoptr(of, ir.IntType(8).as_pointer()),
            count,
            ir.IntType(1)(0),
        ],
    ),
    types.none,
)
clear_bytes = _int64_operation(
    2,
    lambda b, to, count: b.call(
        b.module.declare_intrinsic("llvm.memset", [_BYTES, _I64], _SET),
        [b.inttoptr(to, ir.IntType(8).as_pointer()), ir.IntType(8)(0), count, ir.IntType(1)(0)],
    ),
    types.none,
)

atomic_load = _int64_operation(1, lambda b, address: b.load_atomic(_word(b, address), "seq_cst", 8))
atomic_store = _int64_operation(
    2, lambda b, address, value: b.store_atomic(value, _word(b, address), "seq_cst", 8), types.none
)
atomic_add = _int64_operation(
    2, lambda b, address, value: b.atomic_rmw("add", _word(b, address), value, "seq_cst")
)
compare_exchange = _int64_operation(3, _emit_compare_exchange)
pause = _int64_operation(0, _emit_pause, types.none)

call_kernel = _int64_operation(4, _call(ir.VoidType(), _I64, _I64, _I64), types.none)
call_on_block = _int64_operation(8, _call(ir.VoidType(), *[_I64] * 7), types.none)
call_void = _int64_operation(1, _call(ir.VoidType()), types.none)
call_pointer = _int64_operation(2, _call(ir.VoidType(), _I64), types.none)
call_pointer_int = _int64_operation(3, _call(_I32, _I64, _I32))
call_word = _int64_operation(1, _call(_I64))
call_word_word = _int64_operation(2, _call(_I64, _I64))
call_two_words_word = _int64_operation(3, _call(_I64, _I64, _I64))
call_two_pointers_int = _int64_operation(3, _call(_I32, _I64, _I64))
call_new_array = _int64_operation(9, _call(_I64, _I64, _I64, _I32, _I64, _I64, _I64, _I32, _I64))
call_four_pointers_int = _int64_operation(5, _call(_I32, _I64, _I64, _I64, _I64))
call_get_int = _int64_operation(1, _call(_I32))
call_set_int = _int64_operation(2, _call(ir.VoidType(), _I32), types.none)
