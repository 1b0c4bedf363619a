"""`hml.checkpoint` in a trace: a node that holds its function as a sub-graph, and whose gradient computes that again.

Before anything is compiled the sub-graph takes the node's place. Until then the node keeps together what belongs together: wherever
the gradient is taken, inside the traced function or by a tape around it, nothing inside the node is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.state import state
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.ops.door import call
from hybridml.ops.identity import RECOMPUTE
from hybridml.ops.registry import Kind, Op, Promote, register
from hybridml.ops.spec import TensorSpec
from hybridml.trace.control.mapped import all_examples, records_examples, wrapped
from hybridml.trace.control.rows import specs_of, takes
from hybridml.trace.control.subgraph import Surroundings, assigned, emit, final, trace_body
from hybridml.trace.graph import Graph, without_silent_effects
from hybridml.trace.interpret import interpret

_NOTHING = pytree.flatten(())[1]


def _infer(*operands: Any, body: Graph) -> tuple[TensorSpec, ...]:
    takes(body, operands, "a checkpointed function")
    return specs_of(body)


def _pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    from hybridml.trace.gradient import inline

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        first = next(g for g in grads if g is not None)
        with GradientTape(watch_accessed_variables=False) as tape:
            inputs = [call(RECOMPUTE, x, first) for x in operands]
            sources = [x for x, want in zip(inputs, wanted, strict=True) if want and dtypes.is_float(x.dtype)]
            tape.watch(sources)
            outputs = inline(without_silent_effects(attrs["body"]), inputs)
        pairs = [(out, g) for out, g in zip(outputs, grads, strict=True) if g is not None]
        found = tape._gradients([out for out, _ in pairs], [g for _, g in pairs], sources)
        of = {id(x): g for x, g in zip(sources, found, strict=True)}
        return [of.get(id(x)) for x in inputs]

    return pull


CHECKPOINT = register(Op(
    "checkpoint", Kind.CONTROL, infer=_infer, eager=lambda xp, *operands, body: tuple(interpret(body, operands, xp=xp)[0]),
    promote=Promote.NO, pullback=_pullback, provider="call",
))  # fmt: skip


def checkpointed(run: Callable[[], Any]) -> Any:
    """`run()` as one node of the trace that is open."""
    if state.now.levels:
        return _of_examples(run)
    body = trace_body("checkpoint", run, _NOTHING, [], [])
    places = [i for i, x in enumerate(body.leaves) if isinstance(x, Tensor)]
    changed = assigned([body])
    outputs = [body.value(body.leaves[i]) for i in places] + [final(body, v) for v in changed]
    around = Surroundings([body])
    operands = around.operands()
    results = emit(CHECKPOINT, operands, {"body": around.close(body, [], outputs)})
    for v, new in zip(changed, results[len(places) :], strict=True):
        v.assign(new)
    leaves = list(body.leaves)
    for i, r in zip(places, results, strict=False):
        leaves[i] = r
    return pytree.unflatten(body.structure, leaves)


def _of_examples(run: Callable[[], Any]) -> Any:
    """Inside a `vmap`: one node for all examples; a tape that records one example finds the steps themselves."""
    level = state.now.levels[-1]
    if records_examples(level):
        return run()

    def inner() -> Any:
        with level.entered():
            return all_examples(level, run())

    with level.outside():
        out = checkpointed(inner)
    return wrapped(level, out)
