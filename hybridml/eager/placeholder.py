"""Tensors without elements of their own: what is traced, and what stands for many examples at once.

They have a shape and a dtype, and every way to ask for a value is an error that the subclass words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.eager.tensor import Tensor
from hybridml.errors import TracerError
from hybridml.ops.spec import TensorSpec


class Placeholder(Tensor):
    """A tensor that is known by its spec. Subclasses give `spec`, `_append` and the error `_no_value(what)`."""

    __slots__ = ()

    @property
    def spec(self) -> TensorSpec:
        raise NotImplementedError

    def _append(self, op: Any, operands: list[Any], attrs: dict[str, Any]) -> Any:
        """Do what an op on this kind of tensor does; the door calls it."""
        raise NotImplementedError

    def _no_value(self, what: str) -> TracerError:
        raise NotImplementedError

    @property
    def _array(self) -> Any:  # type: ignore[override]
        raise self._no_value("its elements")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype:
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        return len(self.spec.shape)

    @property
    def size(self) -> int:
        return self.spec.size

    def numpy(self) -> np.ndarray:
        raise self._no_value("the NumPy values")

    def item(self) -> Any:
        raise self._no_value("a Python number")

    def tolist(self) -> Any:
        raise self._no_value("Python numbers")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise self._no_value("the NumPy values")

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise self._no_value("the values")

    def __float__(self) -> float:
        raise self._no_value("a Python float")

    def __int__(self) -> int:
        raise self._no_value("a Python int")

    def __index__(self) -> int:
        raise self._no_value("a Python int")

    def __bool__(self) -> bool:
        raise self._no_value("a Python truth value (`if` or `while` on a tensor)")

    def __hash__(self) -> int:
        return id(self)
