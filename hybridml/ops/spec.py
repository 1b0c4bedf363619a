"""What is known of a tensor before it exists: shape and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.symbolic import Dim, Sized

Scalar = bool | int | float
Shape = tuple[int, ...]  # in a trace, sizes that may vary are Dims


class TensorSpec:
    """Shape and dtype of a tensor; `None` in a shape is a dimension that may vary (only in an `input_signature`).

    >>> TensorSpec((None, 3), "float32")
    float32[?, 3]
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, shape: Sequence[int | None], dtype: Any = None, name: str | None = None) -> None:
        self.shape: tuple[Any, ...] = tuple(shape)
        self.dtype = dtypes.as_dtype(dtypes.default_float if dtype is None else dtype)
        self.name = name

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TensorSpec)
            and self.dtype == other.dtype
            and same_shape(self.shape, other.shape)
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype.name}[{dims}]"


def spec(shape: Sequence[int], dtype: np.dtype) -> TensorSpec:
    """A TensorSpec from parts that are known to be good: no checks."""
    s = TensorSpec.__new__(TensorSpec)
    s.shape, s.dtype, s.name = tuple(shape), dtype, None
    return s


def same_shape(a: Shape, b: Shape) -> bool:
    """Equality that asks nothing of the sizes where the numbers of dimensions differ, as comparing tuples would."""
    return len(a) == len(b) and a == b


def is_scalar(x: Any) -> bool:
    """True for a weak Python scalar (NumPy scalars are tensors of their dtype), or a number that depends on sizes."""
    return type(x) in (float, int, bool) or isinstance(x, Sized)


def is_int(x: Any) -> bool:
    """True for a whole number: Python's, NumPy's, or a size that is not known."""
    return isinstance(x, (int, np.integer, Dim))


def all_equal(items: Sequence[Any]) -> bool:
    """True if no two differ. (A set would tell sizes apart that are equal for the sizes at hand.)"""
    return all(x == items[0] for x in items)


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The common shape under NumPy's rules, or ShapeError naming the first axis that does not fit."""
    if not shapes:
        return ()
    first = shapes[0]
    if all(same_shape(s, first) for s in shapes):
        return first
    ndim = max(map(len, shapes))
    result = [1] * ndim
    for s in shapes:
        for axis, d in enumerate(s, start=ndim - len(s)):
            if d == 1 or d == result[axis]:
                continue
            if result[axis] != 1:
                raise ShapeError(
                    f"shapes {' and '.join(map(str, shapes))} do not broadcast: axis {axis - ndim} is "
                    f"{result[axis]} in one and {d} in another; expected equal sizes or 1"
                )
            result[axis] = d
    return tuple(result)


def normalize_axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front, or ShapeError."""
    if not -ndim <= axis < ndim:
        raise ShapeError(f"axis {axis} is out of range for a tensor of {ndim} dimension{'s' * (ndim != 1)}")
    return axis % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, sorted, without repeats; None is all of them."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:  # what is asked for most
        return (axis % ndim,)
    listed = [axis] if isinstance(axis, (int, np.integer)) else list(axis)
    axes = [normalize_axis(int(a), ndim) for a in listed]
    if len(set(axes)) != len(axes):
        raise ShapeError(f"axis {axis} names the same axis twice")
    return tuple(sorted(axes))
