"""The symbolic tensor: what a traced function computes with instead of values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hybridml.eager.placeholder import Placeholder
from hybridml.errors import SourceLine, TracerError, located, user_line
from hybridml.ops.spec import TensorSpec

if TYPE_CHECKING:
    from hybridml.trace.builder import Builder
    from hybridml.trace.graph import Value


class SymbolicTensor(Placeholder):
    """A tensor that stands for a value of a graph under construction: it has a shape and a dtype, but no elements yet."""

    __slots__ = ("_builder", "_made_at", "_value")
    _builder: Builder
    _value: Value
    _made_at: SourceLine | None
    priority = 1

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
                f"a symbolic {self.spec} was asked for {what}: inside @hml.function `{self._builder.outermost.name}` values do not exist "
                "yet, only shapes and dtypes. Use hml operations (hml.where, hml.sin, ...) on it, or compute it outside the function",
                user_line(),
            )
        )

    def __bool__(self) -> bool:
        from hybridml.trace.autograph import why_not  # it is made of tensors

        raise self._no_value(f"a Python truth value{why_not()}")

    def __repr__(self) -> str:
        return f"SymbolicTensor({self.spec}, in {self._builder.name})"


class WeakSymbol(SymbolicTensor):
    """A Python number that varies from call to call: weakly typed, as the number itself would be."""

    __slots__ = ()
    weak = True

    def __hash__(self) -> int:
        raise self._no_value("its hash")
