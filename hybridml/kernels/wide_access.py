"""The LLVM code of wide accesses: a vector load or store through a pointer cast, with the alignment that makes it one instruction."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.cuda.extending import intrinsic

from hybridml.kernels.half_access import CODE
from hybridml.kernels.primitives import HALVES

WIDEST = 16  # bytes of one instruction
_HALVES = {f"_{suffix}": name for suffix, name in HALVES.items()}
_BIT, _I32, _I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def accesses(n: int) -> dict[str, Any]:
    """The functions of `hybridml.kernels.wide` for n elements."""
    found = {f"aligned_{n}": _aligned(n)}
    for form in ("", "_bools", *_HALVES):
        found |= {f"load{form}_{n}": _load(n, form), f"store{form}_{n}": _store(n, form)}
    return found


def _aligned(n: int) -> Any:
    def aligned(typing_context: Any, pointer: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, last = builder.ptrtoint(args[0], _I64), _alignment(pointer, n) - 1
            return builder.icmp_unsigned("==", builder.and_(address, _I64(last)), _I64(0))

        return types.boolean(pointer), emit

    return intrinsic(aligned)


def _load(n: int, form: str) -> Any:
    def load(typing_context: Any, pointer: Any, index: Any, wide: Any, inside: Any) -> Any:
        dtype = types.float32 if form in _HALVES else types.boolean if form else pointer.dtype
        result = types.UniTuple(dtype, n)

        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, at, is_wide, is_inside = args
            place = builder.gep(address, [at])
            element = place.type.pointee
            before = builder.block
            one, single, after = [builder.append_basic_block(x) for x in ("wide", "single", "loaded")]
            ask = builder.append_basic_block("inside")
            builder.cbranch(_bit(builder, is_inside), ask, after)
            builder.position_at_end(ask)
            builder.cbranch(_bit(builder, is_wide), one, single)
            builder.position_at_end(one)
            moved = builder.load(builder.bitcast(place, _moved(element, n).as_pointer()))
            moved.align = _alignment(pointer, n)
            vector = builder.bitcast(moved, ir.VectorType(element, n))
            together = [builder.extract_element(vector, _I32(k)) for k in range(n)]
            builder.branch(after)
            builder.position_at_end(single)
            apart = [builder.load(builder.gep(place, [_I32(k)])) for k in range(n)]
            builder.branch(after)
            builder.position_at_end(after)
            found = []
            for a, b in zip(together, apart, strict=True):
                phi = builder.phi(element)
                phi.add_incoming(ir.Constant(element, 0), before)
                phi.add_incoming(a, one)
                phi.add_incoming(b, single)
                found.append(phi)
            if form == "_bools":
                found = [builder.icmp_unsigned("!=", x, element(0)) for x in found]
            elif form:
                found = [CODE[_HALVES[form]].widened(builder, x) for x in found]
            return context.make_tuple(builder, signature.return_type, found)

        return result(pointer, index, wide, inside), emit

    return intrinsic(load)


def _store(n: int, form: str) -> Any:
    def store(typing_context: Any, pointer: Any, index: Any, values: Any, wide: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address, at, tuple_, is_wide = args
            place = builder.gep(address, [at])
            element = place.type.pointee
            found = [builder.extract_value(tuple_, k) for k in range(n)]
            if form in _HALVES:
                found = [CODE[_HALVES[form]].narrowed(builder, x) for x in found]
            else:  # a bool becomes a byte
                found = [
                    context.cast(builder, x, t, pointer.dtype) for x, t in zip(found, values, strict=True)
                ]
            with builder.if_else(_bit(builder, is_wide)) as (together, apart):
                with together:
                    vector = ir.Constant(ir.VectorType(element, n), ir.Undefined)
                    for k, x in enumerate(found):
                        vector = builder.insert_element(vector, x, _I32(k))
                    moved = _moved(element, n)
                    where = builder.bitcast(place, moved.as_pointer())
                    written = builder.store(builder.bitcast(vector, moved), where)
                    written.align = _alignment(pointer, n)
                with apart:
                    for k, x in enumerate(found):
                        builder.store(x, builder.gep(place, [_I32(k)]))
            return context.get_dummy_value()

        return types.none(pointer, index, values, wide), emit

    return intrinsic(store)


def _moved(element: Any, n: int) -> ir.Type:
    """As what n elements travel: those that are narrower than a register in words. NVVM may take a word apart again: 16 int8 come out as
    four accesses of 4 bytes."""
    bits = getattr(element, "width", 32)
    if bits >= 32:
        return ir.VectorType(element, n)
    return ir.IntType(n * bits) if n * bits <= 32 else ir.VectorType(_I32, n * bits // 32)


def _bit(builder: Any, x: Any) -> Any:
    return x if x.type == _BIT else builder.trunc(x, _BIT)


def _alignment(pointer: Any, n: int) -> int:
    """Bytes: of the whole access, or of each of the instructions that it takes."""
    return min(n * int(pointer.dtype.bitwidth) // 8, WIDEST)
