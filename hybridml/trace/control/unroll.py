"""A control-flow node run through the door, op by op: what happens to it where there is no trace to write it into.

Branches are decided and loops unrolled, so tapes see every op inside.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from hybridml.eager.creation import zeros
from hybridml.eager.dispatch import run
from hybridml.ops.joining import stack
from hybridml.ops.registry import Op
from hybridml.trace.graph import Graph

Inline = Callable[[Graph, Sequence[Any]], list[Any]]


def unroll(op: Op, operands: Sequence[Any], attrs: dict[str, Any], inline: Inline) -> tuple[Any, ...]:
    """The node's results on eager tensors; `inline` runs a graph through the door."""
    if op.provider == "call" and "backward" not in attrs:
        return run(op, tuple(operands), attrs)  # recorded as one step
    if op.provider == "call":
        return importlib.import_module("hybridml.trace.control.custom").run_custom(operands, attrs)
    if op.provider == "cond":
        return tuple(inline(attrs["true"] if operands[0] else attrs["false"], operands[1:]))
    carried = attrs["carried"]
    now = list(operands[:carried])
    if op.provider == "while":
        fixed = operands[carried:]
        while inline(attrs["cond"], [*now, *fixed])[0]:
            now = inline(attrs["body"], [*now, *fixed])
        return tuple(now)
    sliced, length, body = attrs["sliced"], attrs["length"], attrs["body"]
    xs, fixed = operands[carried : carried + sliced], operands[carried + sliced :]
    rows: list[Any] = [None] * length
    for t in reversed(range(length)) if attrs["reverse"] else range(length):
        out = inline(body, [*now, *[x[t] for x in xs], *fixed])
        now, rows[t] = out[:carried], out[carried:]
    ys = [stack(list(each)) for each in zip(*rows, strict=True)]
    return (
        (*now, *ys)
        if length
        else (*now, *[zeros((0, *v.shape), dtype=v.dtype) for v in body.outputs[carried:]])
    )
