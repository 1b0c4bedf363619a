"""Kernels written by hand, for tests: one expression for every element, compiled by either compiler.

>>> apply("x0 * x0 + x1", np.float32([1, 2, 3]), np.float32([0, 1, 0])).tolist()
[1.0, 5.0, 9.0]
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from llvmlite import ir

from hybridml.kernels import jit, llvm
from hybridml.kernels.driver import scalar_word
from hybridml.kernels.gemm_tile import TILE_ROWS, VECTOR_BYTES, Emitter, call_on_tile
from hybridml.kernels.language import types
from hybridml.kernels.language.functions import intrinsic
from hybridml.kernels.translate import translate
from hybridml.kernels.vectors import TILE_VECTORS

Array = np.ndarray[Any, Any]
By = Literal["translator", "numba"]


def elementwise(expression: str, inputs: Sequence[Any], output: Any, scalars: Sequence[Any] = ()) -> str:
    """The text of a kernel: `expression` over x0, x1... (elements), c0, c1... (scalars), i, and `m`, the scalar functions."""
    dtypes = [np.dtype(d).name for d in (*inputs, output)]
    lines = [
        *[f"    p{k} = {name}_in(args, {k}, {k})" for k, name in enumerate(dtypes[:-1])],
        f"    o0 = {dtypes[-1]}_out(args, {len(inputs)}, {len(inputs)})",
        *[f"    c{k} = {np.dtype(d).name}_scalar(args, {len(dtypes) + k})" for k, d in enumerate(scalars)],
        "    for i in range(begin, end):",
        *[f"        x{k} = p{k}[i]" for k in range(len(inputs))],
        f"        o0[i] = {expression}",
    ]
    return (
        "from hybridml.kernels.pointer import *\nfrom hybridml.kernels.targets import scalar_functions\n\n"
        'm = scalar_functions("cpu")\n\n\ndef written(args, begin, end):\n' + "\n".join(lines) + "\n"
    )


@functools.cache
def address(text: str, by: By = "translator") -> int:
    """Where the code of a text's function `written` lies, compiled by the translator or by Numba and by nobody else."""
    if by == "translator":
        return _compiled(text, jit.KERNEL)
    from hybridml.kernels import numba_compiler

    unique = hashlib.sha256(text.encode()).hexdigest()[:16]
    symbol, code, _ = numba_compiler.compile_object(text, "written", jit.KERNEL, "written.py", unique)
    return llvm.link(symbol, (), code) or 0


def run(
    text: str, arrays: Sequence[Array], scalars: Sequence[tuple[Any, Any]] = (), by: By = "translator"
) -> None:
    """Call a text's kernel on arrays, the last of which it fills, and (value, dtype) scalars."""
    words = [*[a.ctypes.data for a in arrays], *[scalar_word(x, d) for x, d in scalars]]
    block = np.array([w - 2**64 if w >= 2**63 else w for w in words], np.int64)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address(text, by))
    call(block.ctypes.data, 0, arrays[-1].size)


def apply(expression: str, *arrays: Array, out: Any = None, by: By = "translator") -> Array:
    """`expression` for every element of these arrays, as an array of dtype `out` (default: the first one's)."""
    result = np.empty(arrays[0].shape, arrays[0].dtype if out is None else out)
    run(elementwise(expression, [a.dtype for a in arrays], result.dtype), [*arrays, result], by=by)
    return result


def assembly(expression: str, inputs: Sequence[Any], output: Any) -> str:
    """Machine code of the loop over an expression."""
    return assembly_of(elementwise(expression, inputs, output), "written")


def assembly_of(source: str, name: str, cpu: str | None = None) -> str:
    """Machine code of a kernel's source, for this processor or for another one of its kind, by LLVM's name."""
    text = translate(source, name, jit.KERNEL, name, f"{name}.py").text
    return str(llvm.machine(cpu).emit_assembly(llvm.optimised(text, cpu=cpu)))


def in_tile(
    text: str, tile: Array, words: Sequence[int], *, row: int = 0, column: int = 0, sums: int = 0
) -> None:
    """Call a text's function `written`, which takes register tiles (`kernels.emit_tile`), on the numbers of `tile`, a matrix that fits
    into one; `words` are its argument block. Whatever of the registers is beyond the matrix holds NaN."""
    width = VECTOR_BYTES // tile.itemsize
    rows, columns = tile.shape
    registers = np.full((TILE_ROWS, TILE_VECTORS * width), np.nan, tile.dtype)
    registers[:rows, :columns] = tile
    block = np.array(words, np.int64)
    kind = f"Tile(lanes({tile.dtype.name}, {width}), {TILE_ROWS}, {sums})"
    given = [_compiled(text, kind), block.ctypes.data, row, rows, column, columns, registers.ctypes.data]
    outer = np.array(given, np.int64)
    caller = _compiled(_WITH_TILE.replace("float32", tile.dtype.name), jit.KERNEL)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(caller)(outer.ctypes.data, 0, 1)


@functools.cache
def _compiled(text: str, kind: str) -> int:
    """Where the code of a text's function `written` lies."""
    symbol = f"written_{hashlib.sha256((kind + text).encode()).hexdigest()[:16]}"
    translated = translate(text, "written", kind, symbol, "written.py")
    return llvm.link(symbol, (), llvm.compile_module(translated.text, translated.loops)) or 0


_WITH_TILE = """
from hybridml.testing.kernels import float32_with_tile

def written(args, begin, end):
    float32_with_tile(args[0], args[1], args[2], args[3], args[4], args[5], args[6])
"""


def _with_tile(element: ir.Type) -> Any:
    @intrinsic
    def with_tile(
        context: Any, function: Any, block: Any, row: Any, rows: Any, column: Any, columns: Any, of: Any
    ) -> Any:
        """Call what takes a register tile with the numbers that lie at an address."""

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            function, *numbers, of = values
            emit = Emitter(builder, element)
            vectors = [
                emit.load(builder.add(of, ir.IntType(64)(k * VECTOR_BYTES)), None)
                for k in range(TILE_ROWS * TILE_VECTORS)
            ]
            call_on_tile(builder, function, numbers, vectors)

        return types.none(*[types.int64] * 7), codegen

    return with_tile


float32_with_tile = _with_tile(ir.FloatType())
float64_with_tile = _with_tile(ir.DoubleType())
