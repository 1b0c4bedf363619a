"""Printed CUDA kernels to PTX for a compute capability, with or without a GPU in the machine.

Numba's own `compile_ptx` will not do for two reasons: a kernel that calls device functions asks for a current device, and
multiplications and additions would be contracted to fused ones. Contraction changes results from one compiler to the next and
breaks the error-free transformations of the scalar math, which says `fma` where it means it.

Numba and its CUDA target are imported when a kernel is compiled, not before.
"""

from __future__ import annotations

import contextlib
import linecache
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

from hybridml.kernels import toolkit
from hybridml.kernels.emit_cuda import Parameter

Capability = tuple[int, int]
_STATED = re.compile(rb"^(\s*\.version\s+)(\d+)\.(\d+)(.*?^\s*\.target\s+sm_(\d+))", re.M | re.S)
_lock = threading.RLock()


class _Device:
    def __init__(self, capability: Capability) -> None:
        self.compute_capability = capability


@contextlib.contextmanager
def _pretending(capability: Capability) -> Iterator[None]:
    """Device functions are compiled for "the current device"; let that be one of this capability."""
    from numba.cuda import dispatcher

    with mock.patch.object(dispatcher, "get_current_device", lambda: _Device(capability)):
        yield


def signature(parameters: Sequence[Parameter]) -> tuple[Any, ...]:
    """The Numba types of a kernel's arguments."""
    from numba import from_dtype, types

    def one(p: Parameter) -> Any:
        kind = types.boolean if p.dtype.kind == "b" else from_dtype(p.dtype)
        return types.CPointer(kind) if p.pointer else kind

    return tuple(map(one, parameters))


def compile_ptx(
    name: str, source: str, parameters: Sequence[Parameter], capability: Capability, path: str = "<kernel>"
) -> tuple[str, str]:
    """(entry symbol, PTX) of a printed kernel.

    Args:
        path: shown in errors as the place of the source; the file need not exist.

    Raises DeviceError where numba-cuda or NVVM is missing, with the cure.
    """
    with _lock:
        symbol, llvm = translated(name, source, parameters, capability, path)
        return symbol, ptx_of(llvm, capability)


def translated(
    name: str, source: str, parameters: Sequence[Parameter], capability: Capability, path: str = "<kernel>"
) -> tuple[str, list[str]]:
    """(entry symbol, LLVM code): what Numba does of it. Numba wants to know the capability; what comes does not depend on it."""
    with _lock:
        toolkit.ready()
    from numba.cuda import compiler

    with _lock, _pretending(capability):
        linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
        try:
            namespace: dict[str, Any] = {"__name__": name}
            exec(compile(source, path, "exec"), namespace)
            build: Any = vars(compiler)["_compile_pyfunc_with_fixup"]
            library, _ = build(
                namespace[name], signature(parameters), device=False, cc=capability, abi="numba"
            )
        finally:
            linecache.cache.pop(path, None)
    return library._entry_name, library.llvm_strs


def ptx_of(llvm: list[str], capability: Capability) -> str:
    """What NVVM makes of LLVM code."""
    from numba.cuda.cudadrv import nvvm

    major, minor = capability
    with _lock:
        text: bytes = nvvm.compile_ir(llvm, opt=3, fma=False, arch=f"compute_{major}{minor}")
    return text.decode().strip("\x00").strip()


def restated(ptx: bytes) -> bytes:
    """A text of the PTX version that its target needs: 7.8 up to sm_90 (CUDA 11.8), 8.8 beyond (12.9), if it states a newer one.

    A compiler states its own version, whatever the text has in it, and an older driver refuses the number.

    >>> restated(b".version 9.5\\n.target sm_90")
    b'.version 7.8\\n.target sm_90'
    """

    def older(found: re.Match[bytes]) -> bytes:
        before, major, minor, between, target = found.groups()
        version = min((int(major), int(minor)), (7, 8) if int(target) <= 90 else (8, 8))
        return b"%s%d.%d%s" % (before, *version, between)

    return _STATED.sub(older, ptx, count=1)
