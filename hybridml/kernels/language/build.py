"""A few shapes of LLVM code that emitters write again and again, by the names they have in Numba's `cgutils`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from hybridml.kernels.writer import Block, Builder, Function, Module


def alloca_once(builder: Any, llvm_type: ir.Type) -> Any:
    """A place on the stack, made at the function's entry: LLVM keeps it in a register if it can."""
    with builder.goto_entry_block():
        return builder.alloca(llvm_type)


def space(builder: Any, nbytes: int, align: int) -> Any:
    """Bytes on the stack."""
    with builder.goto_entry_block():
        found = builder.alloca(ir.IntType(8), size=ir.IntType(64)(nbytes))
        found.align = align
    return found


def is_not_null(builder: Any, value: Any) -> Any:
    return builder.icmp_unsigned("!=", value, value.type(0))


def function(module: Any, shape: ir.FunctionType, name: str) -> Any:
    """A new function of our own module, or of Numba's."""
    return (Function if isinstance(module, Module) else ir.Function)(module, shape, name)


def builder_at(block: Any) -> Any:
    """A builder at the end of a block, of our own or of Numba's."""
    return (Builder if isinstance(block, Block) else ir.IRBuilder)(block)


def get_or_insert_function(module: Any, function_type: Any, name: str) -> Any:
    found = module.globals.get(name)
    return function(module, function_type, name) if found is None else found


def meeting(builder: Any, ends: Sequence[tuple[Any, Sequence[Any]]]) -> list[Any]:
    """The values that come out of one of several blocks; as many as those of the last one."""
    found = [builder.phi(x.type) for x in ends[-1][1]]
    for block, values in ends:
        for phi, x in zip(found, values, strict=False):
            phi.add_incoming(x, block)
    return found


LOOP_BLOCKS = 4  # that `for_range` makes


@dataclass
class Loop:
    index: Any
    do_break: Any  # the block after the loop
    do_continue: Any  # the block that steps on


@contextlib.contextmanager
def for_range(builder: Any, count: Any, start: Any = None, step: Any = 1, intp: Any = None) -> Iterator[Loop]:
    """A loop from `start` (0) to `count`, downwards if `step` is negative; the builder is inside it, and after it in the end.

    `step` is a number or an LLVM value; one that turns out to be 0 ends the loop at once.
    """
    integer = intp or count.type
    before = builder.block
    header, body, latch, after = [builder.append_basic_block(name) for name in ("for", "body", "next", "end")]
    builder.branch(header)
    builder.position_at_end(header)
    index = builder.phi(integer)
    index.add_incoming(integer(0) if start is None else start, before)
    builder.cbranch(_goes_on(builder, index, count, step), body, after)
    builder.position_at_end(body)
    yield Loop(index, after, latch)
    if not builder.block.is_terminated:
        builder.branch(latch)
    builder.position_at_end(latch)
    by = integer(step) if isinstance(step, int) else step
    index.add_incoming(builder.add(index, by, flags=("nsw",)), latch)
    builder.branch(header)
    builder.position_at_end(after)


def interleave(loop: Loop, vectors: int) -> None:
    """Tell LLVM how many vectors a turn of a loop takes, if it vectorises it.

    See https://llvm.org/docs/LangRef.html#llvm-loop-interleave-count-metadata; a loop's own node refers to itself.
    """
    module = loop.do_continue.module
    count = module.add_metadata(["llvm.loop.interleave.count", ir.IntType(32)(vectors)])
    loop.do_continue.terminator.set_metadata("llvm.loop", module.add_own_metadata([count]))


def _goes_on(builder: Any, index: Any, count: Any, step: Any) -> Any:
    if isinstance(step, int):
        return builder.icmp_signed("<" if step > 0 else ">", index, count)
    up = builder.and_(builder.icmp_signed(">", step, step.type(0)), builder.icmp_signed("<", index, count))
    down = builder.and_(builder.icmp_signed("<", step, step.type(0)), builder.icmp_signed(">", index, count))
    return builder.or_(up, down)
