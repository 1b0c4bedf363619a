"""The slow interpreter: the definition of what a graph means.

Node by node, with each row's eager form. Every pass, kernel and program is compared with this, never with another fast path.
"""

from __future__ import annotations

import functools
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


def run_eager(op: Op, arrays: list[Any], attrs: dict[str, Any], xp: Any = np) -> Any:
    """One node on NumPy arrays, or those of another library."""
    out = op.eager(xp, *arrays, **attrs)
    if xp is not np:
        return out
    return tuple([np.asarray(o) for o in out]) if isinstance(out, tuple) else np.asarray(out)


def interpret(
    graph: Graph, inputs: Sequence[Any], variables: Sequence[Any] = (), xp: Any = np
) -> tuple[list[Any], list[Any]]:
    """Outputs, and the new values of updated variables in the order of `graph.updates`; all of them arrays of `xp`."""
    environment: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    environment |= dict(zip(graph.variables, variables, strict=True))
    environment |= {v: xp.asarray(a) for v, a in graph.constants.items()}
    with np.errstate(all="ignore"):
        evaluate(graph, functools.partial(run_eager, xp=xp), environment)
    return [environment[v] for v in graph.outputs], [environment[v] for _, v in graph.updates]
