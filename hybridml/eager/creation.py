"""Tensors from the outside world, and tensors from nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import backends, buffers, dtypes
from hybridml.eager import dlpack
from hybridml.eager.tensor import Tensor, wrap
from hybridml.errors import DTypeError
from hybridml.ops.registry import PUBLIC
from hybridml.ops.spec import is_int
from hybridml.symbolic import Dim, Sized, dim, has_dims
from hybridml.symbolic.slices import length

Shape = Sequence[int] | int


def _plain(obj: Any) -> Any:
    """Lists that hold tensors become lists of arrays."""
    if isinstance(obj, (list, tuple)):
        return [_plain(o) for o in obj]
    if isinstance(obj, Tensor):
        return obj.numpy()
    return np.asarray(obj) if hasattr(obj, "__array__") and not isinstance(obj, np.ndarray) else obj


def from_dlpack(x: Any, /) -> Tensor:
    """A tensor that shares the memory of anything that exports DLPack (NumPy, CuPy, PyTorch, JAX), on the device where it lies.

    The one who made the memory must not write to it while the tensor is in use: a tensor never changes.
    Raises DTypeError for elements that tensors cannot have.

    >>> import numpy as np
    >>> from_dlpack(np.array([1., 2.])).tolist()
    [1.0, 2.0]
    """
    if isinstance(x, Tensor):
        return x
    backend = backends.holding(x)
    with backend.scope():
        array = dlpack.take(x) if backend.on_cpu else backend.xp.from_dlpack(x)
    if array.dtype not in dtypes.ALL:
        raise DTypeError(f"cannot make a tensor of {type(x).__name__} with dtype {array.dtype}")
    return wrap(array)


def asarray(obj: Any, /, *, dtype: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of the values of `obj`: a list, a number, a NumPy or CuPy array, or anything with `__array__` or DLPack.

    Python floats become float32 and integers int64; arrays keep their dtype. What lies on a GPU stays there, all else goes to the
    current device. The values are copied, because a tensor never changes; `from_dlpack` shares memory. Raises DTypeError for values
    that are not numbers and ShapeError-like ValueError for ragged lists.

    >>> asarray([1, 2.5]).dtype, asarray([1, 2]).dtype, asarray(np.float64(1)).dtype
    (dtype('float32'), dtype('int64'), dtype('float64'))
    """
    wanted = None if dtype is None else dtypes.as_dtype(dtype)
    if isinstance(obj, Tensor):
        number = dtypes.scalar_dtype(0.0)
        if (
            obj.weak and wanted is None and dtypes.is_float(obj.dtype) and obj.dtype != number
        ):  # a traced Python float
            wanted = number
        return obj if wanted is None else obj.astype(wanted)  # type: ignore[attr-defined]  # a Tensor
    if isinstance(obj, Sized):  # known when the trace runs
        start = wrap(np.zeros((), dtypes.scalar_dtype(obj)))  # type: ignore[arg-type]  # it has a category
        return asarray(start + obj, dtype=wanted)  # type: ignore[operator]  # ops of a Tensor are installed later
    if hasattr(obj, "value") and hasattr(obj, "assign_add"):
        return asarray(obj.value(), dtype=dtype)
    typed = hasattr(obj, "dtype")
    if hasattr(obj, "__dlpack_device__") and not isinstance(obj, np.ndarray):
        backend = backends.holding(obj)
        if not backend.on_cpu:
            there = wrap(from_dlpack(obj)._array.copy())
            return there if wanted is None else there.astype(wanted)  # type: ignore[attr-defined]  # a Tensor
    by_dlpack = not typed or str(obj.dtype).endswith("bfloat16")  # which PyTorch gives NumPy in no other way
    if by_dlpack and hasattr(obj, "__dlpack__") and not isinstance(obj, np.ndarray):
        obj, typed = dlpack.take(obj), True
    if isinstance(obj, (list, tuple)):
        leaf = obj
        while isinstance(leaf, (list, tuple)) and leaf:
            leaf = leaf[0]
        typed = hasattr(leaf, "dtype")
        if any(isinstance(o, Tensor) and type(o) is not Tensor for o in obj):
            return PUBLIC["stack"](list(obj))
        obj = _plain(obj)
    try:
        plain = type(obj) is np.ndarray and obj.dtype.kind in "biuf"
        array = buffers.copy(obj) if plain else np.array(obj)
    except ValueError as e:
        raise ValueError(f"cannot make a tensor of a ragged nest: {e}") from None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype not in dtypes.ALL:
        raise DTypeError(
            f"cannot make a tensor of {type(obj).__name__} with dtype {array.dtype}; expected numbers or bools"
        )
    if wanted is None:
        wanted = (
            np.dtype(array.dtype.type)
            if typed
            else dtypes.scalar_dtype(array.flat[0].item() if array.size else 0.0)
        )
    if array.dtype.kind == "f" and wanted.kind in "iu" and not typed:
        raise DTypeError(
            f"cannot make a {wanted.name} tensor of Python floats; use hml.asarray(x).astype(hml.{wanted.name})"
        )
    array = np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)
    here = backends.current()
    return wrap(array if here.on_cpu else here.put(array))


