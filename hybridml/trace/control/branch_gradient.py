"""The gradient of a branch: a branch between the gradients, each of which computes again what it needs of its side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridml.trace.builder import Builder
from hybridml.trace.control.joint import Joint, is_float, join, zeros_of
from hybridml.trace.control.rows import COND
from hybridml.trace.control.subgraph import emit
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, without_silent_effects


def pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        seeded = [k for k, g in enumerate(grads) if g is not None and is_float(results[k])]
        asked = [
            i for i, (x, w) in enumerate(zip(operands[1:], wanted[1:], strict=True)) if w and is_float(x)
        ]
        found: list[Any] = [None] * len(operands)
        joints = [join(without_silent_effects(attrs[k]), asked, seeded) for k in ("true", "false")]
        having = [i for i in asked if any(i in j.wanted for j in joints)]
        if not seeded or not having:
            return found
        true, false = [_gradients_only(j, having) for j in joints]
        back = emit(COND, [*operands, *[grads[k] for k in seeded]], {"true": true, "false": false})
        for i, g in zip(having, back, strict=True):
            found[i + 1] = g
        return found

    return pull


def _gradients_only(joint: Joint, having: Sequence[int]) -> Graph:
    """The joint graph with nothing but gradients as outputs, zeros where this branch has none."""
    builder = Builder(joint.graph.name)
    with builder:
        inputs = [builder.input(v.spec, v.name) for v in joint.graph.inputs]
        own = dict(zip(joint.wanted, inline(joint.graph, inputs)[joint.n_outputs :], strict=True))
        grads = [own[i] if i in own else zeros_of(joint.graph.inputs[i].spec) for i in having]
        return builder.finish(grads)[0]
