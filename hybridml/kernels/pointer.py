"""Typed pointers and scalars that generated kernels read from their argument block.

A kernel is ``def kernel(args, begin, end)``. ``args`` points to a block of 64-bit words: addresses of
operands, sizes, strides, and the bits of scalars. This module turns a word into something Numba can compute
with::

    from hybridml.kernels.pointer import float32_in, float32_out, float32_scalar, size

    def scale(args, begin, end):
        x0 = float32_in(args, 0, 0)          # word 0 holds the address of operand number 0
        o0 = float32_out(args, 1, 1)         # word 1 holds the address of operand number 1
        s = float32_scalar(args, 2)          # the first four bytes of word 2
        for i in range(begin, end):
            o0[i] = x0[i] * s

For each dtype ``D`` of bool, int8..int64, uint8..uint64, float32, float64 there are ``D_in`` (read only),
``D_out`` (read and write) and ``D_scalar``. ``p[i]`` is one plain load or store: no bounds check, no negative
indices. A bool is one byte in memory.

**Operands with different numbers must not overlap**, with one exception: an output may be the very memory of
an input if each iteration reads all it needs at its index before it writes at the same index (an elementwise
kernel in place). LLVM is told so by scoped alias metadata: without it, it guards a vectorised loop by
comparing each pair of pointers at run time, and gives up on vectorising above a handful of pointers. Word and
operand number must be literal integers.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.errors import TypingError
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin

DTYPES: dict[str, types.Type] = {
    "bool": types.boolean,
    **{
        f"{kind}{bits}": getattr(types, f"{kind}{bits}")
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
    "float32": types.float32,
    "float64": types.float64,
}


class Pointer(types.Type):
    """The Numba type of an operand: element type, operand number (its alias scope), and whether it may be
    written."""

    def __init__(self, dtype: types.Type, operand: int, writable: bool) -> None:
        self.dtype = dtype
        self.operand = operand
        self.writable = writable
        super().__init__(name=f"Pointer({dtype}, {operand}, {'out' if writable else 'in'})")


@register_default(Pointer)
class _PointerModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Pointer) -> None:
        super().__init__(dmm, fe_type, _memory_type(fe_type.dtype).as_pointer())


def _memory_type(dtype: types.Type) -> ir.Type:
    """The LLVM type of one element in memory: a bool takes a byte there, though it is one bit in a
    register."""
    if isinstance(dtype, types.Boolean):
        return ir.IntType(8)
    if isinstance(dtype, types.Integer):
        return ir.IntType(int(dtype.bitwidth))  # type: ignore[attr-defined]
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


# -- p[i] --------------------------------------------------------------------------------------------------


@infer_global(operator.getitem)
class _TypeLoad(AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        if len(args) == 2 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            return signature(args[0].dtype, args[0], types.int64)
        return None


@infer_global(operator.setitem)
class _TypeStore(AbstractTemplate):
    def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        if len(args) == 3 and isinstance(args[0], Pointer) and isinstance(args[1], types.Integer):
            if not args[0].writable:
                raise TypingError(f"operand {args[0].operand} is an input: declare it with _out to write it")
            return signature(types.none, args[0], types.int64, args[0].dtype)
        return None


@lower_builtin(operator.getitem, Pointer, types.Integer)
def _lower_load(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    value = builder.load(builder.gep(args[0], [args[1]], inbounds=True))
    _tag_alias_scope(builder.module, value, sig.args[0].operand)
    if isinstance(sig.return_type, types.Boolean):
        return builder.icmp_unsigned("!=", value, value.type(0))
    return value


@lower_builtin(operator.setitem, Pointer, types.Integer, types.Any)
def _lower_store(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    address = builder.gep(args[0], [args[1]], inbounds=True)
    value = args[2]
    if isinstance(sig.args[0].dtype, types.Boolean):
        value = builder.zext(value, ir.IntType(8))
    _tag_alias_scope(builder.module, builder.store(value, address), sig.args[0].operand)
    return context.get_dummy_value()


def _tag_alias_scope(module: Any, access: Any, operand: int) -> None:
    """Say that this load or store touches ``operand`` and no other one.

    LLVM holds two accesses apart if either's scope is in the other's ``noalias`` list, so listing the smaller
    numbers is enough, and the list needs no knowledge of the operands still to come.
    """
    domain = module.add_metadata(["hybridml"])
    scopes = [module.add_metadata([f"operand {k}", domain]) for k in range(operand + 1)]
    access.set_metadata("alias.scope", module.add_metadata([scopes[operand]]))
    if operand:
        access.set_metadata("noalias", module.add_metadata(scopes[:operand]))


# -- reading a word of the argument block ------------------------------------------------------------------


def _literal(value: types.Type, what: str) -> int:
    if not isinstance(value, types.IntegerLiteral) or value.literal_value < 0:
        raise TypingError(f"the {what} must be a literal integer >= 0, not {value}")
    return int(value.literal_value)


def _make_pointer_reader(dtype: types.Type, writable: bool) -> Any:
    @intrinsic(prefer_literal=True)
    def read_pointer(typingctx: Any, args: Any, word: Any, operand: Any) -> Any:
        index = _literal(word, "word")
        result = Pointer(dtype, _literal(operand, "operand number"), writable)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            address = builder.load(builder.gep(values[0], [ir.IntType(32)(index)], inbounds=True))
            return builder.inttoptr(address, context.get_value_type(sig.return_type))

        return result(args, word, operand), codegen

    return read_pointer


def _make_scalar_reader(dtype: types.Type) -> Any:
    @intrinsic(prefer_literal=True)
    def read_scalar(typingctx: Any, args: Any, word: Any) -> Any:
        index = _literal(word, "word")

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            address = builder.gep(values[0], [ir.IntType(32)(index)], inbounds=True)
            memory_type = _memory_type(dtype)
            value = builder.load(builder.bitcast(address, memory_type.as_pointer()))
            if isinstance(dtype, types.Boolean):
                return builder.icmp_unsigned("!=", value, memory_type(0))
            return value

        return dtype(args, word), codegen

    return read_scalar


for _name, _dtype in DTYPES.items():
    globals()[f"{_name}_in"] = _make_pointer_reader(_dtype, writable=False)
    globals()[f"{_name}_out"] = _make_pointer_reader(_dtype, writable=True)
    globals()[f"{_name}_scalar"] = _make_scalar_reader(_dtype)

size = globals()["int64_scalar"]
"""``size(args, word)``: an extent, a stride or a count, as int64."""
