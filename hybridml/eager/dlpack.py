"""DLPack of bfloat16, which the format has a code for and NumPy refuses: the same bits pass as 16-bit integers, under the right code.

A capsule holds a pointer to a structure of C. Exported ones are NumPy's of the integers, with the code put right; of imported ones, which
nobody else has seen yet, the code is made one that NumPy takes.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from hybridml import dtypes

_UINT, _BFLOAT = 1, 4  # DLDataTypeCode
_INTO_TENSOR = 8 + 4 + 4 + 4  # behind data, device and number of axes lies the dtype: code, bits, lanes
_INTO_VERSIONED = 4 + 4 + 8 + 8 + 8  # version, context, deleter and flags come before the tensor
_PLACES = {b"dltensor": _INTO_TENSOR, b"dltensor_versioned": _INTO_VERSIONED + _INTO_TENSOR}

_name, _pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
_name.restype, _name.argtypes = ctypes.c_char_p, [ctypes.py_object]
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _code(capsule: Any) -> Any:
    """The byte that says what the elements are."""
    name = _name(capsule)
    return ctypes.c_uint8.from_address(_pointer(capsule, name) + _PLACES[name])


class _AsIntegers:
    """Stands for an exporter of bfloat16, as one of uint16."""

    def __init__(self, capsule: Any, device: Any) -> None:
        self._capsule, self._device = capsule, device

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> Any:
        return self._device


def export(array: Any, **kwargs: Any) -> Any:
    """A capsule of an array of any library."""
    if type(array) is not np.ndarray or array.dtype != dtypes.bfloat16:
        return array.__dlpack__(**kwargs)
    capsule = array.view(np.uint16).__dlpack__(**kwargs)
    _code(capsule).value = _BFLOAT
    return capsule


def take(x: Any) -> np.ndarray:
    """A NumPy array over the memory of an exporter on the CPU."""
    if isinstance(x, np.ndarray):
        return x.view(np.ndarray)
    try:
        capsule = x.__dlpack__(max_version=(1, 0))
    except TypeError:  # an exporter of before the version was asked for
        capsule = x.__dlpack__()
    code = _code(capsule)
    foreign = code.value == _BFLOAT
    if foreign:
        code.value = _UINT
    array = np.from_dlpack(_AsIntegers(capsule, x.__dlpack_device__()))
    return array.view(dtypes.bfloat16) if foreign else array
