"""The copies that put operands of a matrix product where the register tile reads them fast.

Every operand is an int64 address, every stride a number of elements. See `gemm_tile` for why these are intrinsics.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.kernels.gemm_tile import Emitter
from hybridml.kernels.language import lanes, types
from hybridml.kernels.language.functions import intrinsic

_I64 = ir.IntType(64)
_I32 = ir.IntType(32)


def _make_copy(element: ir.Type) -> Any:
    @intrinsic
    def copy(typingctx, to, to_index, of, of_index):  # type: ignore[no-untyped-def]
        """Move one element; indices count elements."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            emit = Emitter(builder, element)
            target = builder.inttoptr(emit.address(values[0], values[1]), element.as_pointer())
            builder.store(emit.scalar(emit.address(values[2], values[3])), target)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 4), codegen

    return copy


def _make_copy_columns(element: ir.Type) -> Any:
    @intrinsic(prefer_literal=True)
    def copy_columns(typingctx, vectors, to, of, columns):  # type: ignore[no-untyped-def]
        """Move the first ``columns`` elements of a row, up to a literal number of whole vectors."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            emit = Emitter(builder, element)
            for v in range(vectors.literal_value):
                mask = emit.first_lanes(builder.sub(values[3], _I64(v * emit.width)))
                place = _I64(v * emit.width)
                # The target has room for whole vectors: zeros there do no harm.
                emit.store(
                    emit.load(emit.address(values[2], place), mask), emit.address(values[1], place), None
                )
            return context.get_dummy_value()

        return types.none(vectors, *[types.int64] * 3), codegen

    return copy_columns


def _make_copy_transposed(element: ir.Type) -> Any:
    @intrinsic
    def copy_transposed(typingctx, to, to_row, of, of_row):  # type: ignore[no-untyped-def]
        """Move a block of as many rows and columns as a vector has elements, its rows becoming columns."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            to, to_row, of, of_row = values
            emit = Emitter(builder, element)
            places = range(emit.width)
            rows = [emit.load(emit.address(of, builder.mul(of_row, _I64(r))), None) for r in places]
            half = emit.width // 2
            while half:  # exchange the two blocks beside the diagonal, then within the blocks (Eklundh)
                for r in [r for r in places if not r & half]:
                    upper = [c if not c & half else emit.width + c - half for c in places]
                    lower = [c + half if not c & half else emit.width + c for c in places]
                    rows[r], rows[r + half] = [
                        builder.shuffle_vector(rows[r], rows[r + half], lanes.places(*numbers))
                        for numbers in (upper, lower)
                    ]
                half //= 2
            for r in places:
                emit.store(rows[r], emit.address(to, builder.mul(to_row, _I64(r))), None)
            return context.get_dummy_value()

        return types.none(*[types.int64] * 4), codegen

    return copy_transposed


float32_copy = _make_copy(ir.FloatType())
float64_copy = _make_copy(ir.DoubleType())
float32_copy_columns = _make_copy_columns(ir.FloatType())
float64_copy_columns = _make_copy_columns(ir.DoubleType())
float32_copy_transposed = _make_copy_transposed(ir.FloatType())
float64_copy_transposed = _make_copy_transposed(ir.DoubleType())
