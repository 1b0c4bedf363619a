"""Storing past the caches, for printed kernels; `streaming` says which."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.kernels.gemm_tile import VECTOR_BYTES
from hybridml.kernels.language import types
from hybridml.kernels.language.build import get_or_insert_function
from hybridml.kernels.language.functions import device, intrinsic
from hybridml.kernels.language.types import Pointer
from hybridml.kernels.native import copy_bytes

LINE = 64  # bytes: what is written in part waits in a buffer for its other part

_I32, _I64 = ir.IntType(32), ir.IntType(64)


@intrinsic
def address_of(typingctx, pointer, index):  # type: ignore[no-untyped-def]
    """Where an element of an operand lies."""
    if not isinstance(pointer, Pointer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return builder.ptrtoint(builder.gep(values[0], [values[1]], inbounds=False), _I64)

    return types.int64(pointer, types.int64), codegen


@intrinsic
def vector_past_caches(typingctx, to, of):  # type: ignore[no-untyped-def]
    """Move one vector to an aligned address."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        vector = ir.VectorType(_I32, VECTOR_BYTES // 4).as_pointer()
        to, of = [builder.inttoptr(address, vector) for address in values]
        stored = builder.store(builder.load(of, align=1), to, align=VECTOR_BYTES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def stream_end(typingctx):  # type: ignore[no-untyped-def]
    """Such stores are in no order with others before this: then other threads may read what was stored."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def line_ahead(typingctx, address):  # type: ignore[no-untyped-def]
    """Fetch the line at an address, which need not be a valid one, into the second-level cache."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, _I32(0), _I32(2), _I32(1)])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@device
def ahead(of, begin, count):
    """Fetch the lines of some elements, which need not be there."""
    at, end = address_of(of, begin), address_of(of, begin + count)
    while at < end:
        line_ahead(at)
        at += LINE


@device
def stream(to, begin, near, count):
    """Move elements from the beginning of `near` to those of `to` from `begin` on."""
    target, source = address_of(to, begin), address_of(near, 0)
    nbytes = address_of(near, count) - source
    at = min((LINE - target % LINE) % LINE, nbytes)
    if at > 0:
        copy_bytes(target, source, at)
    while at + VECTOR_BYTES <= nbytes:
        vector_past_caches(target + at, source + at)
        at += VECTOR_BYTES
    if at < nbytes:
        copy_bytes(target + at, source + at, nbytes - at)
