"""A step with a gradient rule of its own, recorded on every tape as that tape sees it.

Inside a `vmap`, tapes that began outside see tensors of all examples and tapes that began inside see one example. A rule is
written for one example; for the others it is run inside the levels between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridml.eager.batch_tensor import BatchTensor, Level
from hybridml.eager.state import state
from hybridml.eager.tape import Pullback
from hybridml.eager.tensor import Tensor
from hybridml.ops.reductions import sum as sum_
from hybridml.ops.spec import TensorSpec


def levels_between(tape: Any, x: Any) -> list[Level]:
    """The levels at which a tape sees all examples of `x`, innermost first."""
    found = []
    while isinstance(x, BatchTensor) and not x._level.sees_examples(tape):
        found.append(x._level)
        x = x._physical
    return found


def as_seen_by(tape: Any, x: Any) -> Any:
    """What a tape knows of a tensor or variable: of examples, the tensor that holds them all."""
    for _ in levels_between(tape, x):
        x = x._physical
    return x


def is_watched(tape: Any, x: Any) -> bool:
    return tape.is_watching(as_seen_by(tape, x))


def record_step(operands: Sequence[Any], results: Sequence[Tensor], pullback: Pullback) -> None:
    """Record a step on the tapes that watch one of its operands.

    `pullback(gradients of the results, which operands want one)` gives the gradients of the operands; it runs through the door.
    """
    for tape in state.now.tapes:
        seen = [as_seen_by(tape, x) for x in operands]
        ids = [x._id if tape.is_watching(x) else None for x in seen]
        if any(i is not None for i in ids):
            tape.add(ids, [as_seen_by(tape, r) for r in results], _outside(tape, operands, results, pullback))


def _outside(tape: Any, operands: Sequence[Any], results: Sequence[Tensor], pullback: Pullback) -> Pullback:
    ins = [levels_between(tape, x) for x in operands]
    outs = [levels_between(tape, r) for r in results]
    levels = sorted({id(a): a for path in (*ins, *outs) for a in path}.values(), key=lambda a: a.number)
    if not levels:
        return pullback
    specs = [x.spec for x in operands]

    def run(depth: int, grads: list[Any], wanted: list[bool]) -> list[Any]:
        if depth == len(levels):
            return pullback(grads, wanted)
        with levels[depth].entered() as level:
            inner = [
                level.wrap(g) if g is not None and level in path else g
                for g, path in zip(grads, outs, strict=True)
            ]
            found = run(depth + 1, inner, wanted)
            with level.outside():
                return [
                    None if g is None else level.physical(g) if level in path else _total(level, g, s)
                    for g, path, s in zip(found, ins, specs, strict=True)
                ]

    return lambda grads, wanted: run(0, grads, wanted)


def _total(level: Level, g: Any, one: TensorSpec) -> Any:
    """The gradient of an operand that is the same for all examples: the sum over them."""
    return sum_(level.physical(g), axis=0)
