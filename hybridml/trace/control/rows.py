"""The rows of control flow: operations whose attributes are graphs.

A sub-graph is a pure function without variables. Everything it reads from outside is an operand of its node:

    cond        pred, operands                 both branches take the operands and return the results
    while_loop  loop variables, invariants     `cond` and `body` take both; the body returns the next loop variables
    scan        carry, xs, invariants          the body takes carry, one row of each xs, invariants; it returns carry and rows of ys

    custom_gradient  operands, invariants  `body` is the function, `backward` its gradient rule

`carried` counts loop variables, `sliced` the xs. The eager forms run the sub-graphs with the slow interpreter: they are the
definition.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from hybridml.errors import GraphError
from hybridml.ops.registry import Kind, Op, Promote, register
from hybridml.ops.spec import TensorSpec, spec
from hybridml.trace.graph import Graph
from hybridml.trace.interpret import interpret


def takes(graph: Graph, operands: Sequence[Any], role: str) -> None:
    expected = [v.spec for v in graph.inputs]
    if list(operands) != expected:
        raise GraphError(f"{role} takes {expected}, got {list(operands)}")
    if graph.variables or graph.updates:
        raise GraphError(f"{role} has variables of its own")


def specs_of(graph: Graph) -> tuple[TensorSpec, ...]:
    return tuple([v.spec for v in graph.outputs])


def _is_predicate(s: TensorSpec) -> bool:
    return s.shape == () and s.dtype.kind == "b"


def _infer_cond(pred: TensorSpec, *operands: Any, true: Graph, false: Graph) -> tuple[TensorSpec, ...]:
    if not _is_predicate(pred):
        raise GraphError(f"a predicate is bool[], got {pred}")
    takes(true, operands, "the true branch")
    takes(false, operands, "the false branch")
    if specs_of(true) != specs_of(false):
        raise GraphError(f"the branches return {specs_of(true)} and {specs_of(false)}")
    return specs_of(true)


def _eager_cond(xp: Any, pred: Any, *operands: Any, true: Graph, false: Graph) -> tuple[Any, ...]:
    return tuple(interpret(true if pred else false, operands, xp=xp)[0])


def _infer_while(
    *operands: Any, cond: Graph, body: Graph, carried: int, limit: int | None
) -> tuple[TensorSpec, ...]:
    takes(cond, operands, "the condition")
    takes(body, operands, "the loop body")
    if len(cond.outputs) != 1 or not _is_predicate(cond.outputs[0].spec):
        raise GraphError(f"the condition returns bool[], got {specs_of(cond)}")
    if specs_of(body) != tuple(operands[:carried]):
        raise GraphError(f"the loop variables are {operands[:carried]}, the body returns {specs_of(body)}")
    return specs_of(body)


def _eager_while(
    xp: Any, *operands: Any, cond: Graph, body: Graph, carried: int, limit: int | None
) -> tuple[Any, ...]:
    now, fixed = list(operands[:carried]), operands[carried:]
    while interpret(cond, [*now, *fixed], xp=xp)[0][0]:
        now = interpret(body, [*now, *fixed], xp=xp)[0]
    return tuple(now)


def _infer_scan(
    *operands: Any, body: Graph, carried: int, sliced: int, length: int, reverse: bool
) -> tuple[TensorSpec, ...]:
    rows = []
    for x in operands[carried : carried + sliced]:
        if x.shape[:1] != (length,):
            raise GraphError(f"a scan of length {length} over {x}")
        rows.append(spec(x.shape[1:], x.dtype))
    takes(body, (*operands[:carried], *rows, *operands[carried + sliced :]), "the body of the scan")
    out = specs_of(body)
    if out[:carried] != tuple(operands[:carried]):
        raise GraphError(f"the carry is {operands[:carried]}, the body returns {out[:carried]}")
    return (*out[:carried], *[spec((length, *s.shape), s.dtype) for s in out[carried:]])


def _eager_scan(
    xp: Any, *operands: Any, body: Graph, carried: int, sliced: int, length: int, reverse: bool
) -> tuple[Any, ...]:
    now, xs, fixed = (
        list(operands[:carried]),
        operands[carried : carried + sliced],
        operands[carried + sliced :],
    )
    ys = [xp.empty((length, *v.shape), v.dtype) for v in body.outputs[carried:]]
    for t in reversed(range(length)) if reverse else range(length):
        out = interpret(body, [*now, *[x[t] for x in xs], *fixed], xp=xp)[0]
        now = out[:carried]
        for y, row in zip(ys, out[carried:], strict=True):
            y[t] = row
    return (*now, *ys)


def _infer_custom(
    *operands: Any, body: Graph, backward: Graph, saved: Any, gives: Any, results: int
) -> tuple[TensorSpec, ...]:
    takes(body, operands, "the function")
    return specs_of(body)


def _eager_custom(xp: Any, *operands: Any, body: Graph, **_: Any) -> tuple[Any, ...]:
    return tuple(interpret(body, operands, xp=xp)[0])


def _pullback(module: str) -> Any:
    """The rule of a module that is written with these rows, and so imported when it is first needed."""

    def make(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
        return importlib.import_module(f"hybridml.trace.control.{module}").pullback(attrs, operands, results)

    return make


COND = register(Op(
    "cond", Kind.CONTROL, infer=_infer_cond, eager=_eager_cond, promote=Promote.NO, pullback=_pullback("branch_gradient"),
    provider="cond",
))  # fmt: skip

WHILE = register(Op(
    "while_loop", Kind.CONTROL, infer=_infer_while, eager=_eager_while, promote=Promote.NO,
    pullback=_pullback("loop_gradient"), provider="while",
))  # fmt: skip

SCAN = register(Op(
    "scan", Kind.CONTROL, infer=_infer_scan, eager=_eager_scan, promote=Promote.NO, pullback=_pullback("scan_gradient"),
    provider="scan",
))  # fmt: skip

CUSTOM = register(Op(
    "custom_gradient", Kind.CONTROL, infer=_infer_custom, eager=_eager_custom, promote=Promote.NO, pullback=_pullback("custom"),
    provider="call",
))  # fmt: skip
