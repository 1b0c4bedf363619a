"""Python objects as native code meets them: where CPython and NumPy keep what a call reads of its arguments, and native code as a function.

What lies where is CPython's (with its lock, 64 bits) and NumPy's C interface, both unchanged for many versions; `layout` has the numbers.
They are compared with real objects before any is used. Where one does not hold, calls go through Python code only.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml.kernels import layout

_FIRST_PAGES = 1 << 16  # where no process has memory
_METH_FASTCALL = (
    0x0080  # function(self, arguments, their number), https://docs.python.org/3/c-api/structures.html
)


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


@functools.cache
def _method(address: int, name: str) -> _MethodDef:
    """Kept for ever: functions made of it may be called to the end of the process."""
    return _MethodDef(name.encode(), address, _METH_FASTCALL, None)


def builtin(address: int, name: str, owner: Any) -> Callable[..., Any]:
    """Native code ``object *(object *owner, object **arguments, int64 count)`` as a function that Python calls as one of its own.

    It gets the objects themselves, where `ctypes` would convert each of them at every call. The interpreter lock is held when the code
    begins and when it ends.
    """
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p]
    return new(ctypes.addressof(_method(address, name)), owner, None)  # type: ignore[no-any-return]


def function_address(function: Any) -> int:
    """The address of a C function that ctypes knows."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@functools.cache
def _numpy_functions() -> int:
    """The address of NumPy's table of functions for C code, numpy/__multiarray_api.h."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer(np._core._multiarray_umath._ARRAY_API, None))  # type: ignore[attr-defined]  # a module for C code


def numpy_function(number: int) -> int:
    """The address of a function of NumPy's table."""
    return _word(_numpy_functions() + 8 * number)


def slot_of(cls: type, example: Any, content: Any) -> int | None:
    """How far into objects of a class the slot lies that in the example holds this content."""
    for offset in range(layout.OBJECT_HEAD, cls.__basicsize__, 8):
        if _word(id(example) + offset) == id(content):
            return offset
    return None


@functools.cache
def known() -> bool:
    """True where objects of this process are laid out as native code expects."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    if object.__basicsize__ != layout.OBJECT_HEAD:  # an interpreter without its lock has longer heads
        return False
    return all(
        check() for check in (_heads_are, _containers_are, _numbers_are, _arrays_are, _arrays_are_made)
    )


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _half(address: int) -> int:
    return ctypes.c_int32.from_address(address).value


def _heads_are() -> bool:
    x = np.zeros(2)
    held = [x, x]
    references = sys.getrefcount(x) - 1
    alive = weakref.ref(x)
    return (
        _word(id(x) + layout.OBJECT_TYPE) == id(np.ndarray)
        and _half(id(x)) == references == len(held) + 1
        and _word(id(alive) + layout.WEAKREF_OBJECT) == id(x)
    )


def _containers_are() -> bool:
    items = [object(), "two", 3.5]
    both, named = tuple(items), {"a": items[0], "b": items[1]}
    start = _word(id(items) + layout.LIST_ITEMS)
    if start < _FIRST_PAGES:  # a count, not an address
        return False
    return (
        _word(id(items) + layout.LENGTH) == _word(id(both) + layout.LENGTH) == 3
        and [_word(start + 8 * i) for i in range(3)] == list(map(id, items))
        and [_word(id(both) + tuple.__basicsize__ + 8 * i) for i in range(3)] == list(map(id, items))
        and _word(id(named) + layout.DICT_LENGTH) == 2
    )


def _numbers_are() -> bool:
    x = 1.5
    return ctypes.c_double.from_address(id(x) + layout.FLOAT_VALUE).value == x


def _arrays_are() -> bool:
    whole = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    for a in (whole, whole[:, 1:], whole.transpose(), np.zeros(()), np.zeros((0, 3))):
        at = id(a)
        dims = _word(at + layout.ARRAY_DIMS)
        if (a.ndim and dims < _FIRST_PAGES) or not (
            _word(at + layout.ARRAY_DATA) == a.ctypes.data
            and _half(at + layout.ARRAY_NDIM) == a.ndim
            and [_word(dims + 8 * i) for i in range(a.ndim)] == list(a.shape)
            and _word(at + layout.ARRAY_DTYPE) == id(a.dtype)
            and bool(_half(at + layout.ARRAY_FLAGS) & layout.C_CONTIGUOUS) is a.flags.c_contiguous
        ):
            return False
    return True


def _arrays_are_made() -> bool:
    """NumPy makes an array by the function that native code takes for the one that does."""
    try:
        make, own = numpy_function(layout.NEW_FROM_DESCR), numpy_function(layout.SET_BASE_OBJECT)
    except AttributeError:  # it keeps the table elsewhere
        return False
    word, half, thing = ctypes.c_int64, ctypes.c_int, ctypes.py_object
    dtype, memory, sizes = np.dtype(np.int16), np.zeros(100, np.uint8), (word * 2)(3, 4)
    new = ctypes.PYFUNCTYPE(thing, thing, thing, half, word, word, word, half, word)(make)
    set_base = ctypes.PYFUNCTYPE(half, thing, thing)(own)
    held = ctypes.pythonapi.Py_IncRef
    held.restype, held.argtypes = None, [thing]
    held(dtype)
    made = new(np.ndarray, dtype, 2, ctypes.addressof(sizes), 0, memory.ctypes.data, layout.CARRAY, 0)
    held(memory)
    failed = set_base(made, memory)
    like = np.ndarray((3, 4), dtype, memory)
    return (
        not failed and made.shape == like.shape and made.dtype is dtype and made.ctypes.data == like.ctypes.data
        and made.base is memory and str(made.flags) == str(like.flags)
    )  # fmt: skip
