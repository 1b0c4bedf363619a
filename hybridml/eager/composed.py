"""A composite's recording: its steps as a player, and as one step of a tape.

On a tape, the step's results are the composite's and, besides, what the gradient rules of its own steps read. So a tape around a tape
follows what the inner gradient was computed from, as if the steps had been recorded one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from hybridml import dtypes
from hybridml.eager.backward import Entry, gradients
from hybridml.eager.player import player
from hybridml.eager.recorder import Slot, Step
from hybridml.eager.tensor import Tensor, wrap
from hybridml.ops.registry import Kind, Op


class Composed:
    """What a composite function does to operands of known shapes and dtypes. `results` are slots and arrays."""

    def __init__(
        self, name: str, inputs: Sequence[Slot], steps: Sequence[Step], results: Sequence[Any], single: bool
    ) -> None:
        self.inputs, self.steps, self.results, self.single = inputs, steps, results, single
        self.play = player(inputs, steps, results, single)
        self.op = Op(name, Kind.EXTERN, infer=_nobody_infers, eager=self.play, pullback=self._pullback)

    @functools.cached_property
    def _differentiable(self) -> list[tuple[Step, list[int | None]]]:
        """The steps that a tape would have recorded, with the numbers of their watched operands."""
        watched = {x.number for x in self.inputs if dtypes.is_float(x.spec.dtype)}
        found = []
        for step in self.steps:
            ids = [x.number if type(x) is Slot and x.number in watched else None for x in step.operands]
            if step.op.vjps is not None and any([i is not None for i in ids]):
                found.append((step, ids))
                watched.update([r.number for r in step.results if dtypes.is_float(r.spec.dtype)])
        return found

    @functools.cached_property
    def _read(self) -> dict[int, Slot]:
        """The slots whose elements a gradient rule reads."""
        found: dict[int, Slot] = {}
        for step, _ in self._differentiable:
            xs = (
                *(step.operands if step.op.reads_inputs else ()),
                *(step.results if step.op.reads_output else ()),
            )
            found |= {x.number: x for x in xs if type(x) is Slot}
        return found

    @functools.cached_property
    def _kept(self) -> list[Slot]:
        """Results besides the composite's own."""
        have = {x.number for x in (*self.inputs, *self.results) if type(x) is Slot}
        return [x for n, x in self._read.items() if n not in have]

    @functools.cached_property
    def play_kept(self) -> Callable[..., Any]:
        """The player that also gives what gradient rules read: always a tuple."""
        return player(self.inputs, self.steps, [*self.results, *self._kept], single=False)

    def recorded(self, tapes: Sequence[Any], operands: Sequence[Tensor], results: Sequence[Tensor]) -> Any:
        """Tell the tapes of a call, and give its results."""
        kept = [x if s.number in self._read else s.spec for x, s in zip(operands, self.inputs, strict=True)]
        for tape in tapes:
            tape.record_played(self.op, operands, kept, results)
        return results[0] if self.single else tuple(results[: len(self.results)])

    def _pullback(self, attrs: dict[str, Any], operands: Sequence[Any], results: Sequence[Any]) -> Any:
        """The rule of a call: the walk over its own steps."""
        slots = (*self.inputs, *self.results, *self._kept)
        values = {s.number: x for s, x in zip(slots, (*operands, *results), strict=True) if type(s) is Slot}

        def value(x: Any, read: bool) -> Any:
            if type(x) is Slot:
                return values[x.number] if read else x.spec
            return wrap(x) if hasattr(x, "dtype") else x

        entries = [
            Entry(
                ids,
                [r.number for r in step.results],
                step.op,
                step.attrs,
                [value(x, step.op.reads_inputs) for x in step.operands],
                tuple([value(r, step.op.reads_output) for r in step.results]),
            )
            for step, ids in self._differentiable
        ]

        def rule(grads: list[Any], wanted: list[bool]) -> list[Any]:
            seeds = [
                (s.number, g)
                for s, g in zip(slots[len(self.inputs) :], grads, strict=True)
                if g is not None and type(s) is Slot
            ]
            found = gradients(
                entries, seeds, {s.number for s, w in zip(self.inputs, wanted, strict=True) if w}
            )
            return [found.get(s.number) for s in self.inputs]

        return rule


def _nobody_infers(*_: Any, **__: Any) -> Any:
    raise AssertionError("a recording is no op of a graph")
