"""Where this process keeps a BLAS: the addresses of ``sgemm`` and ``dgemm``, found without importing SciPy.

MKL goes first where it is installed beside Python (``pip install mkl``, or conda's). Else NumPy has loaded a
BLAS already, and its functions can be looked up by name through NumPy's own extension module, at no cost. Where
that fails (Windows, Apple's Accelerate, static builds), SciPy's `scipy.linalg.cython_blas` hands out addresses;
importing it takes a tenth of a second. Each candidate must multiply two small matrices before it is believed.

An OpenBLAS and MKL have one number of threads for the whole process. The kernels that call it set that number to one
while products are under way and restore it after the last, under the lock in the block at `Blas.hold`:
NumPy's own products in *other* Python threads run on one thread for that moment, and nothing else changes.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Of the threads to ask for the number, and to set it.
_THREADS = (
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
# How the builds of OpenBLAS in NumPy's wheels, conda's and the distributions' libraries spell a Fortran and a
# C name.
_SPELLINGS = (("scipy_{}_64_", "scipy_{}64_"), ("scipy_{}_", "scipy_{}"), ("{}_64_", "{}64_"), ("{}_", "{}"))

_HOLD_WORDS = 5
_ACTIVE, _SAVED, _GET, _SET = 1, 2, 3, 4
_hold = np.zeros(_HOLD_WORDS, np.int64)
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_hold))  # for kernels that still run when the interpreter ends


@dataclass(frozen=True)
class Blas:
    """A library's matrix products.

    ``origin`` says where it comes from; ``sgemm`` and ``dgemm`` are addresses of functions with Fortran's
    interface; ``hold`` is the address of the block by which kernels hold the library to one thread.
    """

    origin: str
    sgemm: int
    dgemm: int
    hold: int


@functools.cache
def find() -> Blas | None:
    """This process's BLAS, or None if there is none that works."""
    for search in (_from_mkl, _from_numpy, _from_scipy):
        found = search()
        if found is not None and _works(found.sgemm, np.float32) and _works(found.dgemm, np.float64):
            return found
    return None


def _from_mkl() -> Blas | None:
    names = (
        "lib/libmkl_rt.so*",
        "lib/libmkl_rt.dylib",
        "Library/bin/mkl_rt*.dll",
    )  # as the wheel and conda put it
    files = [f for name in names for f in sorted(Path(sys.prefix).glob(name))]
    return next((found for f in files if (found := _from_library(str(f), "MKL")) is not None), None)


def _from_numpy() -> Blas | None:
    extension = sys.modules.get("numpy._core._multiarray_umath")
    return _from_library(getattr(extension, "__file__", None), "NumPy's BLAS")


def _from_library(path: str | None, origin: str) -> Blas | None:
    try:
        library = ctypes.CDLL(path)
    except (OSError, TypeError):
        return None
    for fortran, c in _SPELLINGS:
        gemms = [_address(library, fortran.format(name)) for name in ("sgemm", "dgemm")]
        if all(gemms):
            pairs = [[_address(library, c.format(name)) for name in pair] for pair in _THREADS]
            _hold[_GET], _hold[_SET] = next((pair for pair in pairs if all(pair)), (0, 0))
            return Blas(f"{origin} ({fortran.format('sgemm')})", gemms[0], gemms[1], int(_hold.ctypes.data))
    return None


def _address(library: ctypes.CDLL, name: str) -> int:
    function = getattr(library, name, None)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _from_scipy() -> Blas | None:
    try:
        from scipy.linalg import cython_blas  # type: ignore[import-untyped]
    except ImportError:
        return None
    linked = _from_library(cython_blas.__file__, "SciPy's BLAS")
    if linked is not None:
        return linked
    capsules = cython_blas.__pyx_capi__
    sgemm, dgemm = (_capsule(capsules[name]) for name in ("sgemm", "dgemm"))
    return Blas("scipy.linalg.cython_blas", sgemm, dgemm, int(_hold.ctypes.data))


def _capsule(capsule: Any) -> int:
    api = ctypes.pythonapi
    name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    return int(pointer(capsule, name(capsule)) or 0)


def _works(function: int, dtype: type) -> bool:
    """Whether a 2x3 by 3x2 product through ``function`` comes out right; integers are passed as the kernels
    do."""
    arrays: list[np.ndarray] = [np.arange(6), np.arange(1, 7), np.zeros(4), np.ones(1), np.zeros(1)]
    arrays = [array.astype(dtype) for array in arrays]
    a, b, c = arrays[:3]
    numbers = np.array([2, 3, ord("N")], np.int64)
    two, three, plain = (int(numbers.ctypes.data) + 8 * i for i in range(3))
    call: Callable[..., None] = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 13)(function)
    x, y, z, alpha, beta = (int(array.ctypes.data) for array in arrays)
    call(plain, plain, two, two, three, alpha, x, two, y, three, beta, z, two)
    expected = a.reshape(3, 2).T @ b.reshape(2, 3).T  # column-major
    return bool((c.reshape(2, 2).T == expected).all())


def _release_in_child() -> None:
    """A fork's child inherits the hold of a product that only its parent will finish."""
    if _hold[_ACTIVE] and _hold[_SET]:
        ctypes.CFUNCTYPE(None, ctypes.c_int)(int(_hold[_SET]))(int(_hold[_SAVED]))
    _hold[:_GET] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
