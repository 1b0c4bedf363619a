"""The symbolic tensor: what a traced function computes with instead of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hybridml.eager.tensor import Tensor
from hybridml.errors import SourceLine, TracerError, located, user_line
from hybridml.ops.spec import TensorSpec

if TYPE_CHECKING:
    from hybridml.trace.builder import Builder
    from hybridml.trace.graph import Value


class SymbolicTensor(Tensor):
    """A tensor that stands for a value of a graph under construction: it has a shape and a dtype, but no elements yet."""

    __slots__ = ("_builder", "_made_at", "_value")
    _builder: Builder
    _value: Value
    _made_at: SourceLine | None
    priority = 1

    @property
    def _array(self) -> Any:  # type: ignore[override]
        raise self._no_value("its elements")

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.spec.shape

    @property
    def dtype(self) -> np.dtype:
        return self._value.spec.dtype

    @property
    def ndim(self) -> int:
        return len(self._value.spec.shape)

    @property
    def size(self) -> int:
        return self._value.spec.size

    @property
    def spec(self) -> TensorSpec:
        return self._value.spec

    def _append(self, op: Any, operands: list[Any], attrs: dict[str, Any]) -> Any:
        return self._builder.active(self).append(op, operands, attrs)

    def _no_value(self, what: str) -> TracerError:
        if self._builder.closed:
            return self._builder.escaped(self)
        return TracerError(
            located(
                f"{what} were asked of a symbolic {self.spec}: inside @hml.function `{self._builder.name}` values do not exist "
                "yet, only shapes and dtypes. Use hml operations (hml.where, hml.sin, ...) on it, or compute it outside the function",
                user_line(),
            )
        )

    def numpy(self) -> np.ndarray:
        raise self._no_value("the NumPy values")

    def item(self) -> Any:
        raise self._no_value("a Python number")

    def tolist(self) -> Any:
        raise self._no_value("Python numbers")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise self._no_value("the NumPy values")

    def __float__(self) -> float:
        raise self._no_value("a Python float")

    def __int__(self) -> int:
        raise self._no_value("a Python int")

    def __index__(self) -> int:
        raise self._no_value("a Python int")

    def __bool__(self) -> bool:
        from hybridml.trace.autograph import why_not  # it is made of tensors

        raise self._no_value(f"a Python truth value{why_not()}")

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("a 0-d tensor has no len()")
        return self.shape[0]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"SymbolicTensor({self.spec}, in {self._builder.name})"


class WeakSymbol(SymbolicTensor):
    """A Python number that varies from call to call: weakly typed, as the number itself would be."""

    __slots__ = ()
    weak = True

    def __hash__(self) -> int:
        raise self._no_value("its hash")
