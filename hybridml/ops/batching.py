"""Batching rules: an op on one example, written as the op on all of them, whose first axis counts the examples.

There is one rule a kind, and so a new row has one without writing it. It rests on how rows spell their attributes: `axis` counts
axes from the front, `shape` is a whole shape, and so on (`_ATTRIBUTES`). A row whose attributes say something else falls back to one
example after the other, which is right and slow; `Op.batch` is for rows that can do better. The row tests compare every row with
that fallback.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridml.ops.door import call
from hybridml.ops.joining import stack
from hybridml.ops.registry import Kind, Op
from hybridml.ops.spec import TensorSpec, all_equal, is_scalar
from hybridml.ops.view import broadcast_to, reshape, strided_slice

# How an attribute of one example becomes that of all: (value, number of examples) -> value.
_ATTRIBUTES: dict[str, Callable[[Any, int], Any]] = {
    "axis": lambda v, n: v + 1 if isinstance(v, int) else tuple([a + 1 for a in v]),
    "axes": lambda v, n: (0, *[a + 1 for a in v]),
    "shape": lambda v, n: (n, *v),
    "widths": lambda v, n: ((0, 0), *v),
    "starts": lambda v, n: (0, *v),
    "stops": lambda v, n: (n, *v),
    "steps": lambda v, n: (1, *v),
} | dict.fromkeys(
    ("keepdims", "dtype", "value", "descending", "reverse", "ta", "tb", "k", "message", "epsilon"),
    lambda v, n: v,
)  # these mean the same for any number of examples

_ONE_BY_ONE = (
    Kind.RANDOM,
    Kind.EFFECT,
    Kind.CONTROL,
)  # a state, a side effect and a decision are each example's own


def batched(op: Op, operands: Sequence[Any], mapped: Sequence[bool], size: int, attrs: dict[str, Any]) -> Any:
    """The results of `op` for `size` examples, each with the examples along its first axis.

    An operand that is `mapped` has them along its first axis too; one that is not is the same for all examples.
    """
    if op.batch is not None:
        return op.batch(list(operands), list(mapped), size, attrs)
    known = all(k in _ATTRIBUTES and v is not None for k, v in attrs.items())
    if op.kind in _ONE_BY_ONE or not known:
        return one_by_one(op, operands, mapped, size, attrs)
    wider = {k: _ATTRIBUTES[k](v, size) for k, v in attrs.items()}
    return call(op, *aligned(operands, mapped, size, stretch=op.kind is Kind.INDEX), **wider)


def aligned(operands: Sequence[Any], mapped: Sequence[bool], size: int, stretch: bool = False) -> list[Any]:
    """The operands so that they broadcast as those of one example do, with the examples in front.

    With `stretch`, operands that are not mapped get the axis of examples too, as do operands that would otherwise no longer have
    the shape of their neighbours.
    """
    shapes = [
        x.shape[1:] if m else x.shape for x, m in zip(operands, mapped, strict=True) if not is_scalar(x)
    ]
    ndim = max(map(len, shapes))
    stretch = stretch or all_equal(shapes)
    return [
        x if is_scalar(x)
        else _after_examples(x, ndim) if m
        else broadcast_to(x, (size, *(1,) * (ndim - x.ndim), *x.shape)) if stretch
        else x
        for x, m in zip(operands, mapped, strict=True)
    ]  # fmt: skip


def _after_examples(x: Any, ndim: int) -> Any:
    """Axes of size 1 after the first, so that each example has `ndim` dimensions."""
    return reshape(x, (x.shape[0], *(1,) * (ndim + 1 - x.ndim), *x.shape[1:]))


def stretched(x: Any, mapped: bool, size: int) -> Any:
    """An operand with the examples along its first axis."""
    return x if mapped else broadcast_to(x, (size, *x.shape))


def one_by_one(
    op: Op, operands: Sequence[Any], mapped: Sequence[bool], size: int, attrs: dict[str, Any]
) -> Any:
    """The definition: each example on its own, and the results stacked."""
    if size == 0:
        specs = [
            x if is_scalar(x) else TensorSpec(x.shape[1:] if m else x.shape, x.dtype)
            for x, m in zip(operands, mapped, strict=True)
        ]
        found = op.infer(*specs, **attrs)
        rows: list[Any] = []
        outs = found if isinstance(found, tuple) else (found,)
        empty = tuple([_nothing(operands, mapped, s) for s in outs])
        return empty if isinstance(found, tuple) else empty[0]
    rows = [
        call(op, *[_example(x, i) if m else x for x, m in zip(operands, mapped, strict=True)], **attrs)
        for i in range(size)
    ]
    if isinstance(rows[0], tuple):
        return tuple([stack(list(each)) for each in zip(*rows, strict=True)])
    return stack(rows)


def _example(x: Any, i: int) -> Any:
    n = x.ndim
    return reshape(strided_slice(x, (i, *(0,) * (n - 1)), (i + 1, *x.shape[1:]), (1,) * n), x.shape[1:])


def _nothing(operands: Sequence[Any], mapped: Sequence[bool], one: TensorSpec) -> Any:
    """No examples of a result."""
    like = next(x for x, m in zip(operands, mapped, strict=True) if m)
    return reshape(like, (-1,))[:0].astype(one.dtype).reshape((0, *one.shape))
