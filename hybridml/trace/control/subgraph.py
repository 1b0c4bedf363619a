"""Tracing a branch or a loop body into a sub-graph, and closing it over what it reads from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.ops.registry import Op
from hybridml.ops.spec import TensorSpec
from hybridml.symbolic import is_number
from hybridml.trace.builder import Builder
from hybridml.trace.graph import Graph, Value, has_effects
from hybridml.trace.signature import leaf_paths


@dataclass
class Body:
    """A traced function: its own inputs, and what it returned (leaves are tensors, scalars or any Python objects)."""

    builder: Builder
    inputs: list[Value]
    leaves: list[Any]
    structure: pytree.Structure

    def value(self, leaf: Any) -> Value:
        v = self.builder.value_of(lift(leaf))
        assert isinstance(v, Value)
        return v


def trace_body(
    name: str,
    f: Callable[..., Any],
    structure: pytree.Structure,
    specs: Sequence[TensorSpec],
    names: Sequence[str],
) -> Body:
    """Run `f(*args)` on symbols, where `args` is a tuple of that structure; it may read any symbol of the traces around it.

    Tapes that are open outside do not see what happens inside: they see the node that will hold the sub-graph.
    """
    parent: Any = state.now.traces[-1] if state.now.traces else None
    builder = Builder(name, parent=parent, tapes=state.now.tapes)
    tapes, state.now.tapes = state.now.tapes, []
    try:
        with builder:
            symbols = [builder.input(s, n) for s, n in zip(specs, names, strict=True)]
            result = f(*pytree.unflatten(structure, symbols))
            leaves, out = pytree.flatten(result)
            leaves = [x.value() if isinstance(x, Variable) else x for x in leaves]
    except Exception as e:
        builder.outermost.abandoned = e
        raise
    finally:
        state.now.tapes = tapes
    return Body(builder, list(builder.inputs), leaves, out)


def is_data(x: Any) -> bool:
    """True for what becomes a tensor in a sub-graph."""
    return isinstance(x, Tensor) or is_number(x) or hasattr(x, "__array__")


class Surroundings:
    """What several bodies of one node read from outside, as one list of operands."""

    def __init__(self, bodies: Sequence[Body], carried: Sequence[Variable] = ()) -> None:
        """Variables in `carried` are loop variables, and so no invariants."""
        self._bodies = bodies
        self._carried = list(carried)
        variables = dict.fromkeys(v for b in bodies for v in b.builder.variables)
        self.variables = [v for v in variables if v not in set(self._carried)]

    def captures(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for b in self._bodies:
            for key, (_, tensor) in b.builder.captures.items():
                found.setdefault(key, tensor)
        return found

    def operands(self) -> list[Tensor]:
        """Read now, in the enclosing trace, and so seen by its tapes."""
        return [v.value() for v in self.variables] + list(self.captures().values())

    def close(self, body: Body, explicit: Sequence[Value], outputs: Sequence[Value], name: str = "") -> Graph:
        """The sub-graph over (explicit inputs, carried variables, invariant variables, captures)."""
        own = body.builder.variables
        inputs = [
            *explicit,
            *[own[v] if v in own else Value(v.spec, v.name) for v in (*self._carried, *self.variables)],
        ]
        taken = body.builder.captures
        inputs += [taken[key][0] if key in taken else Value(x.spec) for key, x in self.captures().items()]
        return body.builder.body(inputs, outputs, name)


def assigned(bodies: Sequence[Body]) -> list[Variable]:
    """The variables that any of the bodies assigns, in the order of first use."""
    return list(dict.fromkeys(v for b in bodies for v in b.builder.assigned()))


def final(body: Body, variable: Variable) -> Value:
    """A variable's value at the end of a body, which may not have touched it."""
    now = body.builder.assigned().get(variable)
    if now is None:
        now = body.builder.read(variable)
    v = body.builder.value_of(now)
    assert isinstance(v, Value)
    return v


def emit(op: Op, operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    """Write a node into the trace that is open."""
    builder = state.now.traces[-1]
    results = builder.append(op, list(operands), attrs)
    assert isinstance(results, tuple)
    return results


def ensure_result(bodies: Sequence[Body], outputs: Sequence[list[Value]]) -> None:
    """Give bodies without results, which run for their effects, a result that stands for having run."""
    if not outputs[0] and any(has_effects(n) for b in bodies for n in b.builder.nodes):
        for b, values in zip(bodies, outputs, strict=True):
            values.append(b.value(asarray(0)))


def weak_tensor(x: Any, like: TensorSpec) -> Tensor:
    """A Python scalar in the dtype of a tensor that it may stand beside, anything else as it is."""
    if type(x) in (bool, int, float) and dtypes.promote([like.dtype], [x]) == like.dtype:
        return asarray(x, dtype=like.dtype)
    return lift(x)


def paths(structure: pytree.Structure, name: str) -> list[str]:
    """A name for each leaf: `name[0]['h']`."""
    return [name + p for p in leaf_paths(structure)]
