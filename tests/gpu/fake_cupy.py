"""A stand-in for CuPy on a machine without a GPU: NumPy's values behind arrays that are not NumPy's.

`FakeArray` refuses every implicit way to NumPy (a NumPy function or array that meets it), and `FakeCupy` has only the names and
keywords that CuPy has (cupy_api.json, read from CuPy itself). So code that runs on these runs on CuPy as far as names, keywords and
mixed arrays go; values and dtypes are NumPy's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

API = json.loads((Path(__file__).parent / "cupy_api.json").read_text())
# Keywords of CuPy's methods where they are fewer than NumPy's.
KEYWORDS = {
    **{name: {"axis", "out", "keepdims"} for name in ("max", "min", "any", "all")},
    **{name: {"axis", "dtype", "out", "keepdims"} for name in ("sum", "prod", "argmax", "argmin")},
    "astype": {"dtype", "order", "casting", "subok", "copy"}, "copy": {"order"}, "reshape": {"order"},
}  # fmt: skip
SCALARS = (bool, int, float, complex, np.generic, np.dtype, type, str, slice, type(None), type(Ellipsis))


class Pointer:
    """`array.data` of a CuPy array: only its address."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class FakeArray:
    """An array of the fake device."""

    __hash__ = None  # type: ignore[assignment]  # as CuPy's arrays
    __array_priority__ = 100

    def __init__(self, array: np.ndarray, owner: Any = None) -> None:
        assert type(array) is np.ndarray, type(array)
        self._a, self._owner = array, owner

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    flags = property(lambda self: self._a.flags)
    T = property(lambda self: back(self._a.T, self))
    mT = property(lambda self: back(self._a.mT, self))
    data = property(lambda self: Pointer(self._a.ctypes.data))

    def get(self) -> np.ndarray:
        return self._a.copy()

    def item(self, *args: Any) -> Any:
        return self._a.item(*args)

    def tolist(self) -> Any:
        return self._a.tolist()

    def __float__(self) -> float:
        return float(self._a)

    def __int__(self) -> int:
        return int(self._a)

    def __bool__(self) -> bool:
        return bool(self._a)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self._a))])

    def __format__(self, spec: str) -> str:
        return format(self._a.item() if not self._a.ndim else self._a, spec)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._a.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0  # kDLCUDA

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"NumPy's {ufunc.__name__} met an array of the device")

    def __array_function__(self, function: Any, *_: Any, **__: Any) -> Any:
        raise TypeError(f"NumPy's {function.__name__} met an array of the device")

    def __getitem__(self, key: Any) -> Any:
        return back(self._a[bare(key)], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._a[bare(key)] = bare(value)

    def __getattr__(self, name: str) -> Any:
        if name not in API["methods"] or name.startswith("_"):
            raise AttributeError(f"a CuPy array has no {name!r}")
        method = getattr(self._a, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            extra = set(kwargs) - KEYWORDS.get(name, set(kwargs))
            if extra:
                raise TypeError(f"CuPy's ndarray.{name} has no keyword {extra}")
            return back(method(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()}), self)

        return call


def _operator(name: str) -> Any:
    def operate(self: Any, *others: Any) -> Any:
        out = getattr(self._a, name)(*map(bare, others))
        return out if out is NotImplemented else back(out, self)

    return operate


for _name in "add sub mul truediv floordiv mod pow and or xor lshift rshift matmul".split():
    for _prefix in ("", "r"):
        setattr(FakeArray, f"__{_prefix}{_name}__", _operator(f"__{_prefix}{_name}__"))
for _name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne"):
    setattr(FakeArray, f"__{_name}__", _operator(f"__{_name}__"))


def _in_place(name: str) -> Any:
    def operate(self: Any, other: Any) -> Any:
        getattr(self._a, name)(bare(other))
        return self

    return operate


for _name in ("iadd", "isub", "imul", "itruediv"):
    setattr(FakeArray, f"__{_name}__", _in_place(f"__{_name}__"))


def bare(x: Any) -> Any:
    """The NumPy values of what is given to the fake library, which takes no NumPy arrays."""
    if isinstance(x, FakeArray):
        return x._a
    if isinstance(x, (list, tuple)):
        return type(x)(map(bare, x))
    if isinstance(x, SCALARS):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def back(out: Any, *inputs: Any) -> Any:
    """NumPy's result as the fake library returns it: arrays also where NumPy has scalars; a view holds what it is a view of."""
    if isinstance(out, (tuple, list)):
        return type(out)(back(o, *inputs) for o in out)
    if isinstance(out, (np.ndarray, np.generic)):
        array = np.asarray(out)
        owner = next(
            (x for x in inputs if isinstance(x, FakeArray) and np.may_share_memory(array, x._a)), None
        )
        return FakeArray(array, owner)
    return out


def _floor_divide(x: Any, y: Any) -> Any:
    """As CuPy has it: floats are divided and rounded first."""
    return np.floor_divide(x, y) if np.result_type(x, y).kind in "iu" else np.floor(x / y)


def _remainder(x: Any, y: Any) -> Any:
    return np.remainder(x, y) if np.result_type(x, y).kind in "iu" else x - np.floor(x / y) * y


def _last_nan(f: Any) -> Any:
    """As CuPy has it: of several NaN any is taken."""

    def found(a: Any, axis: Any = None, keepdims: bool = False) -> Any:
        backwards = np.flip(a, axis) if a.dtype.kind == "f" and np.isnan(a).any() else a
        at = f(backwards, axis=axis, keepdims=keepdims)
        missing = np.isnan(a).any(axis=axis, keepdims=keepdims)
        return np.where(missing, a.shape[axis] - 1 - at, f(a, axis=axis, keepdims=keepdims))

    return found


_argmax, _argmin = _last_nan(np.argmax), _last_nan(np.argmin)
_QUOTIENTS = {"floor_divide": _floor_divide, "remainder": _remainder}


class FakeUfunc:
    """A ufunc with the methods that CuPy's has. `at` is left out, which on a GPU adds in no fixed order, and `reduceat`, which takes
    differences of running sums there."""

    def __init__(self, name: str) -> None:
        self._f = _QUOTIENTS.get(name) or getattr(np, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return back(self._f(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()}), *args)

    def reduce(
        self, x: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
    ) -> Any:
        return back(self._f.reduce(bare(x), axis=axis, dtype=dtype, keepdims=keepdims), x)


class _Grid:
    def __getitem__(self, key: Any) -> Any:
        return [back(g) for g in np.ogrid[key]]


class _Lib:
    """`cupy.lib`, as far as it is used."""

    class stride_tricks:
        @staticmethod
        def as_strided(x: Any, shape: Any = None, strides: Any = None) -> Any:
            return back(np.lib.stride_tricks.as_strided(bare(x), shape, strides), x)


class FakeCupy:
    """The module."""

    ndarray = FakeArray
    ogrid = _Grid()
    lib = _Lib
    __name__ = "fake_cupy"

    @staticmethod
    def asnumpy(x: Any) -> np.ndarray:
        return x._a.copy() if isinstance(x, FakeArray) else np.array(x)

    @staticmethod
    def asarray(x: Any, dtype: Any = None) -> Any:
        return (
            x
            if isinstance(x, FakeArray) and dtype is None
            else FakeArray(np.array(getattr(x, "_a", x), dtype))
        )

    @staticmethod
    def array(x: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> Any:
        return FakeArray(np.array(getattr(x, "_a", x), dtype, order=order))  # type: ignore[call-overload]

    @staticmethod
    def from_dlpack(x: Any) -> Any:
        return FakeArray(x._a, x)

    def __getattr__(self, name: str) -> Any:
        if name not in API["functions"]:
            raise AttributeError(f"CuPy {API['version']} has no {name!r}")
        f = {"argmax": _argmax, "argmin": _argmin}.get(name) or getattr(np, name)
        if isinstance(f, np.ufunc):
            return FakeUfunc(name)
        known = API["functions"][name]

        def call(*args: Any, **kwargs: Any) -> Any:
            if known is not None and "kwargs" not in known and set(kwargs) - set(known):
                raise TypeError(f"CuPy's {name} has no keyword {set(kwargs) - set(known)}")
            return back(f(*map(bare, args), **{k: bare(v) for k, v in kwargs.items()}), *args)

        return call
