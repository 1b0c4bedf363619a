"""One run of a Python function on symbols: what it wrote down."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Sequence
from typing import Any, NamedTuple

from hybridml import collection, pytree
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import HybridMLError, TraceError, add_users_line
from hybridml.ops.spec import TensorSpec
from hybridml.trace.builder import Builder
from hybridml.trace.graph import Graph
from hybridml.trace.guard import NUMBERS
from hybridml.trace.outputs import OutputPlan
from hybridml.trace.signature import is_tensor, spec_of


class Written(NamedTuple):
    """A graph, its variables in order, what is made of its outputs, the seconds that took, and the ids of variables known by name."""

    graph: Graph
    variables: list[Variable]
    outputs: OutputPlan
    seconds: float
    named: frozenset[int]


def write(
    builder: Builder,
    run: Callable[[Sequence[Any], dict[str, Any]], Any],
    leaves: Sequence[Any],
    structure: pytree.Structure,
    names: Sequence[str],
    numbers: Collection[int],
    symbolic: Callable[[int, TensorSpec], TensorSpec],
) -> Written:
    """Run `run(args, kwargs)` with symbols in place of tensors, and of the Python numbers at the positions `numbers`.

    `symbolic` gives the spec of the tensor at a position from the one of the call.
    """
    started = time.perf_counter()
    tapes, state.now.tapes = state.now.tapes, []
    try:
        with collection.held(), builder:
            symbols = [
                builder.input(TensorSpec((), NUMBERS[type(x)]), name, weak=True)
                if i in numbers
                else builder.input(symbolic(i, x if isinstance(x, TensorSpec) else spec_of(x)), name)
                if is_tensor(x) or isinstance(x, TensorSpec)
                else x
                for i, (x, name) in enumerate(zip(leaves, names, strict=True))
            ]
            args, kwargs = pytree.unflatten(structure, symbols)
            result = run(args, kwargs)
            builder.check_finished()
            graph, variables, plan = _finish(builder, result)
    except HybridMLError as e:
        add_users_line(e)
        raise
    finally:
        state.now.tapes = tapes
    return Written(graph, variables, plan, time.perf_counter() - started, frozenset(builder.named_variables))


_LATE = (Generator, Coroutine, AsyncIterator, map, filter, zip)  # their code has not run yet


def _runs_later(name: str, x: Any) -> str:
    kind = "coroutine" if isinstance(x, Coroutine) else type(x).__name__
    return (
        f"@hml.function `{name}` returns a {kind}, whose code would run after the trace ended, and once only. Expected tensors, or lists, "
        "tuples and dicts of them: return a list, e.g. list(...), and call the traced function from the generator or the coroutine"
    )


def _finish(builder: Builder, result: Any) -> tuple[Graph, list[Variable], OutputPlan]:
    leaves, structure = pytree.flatten(result)
    outputs: list[Any] = []
    slots: list[int | None] = []
    constants: list[Any] = []
    for x in leaves:
        if isinstance(x, Variable):
            x = x.value()
        if isinstance(x, Tensor) and type(x) is not Tensor:
            slots.append(len(outputs))
            constants.append(None)
            outputs.append(x)
        else:
            if isinstance(x, _LATE):
                raise TraceError(_runs_later(builder.name, x))
            slots.append(None)
            constants.append(x)
    graph, variables = builder.finish(outputs)
    return graph, variables, OutputPlan(structure, tuple(slots), tuple(constants))
