"""What a composite does to operands of given shapes and dtypes, written down while it runs on slots instead of tensors.

This is no trace for the compiler: nothing is optimised, and a composite that asks for a value, a variable or an effect is simply not
recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hybridml.eager.dispatch import compute
from hybridml.eager.placeholder import Placeholder
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.ops.registry import Kind, Op
from hybridml.ops.spec import TensorSpec

LARGEST_CONSTANT = 1 << 16  # bytes: a recording stays in memory for as long as calls like it may come


class Unrecordable(Exception):
    """What a composite does depends on more than the shapes and dtypes of its operands."""


class Slot(Placeholder):
    """An operand or a result of a recorded step."""

    __slots__ = ("_recorder", "_spec", "number")
    number: int
    _recorder: Recorder
    _spec: TensorSpec
    priority = 1

    @property
    def spec(self) -> TensorSpec:
        return self._spec

    def _append(self, op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
        return self._recorder.append(op, operands, attrs)

    def _no_value(self, what: str) -> Any:
        return Unrecordable(what)


class Step(NamedTuple):
    """One op of a recording: operands are slots, arrays that never change, and Python scalars."""

    op: Op
    operands: tuple[Any, ...]
    attrs: dict[str, Any]
    results: tuple[Slot, ...]


class Recorder:
    """The trace that is open while a composite is recorded: steps in order, and a refusal of everything that is not one."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._slots = 0

    def slot(self, spec: TensorSpec) -> Slot:
        s = Slot.__new__(Slot)
        s._id = None
        s._recorder, s._spec, s.number = self, spec, self._slots
        self._slots += 1
        return s

    def append(self, op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
        if op.kind in (Kind.EFFECT, Kind.CONTROL, Kind.RANDOM):
            raise Unrecordable(op.name)
        if not any(
            type(x) is Slot for x in operands
        ):  # made of nothing, such as the index along an axis: the same every time
            return compute(op, operands, [x._array if type(x) is Tensor else x for x in operands], attrs)
        specs = op.infer(*[x.spec if isinstance(x, Tensor) else x for x in operands], **attrs)
        several = isinstance(specs, tuple)
        results = tuple([self.slot(s) for s in (specs if several else (specs,))])
        self.steps.append(Step(op, tuple([_constant(x) for x in operands]), attrs, results))
        return results if several else results[0]

    def _refuse(self, *_: Any) -> Any:
        raise Unrecordable("state, or a function of the user's")

    read = assign = create_variable = named = converted = checkpoint = custom_gradient = _refuse


def _constant(x: Any) -> Any:
    if not isinstance(x, Tensor) or type(x) is Slot:
        return x
    array = x._array if type(x) is Tensor else None
    if type(array) is not np.ndarray or _memory(array) > LARGEST_CONSTANT:
        raise Unrecordable("a large constant, or one of another device or trace")
    return array


def _memory(array: np.ndarray) -> int:
    """Bytes behind an array: one that is stretched by broadcasting keeps little."""
    n = array.itemsize
    for d, s in zip(array.shape, array.strides, strict=True):
        n *= d if s else 1
    return n


def record(f: Callable[[list[Slot]], Any], specs: Sequence[TensorSpec]) -> tuple[list[Slot], list[Step], Any]:
    """Run `f` on slots of these specs: the slots, the steps, and what `f` returned. Raises Unrecordable."""
    recorder = Recorder()
    slots = [recorder.slot(s) for s in specs]
    saved = state.now.tapes, state.now.traces, state.now.levels
    state.now.tapes, state.now.traces, state.now.levels = [], [recorder], []
    try:
        return slots, recorder.steps, f(slots)
    finally:
        state.now.tapes, state.now.traces, state.now.levels = saved
