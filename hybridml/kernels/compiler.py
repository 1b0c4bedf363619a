"""Kernel text to object code: translated straight to LLVM code where the text keeps to the kernel language, else through Numba.

Only `jit` imports this module, and only when a kernel is in no cache. Importing Numba takes a quarter of a second and typing a small
kernel some 30 ms; translating it takes one or two. Numba's path compiles the same text by the same rules, takes whatever else Numba
knows, has the last word on errors, and is what the translator is tested against.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from hybridml import collection
from hybridml.kernels import llvm
from hybridml.kernels.translate import Unsupported, translate


@dataclass(frozen=True)
class Compiled:
    """Object code, its entry, the functions it leaves to others, who compiled it and the seconds before LLVM and in it.

    `by` is "translator" or "numba"; Numba's seconds are all counted as its own.
    """

    symbol: str
    code: bytes
    declared: set[str]
    by: str
    front_seconds: float
    llvm_seconds: float


def compile_object(source: str, name: str, signature: str, path: str, unique: str) -> Compiled:
    """Compile the function ``name`` of ``source``.

    Args:
        signature: with the names of `numba.types`.
        path: shown in errors as the place of the source; the file need not exist.
        unique: makes the symbols of this kernel differ from those of all others.
    """
    started = time.perf_counter()
    symbol = f"{name}_{unique}"
    with collection.held():
        try:
            translated = translate(source, name, signature, symbol, path)
        except Unsupported:
            from hybridml.kernels import numba_compiler

            symbol, code, declared = numba_compiler.compile_object(source, name, signature, path, unique)
            return Compiled(symbol, code, declared, "numba", time.perf_counter() - started, 0.0)
        middle = time.perf_counter()
        code, declared = llvm.compile_module(translated.text, translated.loops)
    return Compiled(symbol, code, declared, "translator", middle - started, time.perf_counter() - middle)
