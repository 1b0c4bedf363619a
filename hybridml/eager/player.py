"""Recorded steps as one Python function on bare arrays: no tensors between them, and buffers used again.

softmax of float32[4, 4] becomes

    def play(s0):
        s1 = f4(np, s0, axis=c2, keepdims=c3)  # max
        s2 = f5(np, s1)  # stop_gradient
        del s1
        s3 = f6(s0, s2)  # subtract
        del s0, s2
        s4 = f7(s3, s3)  # exp
        del s3
        s5 = f10(np, s4, axis=c8, keepdims=c9)  # sum
        s6 = f11(s4, s5, s4)  # divide
        del s4, s5
        return s6

where the last operand of a ufunc, beyond those it computes with, is the buffer that it writes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.eager.recorder import Slot, Step
from hybridml.ops.registry import Kind
from hybridml.ops.spec import is_scalar


def _dying(
    inputs: Sequence[Slot], steps: Sequence[Step], results: Sequence[Any], buffers: dict[int, Slot]
) -> dict[int, list[int]]:
    """For each step the slots that nobody needs after it.

    A buffer is needed until its memory is read for the last time: a result that is no ufunc's may be a view of the step's operands, or
    an operand itself.
    """
    ends: dict[int, int] = {}
    behind: dict[int, frozenset[int]] = {}  # the buffers whose memory a slot may share
    nothing: frozenset[int] = frozenset()
    for i, step in enumerate(steps):
        read = {x.number for x in _slots(step.operands)}
        memory = nothing.union(*[behind.get(n, nothing) for n in read])
        ends.update(dict.fromkeys(read | memory, i))
        for r in step.results:
            ends[r.number] = i
            behind[r.number] = frozenset((r.number,)) if r.number in buffers else memory
    kept = {x.number for x in _slots(results)}
    kept = kept.union(*[behind.get(n, nothing) for n in kept])
    dying: dict[int, list[int]] = {}
    for n, i in ends.items():
        if n not in kept:
            dying.setdefault(i, []).append(n)
    return dying


def source(
    inputs: Sequence[Slot], steps: Sequence[Step], results: Sequence[Any], single: bool
) -> tuple[str, dict[str, Any]]:
    """The text of the function `play`, and the objects that it names."""
    objects: dict[str, Any] = {"np": np, "asarray": np.asarray}
    lines = [f"def play({', '.join(f's{x.number}' for x in inputs)}):"]
    # Memory of this call alone. What a ufunc makes of 0-d operands is a scalar, and no buffer.
    buffers = {r.number: r for s in steps for r in s.results if _ufunc(s) is not None and r.spec.shape}
    dying = _dying(inputs, steps, results, buffers)

    def named(kind: str, x: Any) -> str:
        name = f"{kind}{len(objects)}"
        objects[name] = x
        return name

    def operand(x: Any, as_array: bool, dtype: np.dtype | None = None) -> str:
        if type(x) is not Slot:
            return named("c", _typed(x, dtype))
        return f"asarray(s{x.number})" if as_array and not x.spec.shape else f"s{x.number}"

    for i, step in enumerate(steps):
        ufunc, dtype = _ufunc(step), _common_dtype(step)
        operands = [operand(x, as_array=ufunc is None, dtype=dtype) for x in step.operands]
        dead = dying.get(i, ())
        if ufunc is not None:
            (out,) = step.results
            free = [n for n in dead if n in buffers and n != out.number and buffers[n].spec == out.spec]
            text = f"{named('f', ufunc)}({', '.join(operands + [f's{n}' for n in free[:1]])})"
        else:
            attrs = [f"{k}={named('c', v)}" for k, v in step.attrs.items()]
            text = f"{named('f', _eager(step))}({', '.join(['np', *operands, *attrs])})"
        lines.append(f"    {', '.join(f's{r.number}' for r in step.results)} = {text}  # {step.op.name}")
        if dead:
            lines.append(f"    del {', '.join(f's{n}' for n in dead)}")
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


def _ufunc(step: Step) -> Any:
    """What computes the step, if it is a ufunc that knows its dtypes."""
    foreign = any([hasattr(x, "dtype") and x.dtype == dtypes.bfloat16 for x in step.operands])
    return None if foreign else step.op.ufunc


def _eager(step: Step) -> Callable[..., Any]:
    """The row's eager form, which looks for operands of half precision only where there are any."""
    half = any([hasattr(x, "dtype") and dtypes.is_half(x.dtype) for x in step.operands])
    return step.op.eager if half else step.op.direct


def _common_dtype(step: Step) -> np.dtype | None:
    """The dtype that Python scalars of the step give way to; None if they do not."""
    if step.op.kind is not Kind.ELEMENTWISE or not step.op.kept:
        return None
    return next((x.dtype for x in step.operands[step.op.fixed :] if hasattr(x, "dtype")), None)


def _typed(x: Any, dtype: np.dtype | None) -> Any:
    """A Python scalar as an array of its neighbours' dtype, which a ufunc takes in half the time."""
    if dtype is None or not is_scalar(x):
        return x
    try:
        with np.errstate(all="ignore"):
            return np.array(x, dtype)
    except OverflowError:  # as large as the scalar is: the step tells
        return x


def _slots(xs: Iterable[Any]) -> list[Slot]:
    return [x for x in xs if type(x) is Slot]
