"""KernelSpec to the text of an epilogue or a prologue: the same statements as `emit` prints, over a block of a matrix product's result,
or for a block of its operand.

Bias and ReLU, for example, are

    def add_maximum(args, at, block_row, begin, end, first, last):
        x0 = float32_at(at, 0)
        x1 = float32_in(args, 0, 1)
        o0 = float32_out(args, 1, 2)
        ...
        for i in range(begin, end):
            for j in range(first, last):
                v0 = x0[(i - begin) * block_row + j - first]
                v1 = x1[j]
                ...

`at` is the address of the block, which a prologue writes (`o0 = float32_to(at, 0)`). Sums down the columns begin with the first row and
are finished with the last; one thread does all rows of a column, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hybridml.kernels.emit import finished, read_arguments, statements
from hybridml.kernels.spec import KernelSpec, Loop, Mode, Statement
from hybridml.kernels.text import Lines

Way = tuple[Callable[[KernelSpec], tuple[str, str]], str]
"""How a kernel that a product calls is made: what prints it, and its signature."""


def emit_block(spec: KernelSpec) -> tuple[str, str]:
    """(name, source) of a kernel whose first operand is the block; equal structures give equal text."""
    block = spec.operands[0]
    out = Lines()
    out.depth = 1
    out(f"{block.name} = {block.dtype.name}_{'to' if block.written else 'at'}(at, 0)")
    read_arguments(out, spec, given=1)
    if spec.mode is Mode.MAP:
        (rows,) = spec.parallel
        statements(out, [Loop(replace(rows, size="begin, end"), _along(spec.body))])
    else:
        _sums(out, spec.body)
    return finished(out, spec, "args, at, block_row, begin, end, first, last")


def _sums(out: Lines, body: list[Statement]) -> None:
    """The loop over the rows, what starts the sums before it, and what is done with them after it."""
    number = next(k for k, s in enumerate(body) if isinstance(s, Loop) and not s.split)
    rows = body[number]
    assert isinstance(rows, Loop)
    _where(out, "begin == 0", body[:number])
    statements(out, [replace(rows, axis=replace(rows.axis, size="begin, end"), body=_along(rows.body))])
    _where(out, f"end == {rows.axis.size}", body[number + 1 :])


def _where(out: Lines, condition: str, body: list[Statement]) -> None:
    if body:
        out.open(f"if {condition}:")
        statements(out, _along(body))
        out.close()


def _along(body: list[Statement]) -> list[Statement]:
    """The statements with the block's bounds in their loops over columns."""
    return [
        replace(s, axis=replace(s.axis, size="first, last"), split=False) if isinstance(s, Loop) else s
        for s in body
    ]


BLOCKS: Way = (emit_block, "void(CPointer(int64), int64, int64, int64, int64, int64, int64)")
"""Kernels over blocks; they take (argument block, address of the block, elements between its rows, first row, end, first column, end)."""
