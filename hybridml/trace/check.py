"""`hml.function(f, check=True)`: the interpreter beside the program, and the first node where they part.

Slow on purpose: for finding out whether a strange result comes from your code or from the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybridml import dtypes
from hybridml.backends import CPU, Backend
from hybridml.errors import MismatchError, located
from hybridml.kernels.programs import executable
from hybridml.trace.graph import Graph, Value, without_silent_effects
from hybridml.trace.interpret import evaluate, run_eager
from hybridml.trace.passes import optimize

TOLERANCE = {"bfloat16": 1.6e-1, "float16": 2e-2, "float32": 2e-4, "float64": 1e-9}


def agree(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to rounding, relative to the largest finite element; NaN and infinities must be in the same places."""
    if not dtypes.is_float(a.dtype):
        return bool(np.array_equal(a, b))
    finite = np.isfinite(b)
    scale = float(np.abs(b[finite]).max()) if finite.any() else 1.0
    tolerance = TOLERANCE[a.dtype.name]
    return bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True))


def check(
    graph: Graph, inputs: Sequence[np.ndarray], variables: Sequence[np.ndarray], results: Sequence[np.ndarray],
    backend: Backend = CPU,
) -> None:  # fmt: skip
    """Compare a program's results (outputs, then new values of variables) with the interpreter's.

    Raises MismatchError naming the first node, in program order, whose value differs when the graph is compiled with every
    intermediate as an output.
    """
    graph = without_silent_effects(graph)
    environment = dict(zip(graph.inputs, inputs, strict=True))
    environment |= dict(zip(graph.variables, variables, strict=True)) | graph.constants
    with np.errstate(all="ignore"):
        evaluate(graph, run_eager, environment)
    expected = [environment[v] for v in graph.results]
    if all(map(agree, results, expected)):
        return
    raise MismatchError(_first_difference(graph, inputs, variables, environment, backend))


def _first_difference(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    variables: Sequence[np.ndarray],
    environment: dict[Value, np.ndarray],
    backend: Backend,
) -> str:
    every = tuple([v for n in graph.nodes for v in n.outputs])
    opened = graph.replace(inputs=graph.inputs + graph.variables, variables=(), outputs=every, updates=())
    arrays = [backend.put(np.ascontiguousarray(a) if np.ndim(a) else a) for a in (*inputs, *variables)]
    values = map(backend.get, executable(optimize(opened), backend).run(arrays))
    found = dict(zip(every, values, strict=True))
    for n in graph.nodes:
        for v in n.outputs:
            if not agree(found[v], environment[v]):
                with np.errstate(all="ignore"):
                    gap = np.nanmax(np.abs(found[v].astype("f8") - environment[v].astype("f8")), initial=0.0)
                operands = ", ".join(map(graph.label, n.inputs))
                return located(
                    f"the program and the interpreter differ at {graph.label(v)}: {v.spec} = {n.op.name}({operands}), "
                    f"by at most {gap:.3g}",
                    n.source,
                )
    return (
        "the program and the interpreter give different results, but every operation agrees when it is computed on its own: "
        "the fault is in how operations were fused or placed in memory"
    )
