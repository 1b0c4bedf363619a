"""A tensor that stands for every example of a `vmap` at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hybridml.eager.placeholder import Placeholder
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.errors import TracerError, located, user_line
from hybridml.ops.batching import batched, stretched
from hybridml.ops.registry import Op
from hybridml.ops.spec import TensorSpec, spec


class Level:
    """One `vmap` under way.

    Tapes that were recording when it began see what happens to all examples together; tapes that begin inside see one example. So a
    gradient asked for inside is a gradient for each example.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = False
        self.number = 0  # how many levels are outside
        self._outside: list[Any] = []

    @contextmanager
    def entered(self) -> Iterator[Level]:
        """The level as the innermost one; it may be entered again after it has ended, by a gradient."""
        before = self.open, self.number, self._outside
        self.open, self.number, self._outside = True, len(state.now.levels), list(state.now.tapes)
        state.now.levels.append(self)
        try:
            yield self
        finally:
            state.now.levels.remove(self)
            self.open, self.number, self._outside = before

    def sees_examples(self, tape: Any) -> bool:
        """True for a tape that began inside."""
        return not any(t is tape for t in self._outside)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """As it is around the level: with the levels further out, and with the tapes that see all examples together."""
        tapes, levels = state.now.tapes, state.now.levels
        state.now.tapes = [t for t in tapes if not self.sees_examples(t)]
        state.now.levels = levels[: self.number]
        try:
            yield
        finally:
            state.now.tapes, state.now.levels = tapes, levels

    def wrap(self, physical: Tensor) -> BatchTensor:
        """A tensor whose first axis counts the examples, as one example."""
        t = BatchTensor.__new__(BatchTensor)
        t._id = None
        t._physical, t._level = physical, self
        return t

    def physical(self, x: Any) -> Tensor:
        """The tensor with all examples along its first axis; one that is the same for all is stretched."""
        mapped = isinstance(x, BatchTensor) and x._level is self
        return stretched(x._physical if mapped else x, mapped, self.size)


class BatchTensor(Placeholder):
    """One example of a mapped function: shape and dtype are those of the example, and every operation is one on all of them."""

    __slots__ = ("_level", "_physical")
    _level: Level
    _physical: Tensor

    @property
    def priority(self) -> int:  # type: ignore[override]
        return 2 + self._level.number

    @property
    def weak(self) -> bool:  # type: ignore[override]
        return self._physical.weak

    @property
    def spec(self) -> TensorSpec:
        return spec(self._physical.shape[1:], self._physical.dtype)

    def _append(self, op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
        level = self._level
        if not level.open:
            raise TracerError(
                located(
                    f"a tensor of hml.vmap, {self.spec} for each of {level.size} examples, is used after the mapped function ended; "
                    "return it from the function instead of keeping it in a list, an attribute or a global",
                    user_line(),
                )
            )
        mapped = [isinstance(x, BatchTensor) and x._level is level for x in operands]
        physical = [x._physical if m else x for x, m in zip(operands, mapped, strict=True)]
        with level.outside():
            out = batched(op, physical, mapped, level.size, attrs)
        result = tuple([level.wrap(r) for r in out]) if isinstance(out, tuple) else level.wrap(out)
        for tape in state.now.tapes:
            if level.sees_examples(tape):
                tape.record(op, attrs, operands, result)
        return result

    def _no_value(self, what: str) -> TracerError:
        return TracerError(
            located(
                f"a tensor inside hml.vmap was asked for {what}: it is {self.spec} for each of {self._level.size} examples at once. "
                "Use hml operations (hml.where, hml.cond, ...) on it; a variable cannot be assigned a value for each example",
                user_line(),
            )
        )

    def __repr__(self) -> str:
        return f"BatchTensor({self.spec} for each of {self._level.size} examples)"
