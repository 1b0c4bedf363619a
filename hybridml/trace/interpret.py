"""The slow interpreter: the definition of what a graph means.

Node by node, with each row's eager form. Every pass, kernel and program is compared with this, never with another fast path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml.ops.registry import Op
from hybridml.trace.graph import Graph, Value


def evaluate(
    graph: Graph, run: Callable[[Op, list[Any], dict[str, Any]], Any], environment: dict[Value, Any]
) -> dict[Value, Any]:
    """Fill the environment by running every node with `run(op, operands, attrs)`."""
    for n in graph.nodes:
        operands = [environment[x] if isinstance(x, Value) else x for x in n.inputs]
        out = run(n.op, operands, n.attrs)
        environment.update(zip(n.outputs, out if isinstance(out, tuple) else (out,), strict=True))
    return environment


def run_eager(op: Op, arrays: list[Any], attrs: dict[str, Any]) -> Any:
    """One node on NumPy arrays."""
    out = op.eager(np, *arrays, **attrs)
    return tuple([np.asarray(o) for o in out]) if isinstance(out, tuple) else np.asarray(out)


def interpret(
    graph: Graph, inputs: Sequence[np.ndarray], variables: Sequence[np.ndarray] = ()
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs, and the new values of updated variables in the order of `graph.updates`."""
    environment: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    environment |= dict(zip(graph.variables, variables, strict=True)) | graph.constants
    with np.errstate(all="ignore"):
        evaluate(graph, run_eager, environment)
    return [environment[v] for v in graph.outputs], [environment[v] for _, v in graph.updates]
