"""custom_gradient inside a trace: a node that holds the function and its gradient rule as two graphs.

The forward graph's extra results are what the rule reads of it. The compiler puts the forward graph in place of the node; the backward
graph is only ever read by gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridml import pytree
from hybridml.eager.creation import zeros_like
from hybridml.eager.custom_gradient import pullback_of
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.eager.step import record_step
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import ShapeError
from hybridml.ops.identity import stop_gradient
from hybridml.trace.control.joint import is_float
from hybridml.trace.control.mapped import all_examples, records_examples, wrapped
from hybridml.trace.control.rows import CUSTOM
from hybridml.trace.control.subgraph import Surroundings, assigned, emit, final, is_data, trace_body
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, Node, Value


def trace_custom(f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Write `f`, which returns its result and a gradient rule, into the open trace; returns the result."""
    if state.now.levels:
        return _of_examples(f, args, kwargs)
    leaves, structure = pytree.flatten(tuple(args))
    places = [i for i, x in enumerate(leaves) if isinstance(x, (Tensor, Variable))]
    operands = [lift(leaves[i]) for i in places]

    def both(*symbols: Any) -> Any:
        given = list(leaves)
        for i, s in zip(places, symbols, strict=True):
            given[i] = s
        inner, rule = f(*pytree.unflatten(structure, given), **kwargs)
        results, shape = pytree.flatten(inner)
        results = [lift(r) for r in results]
        builder: Any = state.now.traces[-1]
        seeds = [builder.input(r.spec) for r in results]
        found = rule(*seeds)
        gradients = list(found) if isinstance(found, (tuple, list)) else [found]
        if len(gradients) != len(operands):
            raise ShapeError(
                f"the gradient rule of {f.__name__} returned {len(gradients)} gradients for {len(operands)} tensor arguments"
            )
        return [shape], results, gradients

    flat = pytree.flatten(tuple(operands))[1]
    traced: dict[str, Any] = {}

    def run(*symbols: Any) -> Any:
        (traced["shape"],), results, gradients = both(*symbols)
        traced["gives"] = tuple([i for i, g in enumerate(gradients) if g is not None])
        traced["results"] = len(results)
        return results, [lift(g) for g in gradients if g is not None]

    body = trace_body(f.__name__, run, flat, [x.spec for x in operands], [""] * len(operands))
    n, changed = traced["results"], assigned([body])
    explicit, seeds = body.inputs[: len(operands)], body.inputs[len(operands) :]
    values = [body.value(x) for x in body.leaves]
    updates = [final(body, v) for v in changed]
    around = Surroundings([body])
    graph = around.close(body, explicit, values[:n] + updates)
    forward, backward, saved = _cut(graph, seeds, values[n:])
    attrs = {
        "body": forward, "backward": backward, "saved": saved, "gives": traced["gives"], "results": n,
    }  # fmt: skip
    out = emit(CUSTOM, operands + around.operands(), attrs)
    for v, new in zip(changed, out[n:], strict=False):
        v.assign(new)
    return pytree.unflatten(traced["shape"], out[:n])


