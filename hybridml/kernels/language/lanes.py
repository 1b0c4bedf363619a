"""Vectors in LLVM code: the same number in every lane, the first lanes alone, loads and stores of some lanes."""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

from hybridml.kernels.language import build

_I64, _I32 = ir.IntType(64), ir.IntType(32)


@functools.cache
def places(*numbers: int) -> ir.Constant:
    """For a shuffle: which lane of its two vectors each lane of the result is."""
    return ir.Constant(ir.VectorType(_I32, len(numbers)), list(numbers))


def number(t: ir.Type, x: Any) -> ir.Constant:
    """A number, in every lane if the type is a vector."""
    if isinstance(t, ir.VectorType):
        return ir.Constant(t, [ir.Constant(t.element, x)] * t.count)
    return ir.Constant(t, x)


def splat(builder: Any, value: Any, count: int) -> Any:
    """A number that is known at run time, in each of `count` lanes."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    single = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_I32, count), None))


@functools.cache
def numbered(count: int) -> ir.Constant:
    """0, 1, 2, ... as int64."""
    return ir.Constant(ir.VectorType(_I64, count), list(range(count)))


def first(builder: Any, count: Any, lanes: int) -> Any:
    """The mask of the lanes below `count`, an int64 of any size."""
    return builder.icmp_signed("<", numbered(lanes), splat(builder, count, lanes))


def load(builder: Any, pointer: Any, align: int, mask: Any | None) -> Any:
    """The instruction that loads a vector, zeros where the mask is false."""
    vector = pointer.type.pointee
    if mask is None:
        return builder.load(pointer, align=align)
    function = _masked(builder, "load", vector, vector, [pointer.type, _I32, mask.type, vector])
    return builder.call(function, [pointer, _I32(align), mask, ir.Constant(vector, None)])


def store(builder: Any, value: Any, pointer: Any, align: int, mask: Any | None) -> Any:
    """The instruction that stores the lanes where the mask is true."""
    if mask is None:
        return builder.store(value, pointer, align=align)
    function = _masked(
        builder, "store", value.type, ir.VoidType(), [value.type, pointer.type, _I32, mask.type]
    )
    return builder.call(function, [value, pointer, _I32(align), mask])


def _masked(builder: Any, what: str, vector: Any, result: ir.Type, parameters: list[ir.Type]) -> Any:
    name = f"llvm.masked.{what}.v{vector.count}{vector.element.intrinsic_name}.p0"
    return build.get_or_insert_function(builder.module, ir.FunctionType(result, parameters), name)


def intrinsic(builder: Any, name: str, kind: ir.Type, count: int) -> Any:
    """The LLVM function `llvm.<name>` from `count` numbers of one type, or vectors of them, to another one."""
    if isinstance(kind, ir.VectorType):
        suffix = f"v{kind.count}{kind.element.intrinsic_name}"
    else:
        suffix = kind.intrinsic_name
    shape = ir.FunctionType(kind, [kind] * count)
    return build.get_or_insert_function(builder.module, shape, f"llvm.{name}.{suffix}")
