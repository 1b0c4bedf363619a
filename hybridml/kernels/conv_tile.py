"""The vector code that gathers the elements of windows into a panel.

As in `gemm_tile`, operands are int64 addresses, and what is written may reach beyond what is asked for up to the end of a vector.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.kernels.gemm_tile import Emitter
from hybridml.kernels.language import types
from hybridml.kernels.language.functions import intrinsic

_I32 = ir.IntType(32)
_I64 = ir.IntType(64)


def _make_copy_some(element: ir.Type) -> Any:
    @intrinsic
    def copy_some(typingctx, to, of, first, last):  # type: ignore[no-untyped-def]
        """One vector: its elements from ``first`` up to ``last`` are those of ``of``, the others are 0 and not read."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            to, of, first, last = values
            emit = Emitter(builder, element)
            numbers = ir.Constant(ir.VectorType(_I32, emit.width), list(range(emit.width)))
            low = emit.splat(builder.trunc(first, _I32))
            high = emit.splat(builder.trunc(last, _I32))
            inside = builder.and_(
                builder.icmp_signed(">=", numbers, low), builder.icmp_signed("<", numbers, high)
            )
            emit.store(emit.load(of, inside), to, None)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 4), codegen

    return copy_some


def _make_copy_or_zero(element: ir.Type) -> Any:
    @intrinsic
    def copy_or_zero(typingctx, to, of, is_there):  # type: ignore[no-untyped-def]
        """One element, or 0 where ``is_there`` is 0; then ``of`` is not read."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            to, of, is_there = values
            pointer = element.as_pointer()
            target = builder.inttoptr(to, pointer)
            there = builder.icmp_signed("!=", is_there, _I64(0))
            with builder.if_else(there) as (read, skip):
                with read:
                    builder.store(builder.load(builder.inttoptr(of, pointer)), target)
                with skip:
                    builder.store(element(0.0), target)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 3), codegen

    return copy_or_zero


float32_copy_some = _make_copy_some(ir.FloatType())
float64_copy_some = _make_copy_some(ir.DoubleType())
float32_copy_or_zero = _make_copy_or_zero(ir.FloatType())
float64_copy_or_zero = _make_copy_or_zero(ir.DoubleType())
