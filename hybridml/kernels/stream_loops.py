"""Storing past the caches, for printed kernels; `streaming` says which."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from hybridml.buffers import LINE
from hybridml.kernels.gemm_tile import prefetch
from hybridml.kernels.language import types
from hybridml.kernels.language.functions import device, intrinsic
from hybridml.kernels.language.types import Pointer
from hybridml.kernels.native import copy_bytes
from hybridml.kernels.vectors import vectors

_I32, _I64 = ir.IntType(32), ir.IntType(64)
VECTOR_BYTES = vectors().bytes


@intrinsic
def address_of(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Where an element of an operand lies."""
    if not isinstance(pointer, Pointer):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return builder.ptrtoint(builder.gep(values[0], [values[1]], inbounds=False), _I64)

    return types.int64(pointer, types.int64), codegen


@intrinsic
def vector_past_caches(typingctx: Any, to: Any, of: Any) -> Any:
    """Move one vector to an aligned address."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        vector = ir.VectorType(_I32, VECTOR_BYTES // 4).as_pointer()
        to, of = [builder.inttoptr(address, vector) for address in values]
        stored = builder.store(builder.load(of, align=1), to, align=VECTOR_BYTES)
        stored.set_metadata("nontemporal", builder.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def stream_end(typingctx: Any) -> Any:
    """Such stores are in no order with others before this: then other threads may read what was stored."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def line_ahead(typingctx: Any, address: Any) -> Any:
    """Fetch the line at an address, which need not be a valid one, into the second-level cache."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        prefetch(builder, values[0], write=False, level=2)
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
