"""Typed pointers and scalars that generated kernels read from their argument block.

A kernel is ``def kernel(args, begin, end)``. ``args`` points to a block of 64-bit words: addresses of
operands, sizes, strides, and the bits of scalars. This module turns a word into something to compute
with::

    from hybridml.kernels.pointer import float32_in, float32_out, float32_scalar, size

    def scale(args, begin, end):
        x0 = float32_in(args, 0, 0)          # word 0 holds the address of operand number 0
        o0 = float32_out(args, 1, 1)         # word 1 holds the address of operand number 1
        s = float32_scalar(args, 2)          # the first four bytes of word 2
        for i in range(begin, end):
            o0[i] = x0[i] * s

For each dtype ``D`` of bool, int8..int64, uint8..uint64, float16, bfloat16, float32, float64 there are ``D_in`` (read only),
``D_out`` (read and write), ``D_scalar`` (but of half precision), and ``D_at(address, operand)`` and ``D_to(address, operand)``
for one to be read or written whose address is at hand. ``p[i]`` is one plain load or store: no bounds check, no negative
indices. A bool is one byte in memory. Half precision is loaded as float32; what is stored must be one of its numbers.

**Operands with different numbers must not overlap**, with one exception: an output may be the very memory of
an input if each iteration reads all it needs at its index before it writes at the same index (an elementwise
kernel in place). LLVM is told so by scoped alias metadata: without it, it guards a vectorised loop by
comparing each pair of pointers at run time, and gives up on vectorising above a handful of pointers. Word and
operand number must be literal integers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.kernels.language import halves, types
from hybridml.kernels.language import lanes as vectors
from hybridml.kernels.language.functions import KernelTypeError, intrinsic
from hybridml.kernels.language.types import Lanes, Pointer, Type

DTYPES: dict[str, Type] = types.NUMBERS | {t.name: t for t in types.HALVES}

# -- p[i] --------------------------------------------------------------------------------------------------


def load(builder: Any, pointer: Type, address: Any, index: Any) -> Any:
    """The element at an index of an operand of type `pointer`, as a value of its dtype."""
    assert isinstance(pointer, Pointer)
    value = builder.load(builder.gep(address, [index], inbounds=True))
    _tag_alias_scope(builder.module, value, pointer.operand)
    if pointer.element in types.HALVES:
        return halves.on_cpu(pointer.element.name).widened(builder, value)
    return builder.icmp_unsigned("!=", value, value.type(0)) if pointer.dtype is types.boolean else value


def store(builder: Any, pointer: Type, address: Any, index: Any, value: Any) -> None:
    """Write an element of an operand."""
    assert isinstance(pointer, Pointer)
    check_written(pointer)
    place = builder.gep(address, [index], inbounds=True)
    if pointer.dtype is types.boolean:
        value = builder.zext(value, ir.IntType(8))
    elif pointer.element in types.HALVES:
        value = halves.on_cpu(pointer.element.name).narrowed(builder, value)
    _tag_alias_scope(builder.module, builder.store(value, place), pointer.operand)


def load_lanes(builder: Any, pointer: Type, address: Any, index: Any, lanes: Lanes, mask: Any) -> Any:
    """The elements from an index on, as many as there are lanes; those where the mask is false are not touched."""
    assert isinstance(pointer, Pointer)
    _check_whole(pointer)
    value = vectors.load(builder, *_vector_at(builder, address, index, lanes), mask)
    _tag_alias_scope(builder.module, value, pointer.operand)
    if pointer.dtype is types.boolean:
        return builder.icmp_unsigned("!=", value, vectors.number(value.type, 0))
    return value


def store_lanes(
    builder: Any, pointer: Type, address: Any, index: Any, value: Any, lanes: Lanes, mask: Any
) -> None:
    """Write the elements from an index on, but for those where the mask is false."""
    assert isinstance(pointer, Pointer)
    check_written(pointer)
    _check_whole(pointer)
    if pointer.dtype is types.boolean:
        value = builder.zext(value, lanes.memory)
    access = vectors.store(builder, value, *_vector_at(builder, address, index, lanes), mask)
    _tag_alias_scope(builder.module, access, pointer.operand)


def _vector_at(builder: Any, address: Any, index: Any, lanes: Lanes) -> tuple[Any, int]:
    """The address of a vector, and what divides it."""
    place = builder.gep(address, [index], inbounds=True)
    return builder.bitcast(place, lanes.memory.as_pointer()), max(1, lanes.bits // 8)


def _check_whole(pointer: Pointer) -> None:
    if pointer.element in types.HALVES:
        raise KernelTypeError(f"lanes of {pointer.element}")


def check_written(pointer: Pointer) -> None:
    """Raise KernelTypeError if an operand is an input."""
    if not pointer.writable:
        raise KernelTypeError(f"operand {pointer.operand} is an input: declare it with _out to write it")


def _tag_alias_scope(module: Any, access: Any, operand: int) -> None:
    """Say that this load or store touches ``operand`` and no other one.

    LLVM holds two accesses apart if either's scope is in the other's ``noalias`` list, so listing the smaller
    numbers is enough, and the list needs no knowledge of the operands still to come.
    """
    known: dict[int, Any] = vars(module).setdefault("alias_scopes", {})  # each looked up for every access
    if operand not in known:
        domain = module.add_metadata(["hybridml"])
        scopes = [module.add_metadata([f"operand {k}", domain]) for k in range(operand + 1)]
        known[operand] = module.add_metadata([scopes[operand]]), module.add_metadata(scopes[:operand])
    scope, others = known[operand]
    access.set_metadata("alias.scope", scope)
    if operand:
        access.set_metadata("noalias", others)


# -- reading a word of the argument block ------------------------------------------------------------------


def _literal(value: Type, what: str) -> int:
    if not isinstance(value, types.IntegerLiteral) or value.literal_value < 0:
        raise KernelTypeError(f"the {what} must be a literal integer >= 0, not {value}")
    return value.literal_value


def _make_pointer_reader(dtype: Type, writable: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def read_pointer(typingctx: Any, args: Any, word: Any, operand: Any) -> Any:
        index = _literal(word, "word")
        result = Pointer(dtype, _literal(operand, "operand number"), writable)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            address = builder.load(builder.gep(values[0], [ir.IntType(32)(index)], inbounds=True))
            return builder.inttoptr(address, context.get_value_type(sig.return_type))

        return result(args, word, operand), codegen

    return read_pointer


def _make_pointer(dtype: Type, writable: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def pointer_to(typingctx: Any, address: Any, operand: Any) -> Any:
        result = Pointer(dtype, _literal(operand, "operand number"), writable=writable)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(sig.return_type))

        return result(types.int64, operand), codegen

    return pointer_to


def _make_scalar_reader(dtype: Type) -> Any:
    @intrinsic(prefer_literal=True)
    def read_scalar(typingctx: Any, args: Any, word: Any) -> Any:
        index = _literal(word, "word")

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            address = builder.gep(values[0], [ir.IntType(32)(index)], inbounds=True)
            value = builder.load(builder.bitcast(address, dtype.memory.as_pointer()))
            return builder.icmp_unsigned("!=", value, value.type(0)) if dtype is types.boolean else value

        return dtype(args, word), codegen

    return read_scalar


for _name, _dtype in DTYPES.items():
    globals()[f"{_name}_in"] = _make_pointer_reader(_dtype, writable=False)
    globals()[f"{_name}_out"] = _make_pointer_reader(_dtype, writable=True)
    if _dtype not in types.HALVES:  # scalars are given as what they are computed in
        globals()[f"{_name}_scalar"] = _make_scalar_reader(_dtype)
    globals()[f"{_name}_at"] = _make_pointer(_dtype, writable=False)
    globals()[f"{_name}_to"] = _make_pointer(_dtype, writable=True)

size = globals()["int64_scalar"]
"""``size(args, word)``: an extent, a stride or a count, as int64."""
