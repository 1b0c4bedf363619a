"""A body and its gradient as one graph: what all gradients of control flow are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import dtypes
from hybridml.eager.creation import zeros
from hybridml.eager.state import state
from hybridml.eager.tape import GradientTape
from hybridml.ops.spec import TensorSpec
from hybridml.ops.view import broadcast_to
from hybridml.trace.builder import Builder
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, Value
from hybridml.trace.symbol import SymbolicTensor


def is_float(v: Any) -> bool:
    return dtypes.is_float(v.dtype)


def node_of(head: SymbolicTensor) -> tuple[Builder, int]:
    """The builder and the position of the node that made a symbol."""
    builder = head._builder
    for i in reversed(range(len(builder.nodes))):
        if head._value in builder.nodes[i].outputs:
            return builder, i
    raise AssertionError("a result without a node")


def zeros_of(s: TensorSpec) -> Any:
    """Zeros that take no memory."""
    return broadcast_to(zeros((), dtype=s.dtype), s.shape)


@dataclass
class Joint:
    """A body and its gradient in one graph: inputs of the body, then seeds; outputs of the body, then gradients."""

    graph: Graph
    n_inputs: int
    n_outputs: int
    wanted: tuple[int, ...]  # inputs that have a gradient, in the order of the gradients

    @property
    def seeds(self) -> tuple[Value, ...]:
        return self.graph.inputs[self.n_inputs :]

    @property
    def gradients(self) -> tuple[Value, ...]:
        return self.graph.outputs[self.n_outputs :]


def join(body: Graph, wanted: Sequence[int], seeded: Sequence[int]) -> Joint:
    """Trace a body and the gradient of its outputs `seeded` with respect to its inputs `wanted`."""
    builder = Builder(f"{body.name}_backward")
    tapes, state.now.tapes = state.now.tapes, []
    try:
        with builder:
            inputs = [builder.input(v.spec, v.name) for v in body.inputs]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([inputs[i] for i in wanted])
                outputs = inline(body, inputs)
            seeds = [builder.input(body.outputs[k].spec) for k in seeded]
            found = tape._gradients([outputs[k] for k in seeded], seeds, [inputs[i] for i in wanted])
            graph, _ = builder.finish([*outputs, *[g for g in found if g is not None]])
    finally:
        state.now.tapes = tapes
    having = tuple([i for i, g in zip(wanted, found, strict=True) if g is not None])
    return Joint(graph, len(body.inputs), len(body.outputs), having)
