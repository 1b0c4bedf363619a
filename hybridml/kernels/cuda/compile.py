"""Printed kernels to PTX, kept on disk beside the CPU's kernels.

A key is the text, the arguments, the compute capability, and the versions of what compiles; see `parts`. The driver turns PTX into
machine code when it is loaded, and keeps that in a cache of its own.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import time
from collections.abc import Sequence

from hybridml.kernels import cache
from hybridml.kernels.emit_cuda import Parameter
from hybridml.kernels.ptx import Capability, compile_ptx
from hybridml.kernels.targets import source_hash


@functools.cache
def _versions() -> str:
    found = []
    for name in ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-cuda-nvcc", "cuda-toolkit"):
        try:
            found.append(f"{name}={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(found)


def parts(source: str, parameters: Sequence[Parameter], capability: Capability) -> dict[str, str]:
    """Everything that decides what a kernel's PTX is, by name."""
    return {
        "target": f"ptx for sm_{capability[0]}{capability[1]}, no contraction",
        "arguments": " ".join(f"{p.name}:{'*' * p.pointer}{p.dtype}" for p in parameters),
        "compilers": _versions(),
        "scalar math": source_hash(),
        "source": source,
    }


def ptx_of(
    name: str, source: str, parameters: Sequence[Parameter], capability: Capability
) -> tuple[str, bytes, str, float]:
    """(entry symbol, PTX, "disk" or "compiled", seconds)."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    for part, text in parts(source, parameters, capability).items():
        digest.update(f"{part}\0{text}\0".encode())
    key = digest.hexdigest()
    entry = cache.read(name, key)
    if entry is not None:
        return entry.symbol, entry.code, "disk", time.perf_counter() - started
    symbol, text = compile_ptx(name, source, parameters, capability, str(cache.path_of(name, key, ".py")))
    cache.write(name, key, source, cache.Entry(symbol, (), text.encode()))
    return symbol, text.encode(), "compiled", time.perf_counter() - started
