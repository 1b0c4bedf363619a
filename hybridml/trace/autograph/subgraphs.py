"""Branches and loop bodies, traced once, put into nodes of the graph around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.dispatch import lift
from hybridml.eager.tensor import Tensor
from hybridml.ops.spec import TensorSpec
from hybridml.trace.control.rows import COND, SCAN, WHILE
from hybridml.trace.control.subgraph import Body, Surroundings, assigned, emit, final, trace_body
from hybridml.trace.gradient import inline
from hybridml.trace.graph import has_effects as node_has_effects
from hybridml.trace.symbol import SymbolicTensor


def trace(
    name: str, f: Callable[..., Any], specs: Sequence[TensorSpec] = (), names: Sequence[str] = ()
) -> Body:
    """Run `f(*symbols)` into a sub-graph of its own; what it leaves behind is the caller's to collect."""
    structure = pytree.flatten(tuple([0] * len(specs)))[1]

    def run(*symbols: Any) -> None:
        f(*symbols)

    return trace_body(name, run, structure, specs, names)


def has_effects(body: Body) -> bool:
    return any(map(node_has_effects, body.builder.nodes))


def cond_node(
    pred: Any, true: Body, false: Body, left: Sequence[Tensor], right: Sequence[Tensor]
) -> list[Any]:
    """One of two branches; `left` and `right` are the tensors they leave behind, of equal specs."""
    changed = assigned([true, false])
    if not left and not changed:
        if has_effects(true) or has_effects(false):
            cond_node(pred, true, false, [lift(True)], [lift(True)])  # a node has at least one result
        return []
    outs = [
        [b.value(x) for x in xs] + [final(b, v) for v in changed] for b, xs in ((true, left), (false, right))
    ]
    around = Surroundings([true, false])
    operands = around.operands()
    graphs = [around.close(b, [], out) for b, out in zip((true, false), outs, strict=True)]
    results = emit(COND, [pred, *operands], {"true": graphs[0], "false": graphs[1]})
    for v, new in zip(changed, results[len(left) :], strict=True):
        v.assign(new)
    return list(results[: len(left)])


def while_node(
    test: Body, go: Any, step: Body, inits: Sequence[Tensor], outputs: Sequence[Tensor], limit: int | None
) -> list[Any]:
    """Repeat `step` while `test` says `go`; both were traced with inputs of the inits' specs."""
    changed = assigned([step])
    outs = [step.value(x) for x in outputs] + [final(step, v) for v in changed]
    around = Surroundings([test, step], changed)
    all_inits = [*inits, *[v.value() for v in changed]]
    attrs = {
        "cond": around.close(test, test.inputs, [test.value(go)]),
        "body": around.close(step, step.inputs, outs),
        "carried": len(all_inits), "limit": limit,
    }  # fmt: skip
    results = emit(WHILE, [*all_inits, *around.operands()], attrs)
    for v, new in zip(changed, results[len(inits) :], strict=True):
        v.assign(new)
    return list(results[: len(inits)])


def scan_node(
    step: Body, inits: Sequence[Tensor], xs: Sequence[Tensor], outputs: Sequence[Tensor], length: int
) -> list[Any]:
    """Carry the inits along the rows of xs; `step` was traced with inputs (inits, one row of each xs)."""
    changed = assigned([step])
    if not inits and not changed:
        if has_effects(step):
            step.inputs.insert(0, step.builder.input(TensorSpec((), dtypes.bool_))._value)
            scan_node(step, [lift(True)], xs, [lift(True)], length)
        return []
    k, n, extra = len(inits), len(step.inputs), len(changed)
    outs = [step.value(x) for x in outputs] + [final(step, v) for v in changed]
    around = Surroundings([step], changed)
    all_inits = [*inits, *[v.value() for v in changed]]
    operands = [*all_inits, *xs, *around.operands()]
    graph = around.close(step, step.inputs, outs)
    own = graph.inputs
    graph = graph.replace(inputs=(*own[:k], *own[n : n + extra], *own[k:n], *own[n + extra :]))
    attrs = {"body": graph, "carried": len(all_inits), "sliced": len(xs), "length": length, "reverse": False}
    results = emit(SCAN, operands, attrs)
    for v, new in zip(changed, results[k:], strict=True):
        v.assign(new)
    return list(results[:k])


def inlined(body: Body, result: Any) -> Any:
    """Write a traced body into the trace around it after all."""
    if not isinstance(result, SymbolicTensor) or result._builder is not body.builder:
        return result
    around = Surroundings([body])
    graph = around.close(body, [], [body.value(result)])
    return inline(graph, [lift(x) for x in around.operands()])[0]
