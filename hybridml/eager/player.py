"""Recorded steps as one Python function on bare arrays: no tensors between them, and buffers used again.

softmax of float32[4, 4] becomes

    def play(s0):
        s1 = f0(np, s0, axis=c0, keepdims=c1)  # max
        s2 = f1(np, s1)  # stop_gradient
        s3 = f2(s0, s2)  # subtract
        del s1, s2
        s4 = f3(s3, s3)  # exp
        del s3
        s5 = f4(np, s4, axis=c2, keepdims=c3)  # sum
        s6 = f5(s4, s5, s4)  # divide
        del s4, s5
        return s6

where the last operand of a ufunc, beyond those it computes with, is the buffer that it writes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hybridml.eager.recorder import Slot, Step

END = 1 << 30


class Lifetimes:
    """Which step is the last to read each slot, and the last to read memory that it may share.

    The result of a ufunc is memory of its own; any other result may be a view of the step's operands, or an operand itself.
    """

    def __init__(self, steps: Sequence[Step], results: Iterable[Any]) -> None:
        self.slot: dict[int, int] = {}
        self.memory: dict[int, int] = {}
        shared: dict[int, set[int]] = {}
        for i, step in enumerate(steps):
            behind: set[int] = set()
            for x in _slots(step.operands):
                self.slot[x.number] = i
                behind |= shared.setdefault(x.number, {x.number})
            self.memory.update(dict.fromkeys(behind, i))
            for r in step.results:
                shared[r.number] = {r.number} if step.op.ufunc is not None else {r.number} | behind
        for x in _slots(results):
            self.slot[x.number] = END
            self.memory.update(dict.fromkeys(shared.get(x.number, ()), END))


def source(
    inputs: Sequence[Slot], steps: Sequence[Step], results: Sequence[Any], single: bool
) -> tuple[str, dict[str, Any]]:
    """The text of the function `play`, and the objects that it names."""
    objects: dict[str, Any] = {"np": np, "asarray": np.asarray}
    lines = [f"def play({', '.join(f's{x.number}' for x in inputs)}):"]
    ends = Lifetimes(steps, results)
    own: dict[
        int, Slot
    ] = {}  # memory of this call alone, which a ufunc may write to once nobody reads it any more

    def named(kind: str, x: Any) -> str:
        name = f"{kind}{sum(n[0] == kind for n in objects)}"
        objects[name] = x
        return name

    def operand(x: Any, as_array: bool) -> str:
        if type(x) is not Slot:
            return named("c", x)
        return (
            f"asarray(s{x.number})" if as_array and not x.spec.shape else f"s{x.number}"
        )  # ufuncs give 0-d results as scalars

    for i, step in enumerate(steps):
        ufunc = step.op.ufunc
        operands = [operand(x, as_array=ufunc is None) for x in step.operands]
        if ufunc is not None:
            (out,) = step.results
            free = [n for n, s in own.items() if ends.memory.get(n) == i and s.spec == out.spec]
            text = f"{named('f', ufunc)}({', '.join(operands + [f's{n}' for n in free[:1]])})"
            if out.spec.shape:
                own[out.number] = out
        else:
            attrs = [f"{k}={named('c', v)}" for k, v in step.attrs.items()]
            text = f"{named('f', step.op.eager)}({', '.join(['np', *operands, *attrs])})"
        lines.append(f"    {', '.join(f's{r.number}' for r in step.results)} = {text}  # {step.op.name}")
        dead = [
            f"s{x.number}"
            for x in {x.number: x for x in _slots(step.operands)}.values()
            if ends.slot[x.number] == i
        ]
        dead += [f"s{r.number}" for r in step.results if r.number not in ends.slot]
        if dead:
            lines.append(f"    del {', '.join(dead)}")
    shown = [operand(x, as_array=False) for x in results]
    lines.append(f"    return {shown[0] if single else '(' + ''.join(f'{x}, ' for x in shown) + ')'}")
    return "\n".join(lines) + "\n", objects


def player(
    inputs: Sequence[Slot], steps: Sequence[Step], results: Sequence[Any], single: bool
) -> Callable[..., Any]:
    """A function from the inputs' arrays to the results' arrays: one array, or a tuple of them.

    Results are slots and arrays.
    """
    text, objects = source(inputs, steps, results, single)
    exec(compile(text, "<a player of hybridml>", "exec"), objects)
    return objects["play"]


def _slots(xs: Iterable[Any]) -> list[Slot]:
    return [x for x in xs if type(x) is Slot]
