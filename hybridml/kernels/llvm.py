"""LLVM: optimise a module, write its object code, link object code into this process.

This module is all that is needed of llvmlite's binding, and imports it only when it is first used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hybridml.kernels import elf


@functools.cache
def binding() -> Any:
    """llvmlite's binding, ready for this processor."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def machine(cpu: str | None = None) -> Any:
    """This processor, with all that it can do, for one thread; or another one of its kind, by LLVM's name, to read its code."""
    llvm = binding()
    triple = llvm.get_process_triple()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu or llvm.get_host_cpu_name(),
        features="" if cpu else llvm.get_host_cpu_features().flatten(),
        opt=3,
        # Object code is linked into a process where it lies; see https://reviews.llvm.org/D47211.
        reloc="static" if triple.startswith(("x86", "i686", "i386")) else "default",
        codemodel="jitdefault",
        jit=True,
    )


class Module:
    """A module as LLVM reads it, to be optimised and compiled once.

    llvmlite lets one thread at a time into the library. LLVM itself asks only that no two threads work in one context, or with one
    target machine (https://llvm.org/docs/ProgrammersManual.html#threading). A module has a context to itself, and a machine while it is
    compiled, and the two calls that take long go past llvmlite's lock: so several threads can each compile a module.

    `loops` says that they are to be vectorised and unrolled. Without, code that calls kernels or holds vector code as it is goes through a
    few passes instead: what is left of the third level takes LLVM four times as long, and saves a loop one step of its counter.
    """

    def __init__(self, text: str, loops: bool = True, cpu: str | None = None) -> None:
        self._text, self._loops, self._cpu = text, loops, cpu
        self.parsed: Any = None

    def optimise(self) -> None:
        """Leave the module as LLVM's third level of optimisation does, for this processor."""
        with _machine(self._cpu) as own:
            self._optimise(own)

    def compile(self) -> bytes:
        """Optimise it, and make its object code."""
        with _machine(self._cpu) as own:
            self._optimise(own)
            return _object_code(own, self.parsed)

    def _optimise(self, own: Any) -> None:
        self.close()  # an interrupt may have come in the middle of the last time
        self._parse()
        llvm = binding()
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = options.loop_interleaving = self._loops
        options.loop_unrolling = self._loops
        options.slp_vectorization = False
        builder = llvm.create_pass_builder(own, options)
        few = None if self._loops else _few(llvm.create_new_module_pass_manager())
        _long_calls().optimise(few or builder.getModulePassManager(), self.parsed, builder)

    def _parse(self) -> None:
        llvm = binding()
        context = llvm.create_context()
        self.parsed = llvm.parse_assembly(self._text, context)
        self._context = _contexts[id(context)] = context
        self.parsed.triple = llvm.get_process_triple()
        self.parsed.data_layout = _data_layout(self._cpu)
        self.parsed.verify()

    def declared(self) -> set[str]:
        """The functions that it leaves to others."""
        return {f.name for f in self.parsed.functions if f.is_declaration and not f.name.startswith("llvm.")}

    def close(self) -> None:
        """Free what LLVM keeps of it."""
        if self.parsed is not None:
            self.parsed.close()
            self._context.close()
            _contexts.pop(id(self._context), None)
            self.parsed = None


# Kept until their module is closed: the collector would free the two in any order.
_contexts: dict[int, Any] = {}


@functools.cache
def _data_layout(cpu: str | None) -> str:
    return str(machine(cpu).target_data)


_idle: dict[str | None, list[Any]] = {}


@contextlib.contextmanager
def _machine(cpu: str | None) -> Iterator[Any]:
    """A target machine for this thread alone. They are used again: there are as many as threads at a time, and each takes half a MiB."""
    idle = _idle.setdefault(cpu, [])
    try:
        own = idle.pop()
    except IndexError:
        own = machine(cpu)
    yield own
    idle.append(own)  # not after an error: it is in an unknown state


