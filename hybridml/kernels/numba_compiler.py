"""Numba, held to what a kernel needs: Python source to native object code.

Only `compiler` imports this module, and only for a kernel that the translator does not take: importing Numba takes a quarter of a
second.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import linecache
import os
import sys
from typing import Any

from llvmlite import ir
from numba.core import compiler, types
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import FixupArgs, IRProcessing, ReconstructSSA, TranslateByteCode

from hybridml.kernels import numba_language  # noqa: F401  # importing it teaches Numba the kernel language


class KernelPipeline(compiler.CompilerBase):
    """Numba's passes without those for closures, comprehensions, objects and array expressions, which kernels lack.

    A function compiled by it is only ever inlined into a kernel: it is neither optimised on its own nor given an address.
    """

    library_class: type[CPUCodeLibrary]

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, self.library_class(targetctx.codegen(), "kernel"), *rest)
        self.state.typingctx = _RememberingTypes(self.state.typingctx)

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


class _CodegenWithoutEngine:
    """Numba's code generator, but nothing is written to addresses in its engine: unloaded code has none."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        pass


class _UnloadedLibrary(CPUCodeLibrary):
    """Code that is not loaded into Numba's engine, and so has no addresses."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # Numba's word for "not callable from Python"

    @property
    def codegen(self) -> Any:
        return _CodegenWithoutEngine(self._codegen)


class _InlinedLibrary(_UnloadedLibrary):
    """LLVM code as lowered: the kernel that it is inlined into is optimised as a whole."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass


class _ObjectLibrary(_UnloadedLibrary):
    """The code of a kernel, optimised and emitted as object code."""

    def emit_object(self) -> bytes:
        self._ensure_finalized()
        code: bytes = self._codegen._tm.emit_object(self._final_module)
        return code

    def declared_functions(self) -> set[str]:
        functions = self._final_module.functions
        return {f.name for f in functions if f.is_declaration and not f.name.startswith("llvm.")}


KernelPipeline.library_class = _InlinedLibrary


class _ObjectPipeline(KernelPipeline):
    """The pipeline of a kernel itself. Numba's engine is kept out of it: it ends the process where a symbol cannot be found."""

    library_class = _ObjectLibrary


class _RememberingTypes:
    """A typing context that finds the type of an operator on numbers once.

    Numba tries some dozens of templates for each ``+`` it meets, a third of a millisecond each time, and
    kernels are little else.
    """

    _known: dict[tuple[int, tuple[types.Type, ...]], tuple[Any, Any]] = {}  # noqa: RUF012  # shared on purpose

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def resolve_function_type(self, function: Any, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
        if (
            kws
            or not _is_operator(function)
            or not all(isinstance(a, (types.Number, types.Boolean)) for a in args)
        ):
            return self._context.resolve_function_type(function, args, kws)
        key = id(function), args
        if key not in self._known:
            # Holding the function keeps its id from being given to another one.
            self._known[key] = function, self._context.resolve_function_type(function, args, kws)
        return self._known[key][1]


def _is_operator(function: Any) -> bool:
    return isinstance(function, types.Function) or getattr(function, "__module__", "") == "_operator"


def _load_blas_alone() -> None:
    """Spare Numba's first compilation the import of all of scipy.linalg, a tenth of a second.

    Numba asks for the one extension module scipy.linalg.cython_blas (numba/np/arraymath.py), and Python imports a package before
    its modules unless the module is there already. Where that fails, Numba imports the package as ever.
    """
    name = "scipy.linalg.cython_blas"
    if name in sys.modules:
        return
    try:
        package = importlib.util.find_spec("scipy")
        folders = [
            os.path.join(p, "linalg") for p in (package.submodule_search_locations if package else None) or []
        ]
        found = importlib.machinery.PathFinder.find_spec(name, folders)
        if found is None or found.loader is None:
            return
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        sys.modules[name] = module
    except ImportError:
        return


_load_blas_alone()


@global_compiler_lock
def compile_object(
    source: str, name: str, signature: str, path: str, unique: str
) -> tuple[str, bytes, set[str]]:
    """Compile the function ``name`` of ``source``.

    Args:
        signature: evaluated with the names of `numba.types`.
        path: shown in errors as the place of the source; the file need not exist.
        unique: makes the symbols of this kernel differ from those of all others.

    Returns:
        The entry symbol, the object code, and the external functions the LLVM module declares.
    """
    # Numba quotes source lines in its errors through linecache, which cannot read a file that is not written
    # yet.
    linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
    namespace: dict[str, Any] = {"__name__": f"{name}_{unique}"}
    try:
        exec(compile(source, path, "exec"), namespace)
        function = namespace[name]
        function.__name__ = function.__qualname__ = f"{name}_{unique}"
        parsed = eval(signature, {"__builtins__": {}, **vars(types)})
        flags: Any = compiler.Flags()
        flags.error_model = "numpy"
        # The library is finished below, and nothing but the C function added there is called from outside.
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        result = compiler.compile_extra(
            cpu_target.typing_context,
            cpu_target.target_context,
            function,
            parsed.args,
            parsed.return_type,
            flags,
            {},
            pipeline_class=_ObjectPipeline,
        )
    finally:
        linecache.cache.pop(path, None)
    library: _ObjectLibrary = result.library
    symbol = f"{name}_{unique}"
    library.add_ir_module(_c_function(symbol, result.fndesc))
    return symbol, library.emit_object(), library.declared_functions()


def _c_function(symbol: str, compiled: Any) -> ir.Module:
    """A module with the C function ``symbol`` around a function in Numba's calling convention.

    Numba's own wrapper asks whether an exception was raised and reports it through the interpreter; kernels
    raise none, and object code that mentions the interpreter's functions would not be self-contained.
    """
    context = cpu_target.target_context
    module: ir.Module = context.create_module(symbol)
    convention = context.call_conv
    inner = ir.Function(
        module, convention.get_function_type(compiled.restype, compiled.argtypes), compiled.llvm_func_name
    )
    returns = compiled.restype != types.none
    result = context.get_value_type(compiled.restype) if returns else ir.VoidType()
    outer = ir.Function(
        module, ir.FunctionType(result, [context.get_value_type(t) for t in compiled.argtypes]), symbol
    )
    builder = ir.IRBuilder(outer.append_basic_block())
    _, value = convention.call_function(builder, inner, compiled.restype, compiled.argtypes, outer.args)
    if returns:
        builder.ret(value)
    else:
        builder.ret_void()
    return module
