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

from hybridml.kernels import jit, llvm
from hybridml.kernels.driver import scalar_word
from hybridml.kernels.translate import translate

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
    unique = hashlib.sha256(text.encode()).hexdigest()[:16]
    symbol = f"written_{unique}"
    if by == "numba":
        from hybridml.kernels import numba_compiler

        symbol, code, _ = numba_compiler.compile_object(text, "written", jit.KERNEL, "written.py", unique)
    else:
        code = llvm.compile_module(translate(text, "written", jit.KERNEL, symbol, "written.py").text)
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
