"""Numba, held to what a kernel needs: Python source to native object code.

Only `jit` imports this module, and only when a kernel is in no cache: importing Numba takes a quarter of a second.
"""

from __future__ import annotations

import linecache
from typing import Any

from numba.core import compiler, types
from numba.core.ccallback import CFunc
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode


class KernelPipeline(compiler.CompilerBase):
    """Numba's passes without those for closures, comprehensions, objects and array expressions: kernels have none."""

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("kernel")
        for compiler_pass in (
            TranslateByteCode,
            FixupArgs,
            IRProcessing,
            ReconstructSSA,
            NopythonTypeInference,
            PreLowerStripPhis,
            IRLegalization,
            NativeLowering,
            NoPythonBackend,
        ):
            manager.add_pass(compiler_pass, compiler_pass.__name__)
        manager.finalize()
        return [manager]


def compile_object(source: str, name: str, signature: str, path: str, unique: str) -> tuple[str, bytes, set[str]]:
    """Compile the function ``name`` of ``source``.

    Args:
        signature: evaluated with the names of `numba.types`.
        path: shown in errors as the place of the source; the file need not exist.
        unique: makes the symbols of this kernel differ from those of all others.

    Returns:
        The entry symbol, the object code, and the external functions the LLVM module declares.
    """
    # Numba quotes source lines in its errors through linecache, which cannot read a file that is not written yet.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    namespace: dict[str, Any] = {"__name__": f"{name}_{unique}"}
    try:
        exec(compile(source, path, "exec"), namespace)
        function = namespace[name]
        function.__name__ = function.__qualname__ = f"{name}_{unique}"
        parsed = eval(signature, {"__builtins__": {}, **vars(types)})
        options = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}
        native = CFunc(function, (parsed.args, parsed.return_type), {}, options, pipeline_class=KernelPipeline)
        native.compile()
    finally:
        linecache.cache.pop(path, None)
    library = native._library
    declared = {f.name for f in library._final_module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    return native.native_name, library._get_compiled_object(), declared
