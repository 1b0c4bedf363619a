"""What this machine is, for the record beside every measured figure."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

THREAD_VARIABLES = ("HYBRIDML_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def describe() -> dict[str, Any]:
    """Processor, load, system and versions; nothing that names the machine or its user."""
    return {
        "processor": f"{processor()}{_vectors()}",
        "cpus": usable_cpus(),
        "load": load(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        **{name: version(name) for name in ("hybridml", "numpy", "numba", "llvmlite", "scipy")},
    }


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def usable_cpus() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load() -> float | None:
    """How many processes wanted to run during the last minute, where the system says; much above 0 means noisy figures."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """The processor's name, as the system gives it."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Those vector extensions of this processor that generated code can make use of; empty where the system does not say."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    have = set(found.group(1).split()) if found else set()
    return [
        f for f in ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "asimd", "sve") if f in have
    ]


def _vectors() -> str:
    """The widest vectors, which processors of one name need not share."""
    have = cpu_features()
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return next((f" ({name})" for feature, name in names.items() if feature in have), "")


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
