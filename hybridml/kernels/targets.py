"""The scalar functions of a target: one source text, four ways to run it.

>>> m = scalar_functions("python")
>>> float(m.m_exp_f32(m.f32(0.0)))
1.0
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Literal

from . import primitives, scalar_math

Target = Literal["cpu", "cuda", "cuda_fast", "python"]
TARGETS: tuple[Target, ...] = ("cpu", "cuda", "cuda_fast", "python")


def source_files() -> tuple[Path, ...]:
    """The files of the scalar math, in the order in which they are executed."""
    folder = Path(scalar_math.__file__).parent
    return tuple(folder / f"{name}.py" for name in scalar_math.SOURCES)


@functools.cache
def source_hash() -> str:
    """sha256 of all that decides what a scalar function computes; a part of every compiled kernel's key."""
    digest = hashlib.sha256()
    folder = Path(primitives.__file__).parent
    for path in (*source_files(), *sorted(folder.glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def execute_sources(target: Target, namespace: dict[str, Any]) -> None:
    """Execute the scalar math in `namespace`, a module's, with the primitives of `target`."""
    namespace.update(importlib.import_module(f"{primitives.__name__}.{target}").namespace())
    for path in source_files():
        # With the real file name, so that tracebacks and Numba's messages show the line; compiled once for all processes, like a module.
        loader = SourceFileLoader(f"{scalar_math.__name__}.{path.stem}", str(path))
        code = loader.get_code(loader.name)
        assert code is not None  # files have some
        exec(code, namespace)


def scalar_functions(target: Target) -> types.ModuleType:
    """The module of scalar functions `m_<name>_<dtype>`, ready to be called from kernels of `target`.

    "cpu": Numba functions that LLVM inlines and vectorises; they refuse calls from Python. "cuda": Numba CUDA
    device functions (under `NUMBA_ENABLE_CUDASIM=1`, Python functions). "cuda_fast": those, but for some that are the hardware's
    approximations. "python": functions of NumPy scalars,
    for checks and debugging. Nothing is compiled here: Numba compiles a function at its first use.

    Raises ValueError for an unknown target and ImportError where "cuda" has no Numba CUDA to import.
    """
    if target not in TARGETS:
        raise ValueError(f"unknown target {target!r}: expected one of {', '.join(TARGETS)}")
    return importlib.import_module(f"{scalar_math.__name__}.for_{target}")
