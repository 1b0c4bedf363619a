"""This processor by LLVM's names: what kernels are compiled for, and part of their key.

LLVM is asked once for each machine. Its answer is kept beside the kernels, under all that the answer depends on, because the library
that gives it takes longer to load than a hundred kernels. Where the system does not describe its processor in a file, LLVM is asked
in each process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from hybridml.kernels import cache

_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CHANGES = (
    "processor",
    "cpu MHz",
    "core id",
    "apicid",
    "initial apicid",
    "bogomips",
    "siblings",
    "cpu cores",
    "physical id",
)


@dataclass(frozen=True)
class Host:
    """A processor: LLVM's name of it, its extensions as in ``"+avx,-avx512f"``, and the platform's triple."""

    cpu: str
    features: str
    triple: str


@functools.cache
def host() -> Host:
    """This processor."""
    key = _key()
    if key is None:
        return _asked()
    known = cache.read_note("host", key)
    if known is not None:
        try:
            return Host(**json.loads(known))
        except (ValueError, TypeError):
            pass  # not ours, or damaged
    found = _asked()
    cache.write_note("host", key, json.dumps(asdict(found)))
    return found


@functools.cache
def features() -> dict[str, bool]:
    """The instruction set extensions of this processor, by LLVM's names."""
    return {f[1:]: f[0] == "+" for f in host().features.split(",") if f}


@functools.cache
def last_level_cache() -> int:
    """Bytes of the largest cache that this processor's first core uses, where the system tells; else 32 MiB."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text().strip()
            sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 0))
    return max(sizes, default=0) or 32 << 20


def _asked() -> Host:
    from hybridml.kernels import llvm

    binding = llvm.binding()
    return Host(
        binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(), binding.get_process_triple()
    )


def _key() -> str | None:
    """A hash of what LLVM's answer depends on; None where that is not known."""
    try:
        with _CPUINFO.open() as file:
            first = file.read(1 << 13).split("\n\n")[0]
    except OSError:
        return None
    lines = [line for line in first.splitlines() if line.split("\t")[0].strip() not in _CHANGES]
    if not any(line.startswith(("flags", "Features")) for line in lines):
        return None
    return hashlib.sha256("\n".join([*lines, *os.uname(), version_of("llvmlite")]).encode()).hexdigest()


@functools.cache
def version_of(package: str) -> str:
    """A package's version without importing it, which may take longer than linking a hundred kernels."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"hybridml compiles its kernels with {package}: pip install {package}")
    generated = Path(spec.origin).with_name("_version.py")
    if generated.is_file():
        return hashlib.sha256(generated.read_bytes()).hexdigest()[:16]
    from importlib.metadata import version

    return version(package)
