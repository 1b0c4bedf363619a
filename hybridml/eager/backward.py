"""The walk back along a tape: gradients of the results of each step become gradients of its operands.

Rules are written in public ops, so under another tape or inside a trace the walk is taped or traced. Where nothing is going on around,
a training loop takes the same walk again and again: then the second one is recorded, and those that follow are played on bare arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hybridml.eager import quiet
from hybridml.eager.creation import zeros_like
from hybridml.eager.player import player
from hybridml.eager.recorder import Slot, Unrecordable, record
from hybridml.eager.recordings import Odd, Recordings, key_of
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.ops.registry import Op
from hybridml.ops.spec import TensorSpec, spec
from hybridml.ops.view import sum_to

Rule = Callable[[list[Any], list[bool]], list[Any]]


class Entry:
    """One recorded step: who went in, who came out, and what its gradient rule reads.

    `inputs` and `outputs` are the tape's names, None for an operand that is not watched. `operands` and `results` are tensors where the
    rule reads their elements, else specs. A step with a `rule` of its own has no op; an op that is `played` says itself which of them are
    tensors, and of what shapes and dtypes all are.
    """

    __slots__ = ("attrs", "inputs", "op", "operands", "outputs", "played", "results", "rule")

    def __init__(
        self,
        inputs: Sequence[int | None],
        outputs: Sequence[int],
        op: Op | None,
        attrs: dict[str, Any],
        operands: Sequence[Any],
        results: Sequence[Any],
        rule: Rule | None = None,
        played: bool = False,
    ) -> None:
        self.inputs, self.outputs, self.rule, self.played = inputs, outputs, rule, played
        self.op, self.attrs, self.operands, self.results = op, attrs, operands, results

    def pull(self, grads: list[Any], wanted: list[bool]) -> list[Any]:
        """The gradients of the operands that want one, from those of the results (None where there is none)."""
        if self.rule is not None:
            return self.rule(grads, wanted)
        assert self.op is not None
        if self.op.pullback is not None:
            return self.op.pullback(self.attrs, self.operands, self.results)(grads, wanted)  # type: ignore[no-any-return]  # a list
        assert self.op.vjps is not None
        several = len(self.results) > 1
        g = (
            [zeros_like(r) if g is None else g for g, r in zip(grads, self.results, strict=True)]
            if several
            else grads[0]
        )
        out = self.results if several else self.results[0]
        found: list[Any] = []
        for rule, x, want in zip(self.op.vjps, self.operands, wanted, strict=False):
            if not want or rule is None:
                found.append(None)
                continue
            gx = rule(g, out, *self.operands, **self.attrs)
            if gx is not None:
                if gx.shape != x.shape:
                    gx = sum_to(gx, x.shape)
                if gx.dtype is not x.dtype:
                    gx = gx.astype(x.dtype)
            found.append(gx)
        return found


LONGEST = 4000  # steps of a walk that is recorded: such as a loop that ran for long is rarely taken again, and slow to compile

Seeds = Sequence[tuple[int, Any]]  # names of targets, and the gradients that the walk begins with
Path = Sequence[tuple[Entry, list[bool]]]


def gradients(entries: Iterable[Entry], seeds: Seeds, sources: set[int]) -> dict[int, Any]:
    """The gradients of the sources that are reached, by name."""
    reached = set(sources)
    path: list[tuple[Entry, list[bool]]] = []
    for e in entries:
        wanted = [i in reached for i in e.inputs]
        if True in wanted:
            reached.update(e.outputs)
            path.append((e, wanted))
    seeds = [(i, g) for i, g in seeds if i in reached]
    now = state.now
    if len(path) <= LONGEST and not (now.tapes or now.traces or now.levels):
        try:
            return _played(path, seeds, sources)
        except Odd:
            pass
    return _walk(path, seeds, sources)


def _walk(path: Path, seeds: Seeds, sources: set[int]) -> dict[int, Any]:
    grads: dict[int, Any] = {}
    for i, g in seeds:
        grads[i] = grads[i] + g if i in grads else g
    for e, wanted in reversed(path):
        gs = [grads.get(o) if o in sources else grads.pop(o, None) for o in e.outputs]
        if all([g is None for g in gs]):
            continue
        for name, g in zip(e.inputs, e.pull(gs, wanted), strict=False):
            if g is not None and name is not None:
                grads[name] = grads[name] + g if name in grads else g
    return {i: grads[i] for i in sources if i in grads}


# The same walk, played

_recordings = Recordings()


def _played(path: Path, seeds: Seeds, sources: set[int]) -> dict[int, Any]:
    """Raises Odd where there is nothing to play."""
    kind, arrays, numbers = _kind(path, seeds, sources)
    try:
        recording = _recordings.known.get(kind)
    except TypeError:  # an attribute that has no hash
        raise Odd from None
    if not recording:
        _recordings.note(kind, lambda: _recorded(path, seeds, sources, arrays, numbers))
        raise Odd
    play, found = recording
    token = quiet.enter_with(quiet.QUIET)
    try:
        out = play(*arrays)
    except Exception:
        raise Odd from None  # the walk tells what is wrong
    finally:
        quiet.leave(token)
    names = {numbers[i]: i for i in sources if i in numbers}
    return {names[n]: wrap(g) for n, g in zip(found, out, strict=True)}


def _kind(path: Path, seeds: Seeds, sources: set[int]) -> tuple[tuple[Any, ...], list[Any], dict[int, int]]:
    """All that the walk depends on but elements; the arrays that it reads; and the tape's names, numbered as they come."""
    numbers: dict[int, int] = {}
    key: list[Any] = []
    arrays: list[Any] = []
    for e, _ in path:
        if e.rule is not None:
            raise Odd
        key.append(e.op)
        if e.played:
            for x, i in zip((*e.operands, *e.results), (*e.inputs, *e.outputs), strict=True):
                if type(x) is Tensor:
                    arrays.append(x._array)
                key.append(None if i is None else numbers.setdefault(i, len(numbers)))
            continue
        for k, v in e.attrs.items():
            cls = type(v)
            key += (
                k,
                cls,
                v.hex() if cls is float else v,
            )  # rows see to it that equal attributes of one type mean the same
        for xs, names in ((e.operands, e.inputs), (e.results, e.outputs)):
            for x, i in zip(xs, names, strict=True):
                cls = type(x)
                if cls is Tensor:
                    a = x._array
                    if type(a) is not np.ndarray:
                        raise Odd
                    arrays.append(a)
                    shape, dtype = a.shape, a.dtype
                elif cls is TensorSpec:
                    shape, dtype = x.shape, x.dtype
                else:
                    key.append(key_of(x))
                    continue
                key += (cls, shape, dtype, None if i is None else numbers.setdefault(i, len(numbers)))
    key.append("seeds")
    for i, g in seeds:
        if type(g) is not Tensor or type(g._array) is not np.ndarray:
            raise Odd
        key += (g._array.shape, g._array.dtype, numbers.setdefault(i, len(numbers)))
        arrays.append(g._array)
    key.append("sources")
    key += sorted([numbers[i] for i in sources if i in numbers])
    return tuple(key), arrays, numbers


def _recorded(
    path: Path, seeds: Seeds, sources: set[int], arrays: Sequence[Any], numbers: dict[int, int]
) -> tuple[Callable[..., Any], list[int]]:
    """What plays the walk, and the numbers of the sources whose gradients it gives."""

    def on(slots: Sequence[Slot]) -> dict[int, Any]:
        rest = iter(slots)

        def slotted(xs: Sequence[Any]) -> list[Any]:
            return [next(rest) if type(x) is Tensor else x for x in xs]

        entries = [
            (
                Entry(e.inputs, e.outputs, e.op, e.attrs, slotted(e.operands), tuple(slotted(e.results))),
                wanted,
            )
            for e, wanted in path
        ]
        return _walk(entries, [(i, next(rest)) for i, _ in seeds], sources)

    inputs, steps, grads = record(on, [spec(a.shape, a.dtype) for a in arrays])
    if not all(type(g) is Slot for g in grads.values()):
        raise Unrecordable("a gradient that is no step's result")
    return player(inputs, steps, list(grads.values()), single=False), [numbers[i] for i in grads]
