"""`hybridml doctor`: what is installed, what is missing, and one cure for each problem."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridml.compare.machine import cpu_features, processor, usable_cpus, version


@dataclass(frozen=True)
class Finding:
    """One line. `state` is "ok", "note" (works without it) or "broken" (does not work without it)."""

    what: str
    state: str
    text: str
    cure: str = ""


def examine() -> list[Finding]:
    """Every check, in the order in which to cure what is broken. A check that fails in an unknown way is itself a finding."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found.extend(check())
        except Exception as error:
            found.append(
                Finding(
                    name,
                    "broken",
                    f"{type(error).__name__}: {error}",
                    "please report this with the text above",
                )
            )
    return found


def _python() -> Iterator[Finding]:
    text = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("Python", "ok", text)
    if sys.maxsize < 2**32:
        yield Finding("Python", "broken", "this is a 32-bit Python", "install a 64-bit Python")


def _packages() -> Iterator[Finding]:
    for name in ("numpy", "ml_dtypes", "numba", "scipy", "rich", "matplotlib"):
        yield _import(name, name, "broken", f"pip install {name}")
    yield _import("scikit-learn", "sklearn", "note", "pip install 'hybridml[demo]' for the digits workload")


def _import(name: str, module: str, otherwise: str, cure: str) -> Finding:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken package can raise anything
        if version(name) is None:
            return Finding(name, otherwise, "not installed", cure)
        return Finding(
            name, otherwise, f"{version(name)}, but importing it fails: {error}", f"{cure} --force-reinstall"
        )
    return Finding(name, "ok", version(name) or "unknown version")


def _processor() -> Iterator[Finding]:
    features = cpu_features()
    text = f"{processor()}, {usable_cpus()} CPUs for this process"
    yield Finding("processor", "ok", text + (f", {' '.join(features)}" if features else ""))
    from hybridml import config

    threads = config.get().num_threads
    if threads > usable_cpus():
        cure = f"set HYBRIDML_NUM_THREADS to {usable_cpus()} or unset it"
        yield Finding(
            "threads",
            "note",
            f"{threads}, more than this process has CPUs: they will wait for each other",
            cure,
        )
    else:
        yield Finding("threads", "ok", str(threads))


def _blas() -> Iterator[Finding]:
    import numpy as np

    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})  # type: ignore[union-attr]
    yield Finding("BLAS of NumPy", "ok", f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip())


def _cache() -> Iterator[Finding]:
    from hybridml import config
    from hybridml.kernels import cache

    folder = config.get().cache_dir
    cure = "set HYBRIDML_CACHE_DIR to a folder that can be written"
    problem = writing_problem(folder)
    if problem:
        yield Finding(
            "kernel cache", "note", f"{folder}: {problem}; kernels are compiled again in each process", cure
        )
        return
    info = cache.info()
    empty = "" if info.kernels else "; `hybridml cache warm` compiles the common ones ahead of a first call"
    yield Finding("kernel cache", "ok", f"{folder}: {info.kernels} kernels, {info.bytes / 1e6:.1f} MB{empty}")
    free = shutil.disk_usage(_existing(folder)).free
    if free < 100e6:
        cure = "free some space, or run: hybridml cache clear"
        yield Finding("disk", "note", f"only {free / 1e6:.0f} MB left where the kernel cache is", cure)


def writing_problem(folder: Path) -> str:
    """Why nothing can be written to a folder that may not exist yet; empty if it can."""
    try:
        place = _existing(folder)
        if not place.is_dir():
            return f"{place} is not a folder"
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _compiler() -> Iterator[Finding]:
    import numpy as np

    import hybridml as hml

    x = np.linspace(-2, 2, 101, dtype=np.float32)
    traced = hml.function(lambda x: x * x + 1.0)(hml.asarray(x)).numpy()
    if np.allclose(traced, x * x + 1, rtol=1e-6):
        yield Finding("compiler", "ok", "a traced function gives the right result")
    else:
        yield Finding(
            "compiler", "broken", "a traced function gives a wrong result", "run: hybridml cache clear"
        )


def _gpu() -> Iterator[Finding]:
    from hybridml.backends import has_driver

    driver = has_driver() or shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").exists()
    cupy = next((n for n in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if version(n)), None)
    if not driver:
        yield Finding("GPU", "ok", "no NVIDIA driver found: everything runs on the CPU")
    elif cupy is None:
        yield Finding(
            "GPU", "note", "NVIDIA driver found, CuPy is not installed", "pip install 'hybridml[cuda13]'"
        )
    else:
        yield _import(cupy, "cupy", "note", f"pip install {cupy}")
        yield from _gpu_parts("cuda12" if cupy == "cupy-cuda12x" else "cuda13")
    asked = os.environ.get("HYBRIDML_DEVICE", "")
    if asked.startswith("gpu") and not driver:
        yield Finding(
            "device", "broken", f"HYBRIDML_DEVICE={asked}, but there is no GPU", "unset HYBRIDML_DEVICE"
        )


def _gpu_parts(extra: str) -> Iterator[Finding]:
    """What compiles and launches kernels, and whether the GPU answers."""
    cure = f"pip install 'hybridml[{extra}]'"
    for name, module in (("numba-cuda", "numba.cuda"), ("cuda-bindings", "cuda.bindings.driver")):
        yield _import(name, module, "note", cure)
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # type: ignore[import-not-found,import-untyped,unused-ignore]  # with numba-cuda

        for library in ("cublas", "cublasLt"):
            yield Finding(library, "ok", str(load_nvidia_dynamic_lib(library).abs_path))
    except Exception as error:  # its own error classes, and ImportError
        yield Finding("CUDA libraries", "note", f"{error}".splitlines()[0], f"{cure} nvidia-cublas")
    from hybridml import backends
    from hybridml.errors import DeviceError
    from hybridml.kernels import toolkit

    try:
        toolkit.ready()
        yield Finding("compiler for the GPU", "ok", "numba-cuda and NVVM are found")
    except DeviceError as error:
        yield Finding("compiler for the GPU", "note", str(error).splitlines()[0], toolkit.CURE)
    try:
        gpu = backends.named("gpu:0")
        yield Finding("GPU", "ok", f"{gpu.name} opened")
    except DeviceError as error:
        yield Finding("GPU", "note", str(error).splitlines()[0], "check the driver with: nvidia-smi")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "Python": _python,
    "packages": _packages,
    "processor": _processor,
    "BLAS": _blas,
    "kernel cache": _cache,
    "compiler": _compiler,
    "GPU": _gpu,
}


def show(console: Any) -> int:
    """Print all findings to a rich console; 1 if something needed is broken, else 0."""
    from rich.markup import escape

    marks = {"ok": "[green]ok[/green]    ", "note": "[yellow]note[/yellow]  ", "broken": "[red]broken[/red]"}
    found = examine()
    for f in found:
        console.print(f"{marks[f.state]} {f.what}: {escape(f.text)}", soft_wrap=True, highlight=False)
        if f.cure:
            console.print(f"       cure: {escape(f.cure)}", soft_wrap=True, highlight=False)
    return int(any(f.state == "broken" for f in found))