def _shape(shape: Shape) -> tuple[int, ...]:
    return (dim(shape),) if is_int(shape) else tuple([dim(d) for d in shape])  # type: ignore[union-attr]  # it is no int


def _filled(shape: tuple[int, ...], value: Any, dtype: np.dtype) -> Tensor:
    xp = backends.current().xp
    if Dim in map(type, shape) or isinstance(value, Sized):  # known when the trace runs
        one = asarray(value, dtype=dtype) if isinstance(value, Sized) else wrap(xp.full((), value, dtype))
        return PUBLIC["broadcast_to"](one, shape)  # type: ignore[no-any-return]  # ops give a Tensor
    return wrap(xp.zeros(shape, dtype) if type(value) is int and value == 0 else xp.full(shape, value, dtype))


def zeros(shape: Shape, *, dtype: Any = None) -> Tensor:
    """Zeros of a shape, float32 unless told otherwise."""
    return _filled(_shape(shape), 0, dtypes.as_dtype(dtype or float))


def ones(shape: Shape, *, dtype: Any = None) -> Tensor:
    """Ones of a shape, float32 unless told otherwise."""
    return _filled(_shape(shape), 1, dtypes.as_dtype(dtype or float))


def empty(shape: Shape, *, dtype: Any = None) -> Tensor:
    """A tensor whose values are not to be relied on (they are zeros here)."""
    return zeros(shape, dtype=dtype)


def full(shape: Shape, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """One value everywhere; the dtype follows the value."""
    d = dtypes.scalar_dtype(fill_value) if dtype is None else dtypes.as_dtype(dtype)
    if isinstance(fill_value, (Tensor, np.ndarray)):
        fill_value = fill_value.item()
    return _filled(_shape(shape), fill_value, d)


def arange(start: Any, /, stop: Any = None, step: Any = 1, *, dtype: Any = None) -> Tensor:
    """Evenly spaced values in [start, stop).

    >>> arange(3).tolist()
    [0, 1, 2]
    """
    if stop is None:
        start, stop = 0, start
    d = dtypes.promote([], [start, stop, step]) if dtype is None else dtypes.as_dtype(dtype)
    if has_dims((start, stop, step)) and is_int(start) and is_int(stop) and is_int(step):
        count = length(start, stop, dim(step))
        index = PUBLIC["iota"]((count,), 0, dtypes.default_int)
        return (index * step + start).astype(d)  # type: ignore[no-any-return]  # ops give a Tensor
    return wrap(backends.current().xp.arange(start, stop, step).astype(d))


def linspace(start: float, stop: float, /, num: int, *, dtype: Any = None, endpoint: bool = True) -> Tensor:
    """`num` evenly spaced values from start to stop."""
    line = backends.current().xp.linspace(start, stop, num, endpoint=endpoint)
    return wrap(line.astype(dtypes.as_dtype(dtype or float)))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere."""
    if has_dims((n_rows, n_cols, k)):
        shape = (n_rows, n_rows if n_cols is None else n_cols)
        row, column = PUBLIC["iota"](shape, 0), PUBLIC["iota"](shape, 1)
        return PUBLIC["equal"](row + k, column).astype(dtypes.as_dtype(dtype or float))  # type: ignore[no-any-return]  # ops give a Tensor
    return wrap(backends.current().xp.eye(n_rows, n_cols, k=k, dtype=dtypes.as_dtype(dtype or float)))


def zeros_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """Zeros of the shape of `x`, on its device, of its dtype unless told otherwise."""
    return _like(x, lambda: zeros(x.shape, dtype=dtype or x.dtype))


def ones_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """Ones of the shape of `x`, on its device, of its dtype unless told otherwise."""
    return _like(x, lambda: ones(x.shape, dtype=dtype or x.dtype))


def full_like(x: Any, /, fill_value: Any, *, dtype: Any = None) -> Tensor:
    """One value in the shape of `x`, on its device, of its dtype unless told otherwise."""
    return _like(x, lambda: full(x.shape, fill_value, dtype=dtype or x.dtype))


def backend_of(x: Any) -> backends.Backend | None:
    """The device that holds a tensor's or a variable's elements; None for what has none (a spec, a symbol, a number)."""
    array = getattr(x, "_array", None) if not getattr(x, "priority", 0) else None
    return backends.of(array) if array is not None and backends.is_array(array) else None


def beside(x: Any) -> contextlib.AbstractContextManager[Any]:
    """New tensors are made on the device of `x` inside the block; where it has none, on the current one."""
    there = backend_of(x)
    if there is None or there is backends.current():
        return contextlib.nullcontext()
    return backends.device(there.name)


def _like(x: Any, make: Callable[[], Tensor]) -> Tensor:
    with beside(x):
        return make()
