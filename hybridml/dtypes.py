"""Data types and the one promotion rule.

A dtype *is* a NumPy dtype, so `x.dtype` can be handed to NumPy as it is. Promotion follows the array libraries that people train
with (PyTorch, JAX) rather than NumPy where integers meet floats: `int64 * float32` stays `float32`, because a step counter must
not silently turn a model into double precision. Python scalars are *weak*: they take the dtype of the tensor they meet, and
only raise its category (bool < integer < float), never its width.

bfloat16 is the dtype that the package ml_dtypes adds to NumPy. NumPy's own idea of it is poor (its kind is "V", it promotes with few
others), so questions about dtypes are asked of this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np

from hybridml.errors import DTypeError
from hybridml.symbolic import Dim, is_number

bool_ = np.dtype("bool")
int8, int16, int32, int64 = (np.dtype(f"int{n}") for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (np.dtype(f"uint{n}") for n in (8, 16, 32, 64))
float16, float32, float64 = (np.dtype(f"float{n}") for n in (16, 32, 64))
bfloat16 = np.dtype(ml_dtypes.bfloat16)

BOOL = (bool_,)
SIGNED = (int8, int16, int32, int64)
UNSIGNED = (uint8, uint16, uint32, uint64)
INTEGER = SIGNED + UNSIGNED
HALVES = (float16, bfloat16)  # computed in float32, each step rounded: see `hybridml.ops.halves`
FLOATING = (*HALVES, float32, float64)
ALL = BOOL + INTEGER + FLOATING

default_float = float32
default_int = int64

_BY_NAME = {d.name: d for d in ALL}
_SINGLETON = {d: d for d in ALL}  # of native byte order


def as_dtype(dtype: Any) -> np.dtype:
    """The dtype named by a string, a NumPy dtype or scalar type, or a Python type (`float` is the default, float32).

    Raises DTypeError with the nearest name for anything else.

    >>> as_dtype("float32")
    dtype('float32')
    >>> as_dtype(float), as_dtype(int), as_dtype(bool)
    (dtype('float32'), dtype('int64'), dtype('bool'))
    """
    if isinstance(dtype, np.dtype) and dtype in _SINGLETON:
        return _SINGLETON[dtype]  # the one that `is` can compare
    if dtype is float:
        return default_float
    if dtype is int:
        return default_int
    if dtype is bool:
        return bool_
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is not None and found in _SINGLETON:
        return _SINGLETON[found]
    near = difflib.get_close_matches(str(dtype), _BY_NAME, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DTypeError(f"unknown dtype {dtype!r}; expected one of {', '.join(_BY_NAME)}.{hint}")


def category(dtype: np.dtype) -> int:
    """0 for bool, 1 for integers, 2 for floats: the order in which promotion climbs."""
    kind = dtype.kind
    return 0 if kind == "b" else 1 if kind in "iu" else 2


def scalar_category(value: bool | int | float) -> int:
    return 0 if isinstance(value, bool) else 1 if isinstance(value, (int, Dim)) else 2


def scalar_dtype(value: bool | int | float) -> np.dtype:
    """The dtype a Python scalar takes when no tensor is there to decide."""
    return (bool_, default_int, default_float)[scalar_category(value)]


_PROMOTED: dict[tuple[np.dtype, np.dtype], np.dtype] = {}


def _promote_pair(a: np.dtype, b: np.dtype) -> np.dtype:
    if category(a) != category(b):
        return a if category(a) > category(b) else b
    if category(a) == 1 and {a.kind, b.kind} == {"i", "u"} and uint64 in (a, b):
        raise DTypeError(
            f"no integer type holds both {a.name} and {b.name}; cast one of them, e.g. x.astype(hml.int64)"
        )
    if a in HALVES and b in HALVES:  # neither holds the other's numbers
        return float32
    return np.dtype(np.result_type(a, b).type)


def promote(dtypes: Iterable[np.dtype], scalars: Iterable[bool | int | float] = ()) -> np.dtype:
    """The common dtype of tensors and weak Python scalars.

    >>> promote([int64, float32])
    dtype('float32')
    >>> promote([float16], [2.5])
    dtype('float16')
    >>> promote([int32], [2.5])
    dtype('float32')
    >>> promote([float16, bfloat16])
    dtype('float32')
    """
    result: np.dtype | None = None
    for d in dtypes:
        if result is None or d is result:
            result = d
            continue
        pair = (result, d)
        if pair not in _PROMOTED:
            _PROMOTED[pair] = _promote_pair(result, d)
        result = _PROMOTED[pair]
    for s in scalars:
        if result is None or scalar_category(s) > category(result):
            result = scalar_dtype(s)
    if result is None:
        raise DTypeError("promote() needs at least one dtype or scalar")
    return result


def is_float(dtype: np.dtype) -> bool:
    return dtype.kind in "fV"  # of the dtypes of tensors, bfloat16 alone is a V


def is_half(dtype: np.dtype) -> bool:
    return dtype.itemsize == 2 and dtype.kind in "fV"


def kind(dtype: np.dtype) -> str:
    """NumPy's letter: b, i, u or f, which bfloat16 is as well."""
    return "f" if dtype.kind == "V" else dtype.kind


# The Array API standard's questions about dtypes


def _dtype_of(x: Any) -> np.dtype:
    return x.dtype if hasattr(x, "dtype") and not isinstance(x, type) else as_dtype(x)


def result_type(*arrays_and_dtypes: Any) -> np.dtype:
    """The dtype that an operation on these tensors, dtypes and Python scalars computes in.

    >>> result_type(int64, float32), result_type(float16, 2.5)
    (dtype('float32'), dtype('float16'))
    """
    scalars = [x for x in arrays_and_dtypes if is_number(x)]
    typed = [_dtype_of(x) for x in arrays_and_dtypes if not is_number(x)]
    return promote(typed, scalars)


def can_cast(from_: Any, to: Any, /) -> bool:
    """True if every value of one dtype has a place in the other by the promotion rule.

    >>> can_cast(int64, float32), can_cast(float32, int64)
    (True, False)
    """
    target = as_dtype(to)
    try:
        return promote([_dtype_of(from_), target]) == target
    except DTypeError:
        return False


def isdtype(dtype: Any, kind: Any) -> bool:
    """True if a dtype is of a kind: "bool", "integral", "real floating", "numeric", ..., a dtype, or one of a tuple of these.

    >>> isdtype(float32, "real floating"), isdtype(int8, ("bool", int8))
    (True, True)
    """
    d = as_dtype(dtype)
    known = float16 if d is bfloat16 else d  # np.isdtype refuses the dtypes of others
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return any(bool(np.isdtype(known, k)) if isinstance(k, str) else as_dtype(k) is d for k in kinds)


def finfo(dtype: Any, /) -> np.finfo | ml_dtypes.finfo:
    """Limits of a floating point dtype: eps, max, min, smallest_normal, bits.

    >>> float(finfo(float32).max) > 3e38
    True
    """
    d = _dtype_of(dtype)
    return ml_dtypes.finfo(d) if d == bfloat16 else np.finfo(d)


def iinfo(dtype: Any, /) -> np.iinfo:
    """Limits of an integer dtype: max, min, bits.

    >>> iinfo(int8).max
    127
    """
    return np.iinfo(_dtype_of(dtype))