def _of_examples(f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Inside a `vmap`: one node for all examples, and a step of one example on the tapes that began inside."""
    level = state.now.levels[-1]
    leaves, structure = pytree.flatten(tuple(args))
    tensors = [i for i, x in enumerate(leaves) if isinstance(x, (Tensor, Variable))]

    def of_all(*physical: Any) -> tuple[Any, Callable[..., Any]]:
        with level.entered():
            now = list(leaves)
            for i, x in zip(tensors, physical, strict=True):
                now[i] = level.wrap(x)
            inner, rule = f(*pytree.unflatten(structure, now), **kwargs)
            out = all_examples(level, inner)

        def rule_of_all(*grads: Any) -> Any:
            with level.entered():
                found = rule(*[level.wrap(g) for g in grads])
                found = list(found) if isinstance(found, (tuple, list)) else [found]
                with level.outside():
                    return [level.physical(lift(g)) if is_data(g) else g for g in found]

        return out, rule_of_all

    of_all.__name__ = f.__name__
    with level.outside():
        out = trace_custom(of_all, [level.physical(lift(leaves[i])) for i in tensors], {})
    result = wrapped(level, out)
    if records_examples(level):
        _, rule = f(*args, **kwargs)
        results, operands = pytree.leaves(result), [leaves[i] for i in tensors]
        saved, state.now.tapes = state.now.tapes, [t for t in state.now.tapes if level.sees_examples(t)]
        try:
            record_step(operands, results, pullback_of(f, rule, operands, results))
        finally:
            state.now.tapes = saved
    return result


def _cut(
    graph: Graph, seeds: Sequence[Value], gradients: Sequence[Value]
) -> tuple[Graph, Graph, tuple[tuple[bool, int], ...]]:
    """Forward and backward graph, and where the latter finds what it reads: (True, operand) or (False, result)."""
    late = set(seeds)
    forward: list[Node] = []
    backward: list[Node] = []
    for n in graph.nodes:
        is_late = any(x in late for x in n.values)
        (backward if is_late else forward).append(n)
        if is_late:
            late.update(n.outputs)
    read = [x for n in backward for x in n.values] + list(gradients)
    crossing = list(dict.fromkeys(v for v in read if v not in late and v not in graph.constants))
    place = {v: i for i, v in enumerate(graph.inputs)}
    # A result that the rule reads comes out twice: its gradient is the rule's, that of the rule's copy the natural one.
    extra = [v for v in crossing if v not in place]
    outputs = (*graph.outputs, *extra)
    first = len(graph.outputs)
    saved = tuple([(True, place[v]) if v in place else (False, first + extra.index(v)) for v in crossing])
    renamed = {v: Value(v.spec, v.name) for v in crossing}
    nodes = [
        Node(n.op, tuple([renamed.get(x, x) if isinstance(x, Value) else x for x in n.inputs]), n.attrs, n.outputs, n.source)
        for n in backward
    ]  # fmt: skip
    return (
        graph.replace(nodes=tuple(forward), outputs=outputs),
        graph.replace(
            name=f"{graph.name}_rule",
            inputs=(*renamed.values(), *seeds),
            nodes=tuple(nodes),
            outputs=tuple([renamed.get(v, v) for v in gradients]),
        ),
        saved,
    )


def pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    """The rule for the results; the natural gradient for what the rule reads of the forward graph."""
    n = attrs["results"]

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        found: list[Any] = [None] * len(operands)
        if any(g is not None for g in grads[:n]):
            seeds = [zeros_like(r) if g is None else g for g, r in zip(grads[:n], results, strict=False)]
            given = [operands[i] if own else results[i] for own, i in attrs["saved"]]
            for i, g in zip(attrs["gives"], inline(attrs["backward"], [*given, *seeds]), strict=True):
                found[i] = g if wanted[i] else None
        extra = {k: g for k, g in enumerate(grads) if k >= n and g is not None}
        sources = [i for i, x in enumerate(operands) if wanted[i] and is_float(x)]
        if extra and sources:
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([operands[i] for i in sources])
                again = inline(attrs["body"], operands)
            walked = tape._gradients(
                [again[k] for k in extra], list(extra.values()), [operands[i] for i in sources]
            )
            for i, g in zip(sources, walked, strict=True):
                found[i] = g if found[i] is None else found[i] if g is None else found[i] + g
        return found

    return pull


def run_custom(operands: Sequence[Any], attrs: dict[str, Any]) -> tuple[Any, ...]:
    """The node on eager tensors, through the door: tapes get the rule for the results."""
    out = inline(attrs["body"], operands)
    n = attrs["results"]
    aliases = [stop_gradient(r) for r in out[:n]]
    results = (*aliases, *out[n:])
    rule = pullback(attrs, list(operands), results)
    record_step(operands, aliases, lambda grads, wanted: rule([*grads, *[None] * (len(out) - n)], wanted))
    return results
