"""KernelSpec to the text of an epilogue: the same statements as `emit` prints, over a rectangle of a matrix product's result.

Bias and ReLU, for example, are

    def add_maximum(args, at, tile_row, begin, end, first, last):
        x0 = float32_at(at, 0)
        x1 = float32_in(args, 0, 1)
        o0 = float32_out(args, 1, 2)
        ...
        if last - first == WIDE:
            for i in range(begin, end):
                for j in range(first, first + WIDE):
                    v0 = x0[(i - begin) * tile_row + j - first]
                    v1 = x1[j]
                    ...
        else:
            for i in range(begin, end):
                for j in range(first, last):

`at` is the address of the tile. Most tiles are of one width, which the compiler may know: their loops become straight vector code.
Sums down the columns begin with the first row and are finished with the last; one thread does all rows of a column, in order.
"""

from __future__ import annotations

from dataclasses import replace

from hybridml.kernels.emit import finished, read_arguments, statements
from hybridml.kernels.spec import KernelSpec, Loop, Mode, Statement
from hybridml.kernels.text import Lines


def emit_tile(spec: KernelSpec) -> tuple[str, str]:
    """(name, source) of an epilogue whose first operand is the tile; equal structures give equal text."""
    tile = spec.operands[0]
    out = Lines()
    out.depth = 1
    out(f"{tile.name} = {tile.dtype.name}_at(at, 0)")
    read_arguments(out, spec, given=1)
    out("if last - first == WIDE:")
    out.depth += 1
    _rectangle(out, spec, "first, first + WIDE")
    out.close()
    out.open("else:")
    _rectangle(out, spec, "first, last")
    out.close()
    name, source = finished(out, spec, "args, at, tile_row, begin, end, first, last")
    width = f"{tile.dtype.name}_width"
    return name, source.replace(
        "\n\n\ndef ", f"\nfrom hybridml.kernels.gemm_tile import {width}\n\nWIDE = 2 * {width}\n\n\ndef ", 1
    )


def _rectangle(out: Lines, spec: KernelSpec, columns: str) -> None:
    if spec.mode is Mode.MAP:
        (rows,) = spec.parallel
        statements(out, [Loop(replace(rows, size="begin, end"), _bounded(spec.body, columns))])
        return
    number = next(k for k, s in enumerate(spec.body) if isinstance(s, Loop) and not s.split)
    sums = spec.body[number]
    assert isinstance(sums, Loop)
    parts = ((spec.body[:number], "begin == 0"), (spec.body[number + 1 :], f"end == {sums.axis.size}"))
    for k, (body, when) in enumerate(parts):
        if body:
            out.open(f"if {when}:")
            statements(out, _bounded(body, columns))
            out.close()
        if k == 0:
            axis = replace(sums.axis, size="begin, end")
            statements(out, [replace(sums, axis=axis, body=_bounded(sums.body, columns))])


def _bounded(body: list[Statement], columns: str) -> list[Statement]:
    """The statements with these bounds in loops over the columns."""
    return [
        replace(s, axis=replace(s.axis, size=columns), split=False) if isinstance(s, Loop) else s
        for s in body
    ]
