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
from hybridml.kernels.jobs import Job
from hybridml.kernels.translate import Translated, Unsupported, translate


@dataclass(frozen=True)
class Code:
    """Object code, the functions that it leaves to others, and the seconds that LLVM took for it."""

    code: bytes
    needs: set[str]
    llvm_seconds: float = 0.0


@dataclass(frozen=True)
class Compiled:
    """A kernel on its way through LLVM: its entry, who compiles it, the seconds before LLVM, and where its code can be waited for.

    `by` is "translator" or "numba"; Numba's seconds are all counted as its own, and its code is there at once.
    """

    symbol: str
    by: str
    front_seconds: float
    coming: Job[Code] | Code

    def code(self) -> Code:
        return self.coming if isinstance(self.coming, Code) else self.coming.result()


def compile_object(source: str, name: str, signature: str, path: str, unique: str) -> Compiled:
    """Begin to compile the function ``name`` of ``source``.

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
            if signature.startswith(("Tile", "Panel")):
                raise  # Numba has no vectors: `emit_tile` prints nothing that is not translated
            from hybridml.kernels import numba_compiler

            symbol, code, declared = numba_compiler.compile_object(source, name, signature, path, unique)
            return Compiled(symbol, "numba", time.perf_counter() - started, Code(code, declared))
    front_seconds = time.perf_counter() - started
    return Compiled(symbol, "translator", front_seconds, Job(lambda: _by_llvm(translated)))


def _by_llvm(translated: Translated) -> Code:
    started = time.perf_counter()
    module = llvm.Module(translated.text, translated.loops)
    try:
        code = module.compile()
        needs = llvm.undefined_symbols(code)
        return Code(code, module.declared() if needs is None else needs, time.perf_counter() - started)
    finally:
        module.close()
