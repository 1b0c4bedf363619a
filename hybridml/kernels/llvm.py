"""LLVM: optimise a module, write its object code, link object code into this process.

This module is all that is needed of llvmlite's binding, and imports it only when it is first used.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Iterable
from typing import Any

from hybridml.kernels import elf


@functools.cache
def binding() -> Any:
    """llvmlite's binding, ready for this processor."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@functools.cache
def machine(cpu: str | None = None) -> Any:
    """This processor, with all that it can do; or another one of its kind, by LLVM's name, to read its code."""
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


def optimised(text: str, loops: bool = True, cpu: str | None = None) -> Any:
    """A module as LLVM's third level of optimisation leaves it, for this processor or for `cpu`.

    `loops` says that they are to be vectorised and unrolled. Without, code that calls kernels or holds vector code as it is goes through a
    few passes instead: what is left of the third level takes LLVM four times as long, and saves a loop one step of its counter.
    """
    llvm = binding()
    module = llvm.parse_assembly(text)
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine(cpu).target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.loop_interleaving = options.loop_unrolling = loops
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(cpu), options)
    passes = None if loops else _few(llvm.create_new_module_pass_manager())
    (passes or builder.getModulePassManager()).run(module, builder)
    return module


def _few(passes: Any) -> Any:
    """Values into registers, loops tested at their end, arithmetic and branches in their simplest form.

    None where llvmlite (before 0.45) has no such passes one by one.
    """
    if not hasattr(passes, "add_sroa_pass"):
        return None
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_sccp_pass()
    passes.add_jump_threading_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    return passes


def compile_module(text: str, loops: bool = True) -> tuple[bytes, set[str]]:
    """The object code of a module, and the functions it leaves to others; see `optimised`."""
    module = optimised(text, loops)
    code: bytes = machine().emit_object(module)
    declared = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    return code, declared


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
