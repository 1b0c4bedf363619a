"""LLVM: optimise a module, write its object code, link object code into this process.

This module is all that is needed of llvmlite's binding, and imports it only when it is first used.
"""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def binding() -> Any:
    """llvmlite's binding, ready for this processor."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def host_features() -> dict[str, bool]:
    """The instruction set extensions of this processor, by LLVM's names."""
    return dict(binding().get_host_cpu_features())


@functools.cache
def _machine() -> Any:
    llvm = binding()
    triple = llvm.get_process_triple()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        # Object code is linked into a process where it lies; see https://reviews.llvm.org/D47211.
        reloc="static" if triple.startswith(("x86", "i686", "i386")) else "default",
        codemodel="jitdefault",
        jit=True,
    )


def compile_module(text: str, vectorise: bool = True) -> tuple[bytes, set[str]]:
    """The object code of a module, and the functions it leaves to others."""
    llvm = binding()
    machine = _machine()
    module = llvm.parse_assembly(text)
    module.triple = llvm.get_process_triple()
    module.data_layout = str(machine.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=3 if vectorise else 1)
    options.loop_vectorization = vectorise
    options.slp_vectorization = False
    options.loop_interleaving = options.loop_unrolling = vectorise
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    code: bytes = machine.emit_object(module)
    declared = {f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")}
    return code, declared