def _object_code(own: Any, parsed: Any) -> bytes:
    calls = _long_calls()
    error = ctypes.c_char_p()
    buffer = calls.emit(own, parsed, 1, ctypes.byref(error))
    if not buffer:
        raise RuntimeError(f"LLVM makes no object code: {(error.value or b'').decode()}")
    try:
        return ctypes.string_at(calls.start(buffer), calls.size(buffer))
    finally:
        calls.dispose(buffer)


@dataclass(frozen=True)
class _Calls:
    """Functions of llvmlite's library: the long ones give up the interpreter's lock, the others do not."""

    optimise: Any
    emit: Any
    start: Any
    size: Any
    dispose: Any


@functools.cache
def _long_calls() -> _Calls:
    lib = binding().ffi.lib
    free, holding = ctypes.CDLL(lib._name), ctypes.PyDLL(lib._name)

    def same(library: ctypes.CDLL, name: str) -> Any:
        known, function = getattr(lib, name), getattr(library, name)
        function.argtypes, function.restype = known.argtypes, known.restype
        return function

    return _Calls(
        same(free, "LLVMPY_RunNewModulePassManager"),
        same(free, "LLVMPY_TargetMachineEmitToMemory"),
        same(holding, "LLVMPY_GetBufferStart"),
        same(holding, "LLVMPY_GetBufferSize"),
        same(holding, "LLVMPY_DisposeMemoryBuffer"),
    )


def _few(passes: Any) -> Any:
    """What asks for it inlined, values into registers, loops tested at their end, arithmetic and branches in their simplest form.

    None where llvmlite (before 0.45) has no such passes one by one.
    """
    if not hasattr(passes, "add_sroa_pass"):
        return None
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_sccp_pass()
    passes.add_jump_threading_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    return passes


def optimised(text: str, cpu: str | None = None) -> Any:
    """A module as the third level of optimisation leaves it, for this processor or for `cpu`: to read."""
    module = Module(text, cpu=cpu)
    module.optimise()
    return module.parsed


def compile_module(text: str, loops: bool = True) -> bytes:
    """The object code of a module."""
    module = Module(text, loops)
    try:
        return module.compile()
    finally:
        module.close()


# Engines own the code of their kernels. One for each kernel, so that symbols never meet; kept for ever, also past the interpreter's
# own end, because a thread of the pool may still be inside.
_engines: list[Any] = []


def link(symbol: str, needs: Iterable[str], code: bytes) -> int | None:
    """The address of a symbol of object code, or None if this process lacks a library function that the object calls."""
    return elf.link(symbol, code) or link_by_engine(symbol, needs, code)


def link_by_engine(symbol: str, needs: Iterable[str], code: bytes) -> int | None:
    """`link` by LLVM's own linker."""
    llvm = binding()
    target = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True)
    empty = llvm.parse_assembly("")
    engine = llvm.create_mcjit_compiler(empty, target)
    engine.remove_module(empty)  # else it would be compiled, which takes longer than linking
    # MCJIT ends the process when a symbol is missing, so ask first. Only an engine's creation opens the process's symbols.
    if any(llvm.address_of_symbol(needed) is None for needed in needs):
        return None
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    address: int = engine.get_function_address(symbol)
    if not address:
        return None
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))
    _engines.append(engine)
    return address


def undefined_symbols(code: bytes) -> set[str] | None:
    """The symbols an ELF object leaves to the linker; None for another format."""
    if code[:6] != b"\x7fELF\x02\x01":
        return None
    sections = {}
    for section in binding().ObjectFileRef.from_data(code).sections():
        title = section.name()  # bytes or str, by llvmlite's version
        sections[title if isinstance(title, bytes) else str(title).encode()] = section.data()
    names, undefined = sections[b".strtab"], set()
    for name, _info, _other, section, _value, _size in struct.iter_unpack("<IBBHQQ", sections[b".symtab"]):
        if section == 0 and name:
            undefined.add(names[name : names.index(b"\0", name)].decode())
    return undefined
