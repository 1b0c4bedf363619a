"""Control flow inside `vmap`: what a branch or a loop of one example is for all of them.

A condition that differs from example to example cannot choose what runs: both branches run, and each example takes its result from
one of them; a loop runs until the last example is done, and examples that are done keep their values. Where the condition is the
same for all, and for scans, the node is that of one example with an axis more. A tape that began inside the `vmap` records one
example, and a node has no record of that: there, branches are computed both and scans unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from hybridml import pytree
from hybridml.eager.batch_tensor import BatchTensor, Level
from hybridml.eager.dispatch import lift
from hybridml.eager.random import RANDOM_STATE
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import ShapeError, TraceError, located, user_line
from hybridml.ops.elementwise import where
from hybridml.ops.reductions import any as any_
from hybridml.ops.registry import Op
from hybridml.ops.view import moveaxis
from hybridml.trace.control.subgraph import is_data
from hybridml.trace.symbol import SymbolicTensor


def wrapped(level: Level, nest: Any) -> Any:
    return pytree.map(lambda x: level.wrap(x) if isinstance(x, Tensor) else x, nest)


def all_examples(level: Level, nest: Any) -> Any:
    return pytree.map(lambda x: level.physical(lift(x)) if is_data(x) else x, nest)


def records_examples(level: Level) -> bool:
    return any(level.sees_examples(t) for t in state.now.tapes)


class _NoAssignments:
    """Stands among the tapes while both sides of a condition run: an assignment would happen to all examples."""

    def __init__(self, what: str) -> None:
        self._what = what

    def assigned(self, variable: Variable, value: Any) -> None:
        if variable.name != RANDOM_STATE:  # draws for examples that do not use them do no harm
            raise TraceError(
                located(
                    f"{variable!r} is assigned under {self._what}, which hml.vmap runs for all examples; assign after it, with "
                    "hml.where choosing the value",
                    user_line(),
                )
            )

    def is_watching(self, x: Any) -> bool:
        return False

    def accessed(self, variable: Variable) -> None: ...
    def record(self, op: Any, attrs: Any, operands: Any, result: Any) -> None: ...
    def left(self, x: Any, how: str) -> None: ...


@contextmanager
def both_sides(what: str) -> Iterator[None]:
    """While what runs for all examples is meant for some: variables must not be assigned."""
    guard: Any = _NoAssignments(what)
    state.now.tapes = [*state.now.tapes, guard]
    try:
        yield
    finally:
        state.now.tapes = [t for t in state.now.tapes if t is not guard]


def _choose(pred: Any, a: Any, b: Any, what: str) -> Any:
    """Leaf by leaf, `a` where the condition holds and `b` elsewhere."""
    left, structure = pytree.flatten(a)
    right, other = pytree.flatten(b)
    if structure != other:
        raise TraceError(located(f"{what} return different nests: {structure} and {other}", user_line()))

    def one(x: Any, y: Any) -> Any:
        if not (is_data(x) and is_data(y)):
            if x is y or (type(x) is type(y) and x == y):
                return x
            raise TraceError(
                located(
                    f"{what} return {x!r} and {y!r}: a tensor can choose between tensors only", user_line()
                )
            )
        if lift(x).shape != lift(y).shape:
            raise ShapeError(
                located(
                    f"{what} return {lift(x).spec} and {lift(y).spec}; reshape one to the other", user_line()
                )
            )
        return where(pred, x, y)

    return pytree.unflatten(structure, [one(x, y) for x, y in zip(left, right, strict=True)])


def mapped_cond(
    cond: Callable[..., Any], pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]
) -> Any:
    """`hml.cond` inside a `vmap`."""
    level = state.now.levels[-1]
    if (
        isinstance(pred, Tensor)
        and not isinstance(pred, BatchTensor)
        and not isinstance(pred, SymbolicTensor)
    ):
        pred = bool(pred)
    if not isinstance(pred, Tensor):
        return true_fn() if pred else false_fn()
    if isinstance(pred, BatchTensor) or records_examples(level):
        if pred.size != 1:
            raise ShapeError(
                located(f"the predicate of hml.cond must have one element, got {pred.spec}", user_line())
            )
        with both_sides("hml.cond on a condition of each example"):
            sides = true_fn(), false_fn()
        return _choose(pred.reshape(()), *sides, "the branches of hml.cond")  # type: ignore[attr-defined]

    def branch(f: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with level.entered():
                return all_examples(level, f())

        return run

    with level.outside():
        out = cond(pred, branch(true_fn), branch(false_fn))
    return wrapped(level, out)


def any_example(pred: Any) -> Any:
    """True if the condition holds for one of the examples."""
    while isinstance(pred, BatchTensor):
        with pred._level.outside():
            pred = any_(pred._physical, axis=0)
    return pred


def mapped_while(
    while_loop: Callable[..., Any],
    cond: Callable[..., Any],
    body: Callable[..., Any],
    start: tuple[Any, ...],
    limit: int | None,
) -> tuple[Any, ...]:
    """`hml.while_loop` inside a `vmap`."""
    level = state.now.levels[-1]

    def step(*now: Any) -> tuple[Any, ...]:
        pred = cond(*now)
        with (
            both_sides("hml.while_loop on a condition of each example")
            if isinstance(pred, BatchTensor)
            else nullcontext()
        ):
            new = body(*now)
        new = tuple(new) if isinstance(new, (tuple, list)) else (new,)
        return (
            _choose(pred, new, now, "hml.while_loop's body and its loop variables")
            if isinstance(pred, BatchTensor)
            else new
        )

    if not state.now.traces:
        count, now = 0, start
        while (limit is None or count < limit) and bool(any_example(cond(*now))):
            now, count = step(*now), count + 1
        return now
    if records_examples(level):
        raise TraceError(
            located(
                "a gradient inside hml.vmap goes through hml.while_loop in a traced function; use hml.scan or a Python loop of known "
                "length there, or take the gradient outside of hml.vmap",
                user_line(),
            )
        )

    def inside(f: Callable[..., Any]) -> Callable[..., Any]:
        def run(*physical: Any) -> Any:
            with level.entered():
                return f(*wrapped(level, physical))

        return run

    with level.outside():
        out = while_loop(
            inside(lambda *now: any_example(cond(*now))),
            inside(lambda *now: all_examples(level, step(*now))),
            all_examples(level, start),
            limit,
        )
    return wrapped(level, out)


def mapped_scan(
    scan: Callable[..., Any], f: Callable[..., Any], init: Any, xs: Any, length: int | None, reverse: bool
) -> tuple[Any, Any] | None:
    """`hml.scan` inside a `vmap`; None where an unrolled scan will do."""
    level = state.now.levels[-1]
    if not state.now.traces or records_examples(level):
        return None

    def step(carry: Any, x: Any) -> Any:
        with level.entered():
            return all_examples(level, f(wrapped(level, carry), wrapped(level, x)))

    with level.outside():
        rows = pytree.map(lambda x: moveaxis(level.physical(lift(x)), 0, 1), xs)
        carry, ys = scan(step, all_examples(level, init), rows, length, reverse)
        ys = pytree.map(lambda y: moveaxis(y, 0, 1), ys)
    return wrapped(level, carry), wrapped(level, ys)


def through_functions(
    op: Op, operands: list[Any], attrs: dict[str, Any], inline: Callable[..., Any]
) -> tuple[Any, ...]:
    """A control-flow node of a graph on examples: the function it was made by, on its own sub-graphs."""
    from hybridml.trace.control import functions, scans  # written with this module
    from hybridml.trace.control.custom import run_custom

    if op.provider == "cond":
        pred, *rest = operands
        return tuple(
            functions.cond(pred, lambda: inline(attrs["true"], rest), lambda: inline(attrs["false"], rest))
        )
    if op.provider == "call":
        return run_custom(operands, attrs) if "backward" in attrs else tuple(inline(attrs["body"], operands))
    k = attrs["carried"]
    if op.provider == "while":
        fixed = operands[k:]
        return tuple(
            functions.while_loop(
                lambda *now: inline(attrs["cond"], [*now, *fixed])[0],
                lambda *now: tuple(inline(attrs["body"], [*now, *fixed])),
                tuple(operands[:k]),
            )
        )
    s = attrs["sliced"]

    def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
        out = inline(attrs["body"], [*carry, *x, *operands[k + s :]])
        return out[:k], out[k:]

    last, ys = scans.scan(step, operands[:k], operands[k : k + s], attrs["length"], attrs["reverse"])
    return (*last, *ys)
