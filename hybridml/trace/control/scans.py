"""scan and map_fn: a Python loop outside a trace, one node with a sub-graph inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridml import pytree
from hybridml.eager.creation import zeros
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.errors import ShapeError, SourceLine, TraceError, located, user_line
from hybridml.ops.joining import stack
from hybridml.ops.spec import TensorSpec, all_equal
from hybridml.symbolic import dim
from hybridml.trace.control.functions import continued, loop_tensor
from hybridml.trace.control.mapped import mapped_scan
from hybridml.trace.control.rows import SCAN
from hybridml.trace.control.subgraph import (
    Body,
    Surroundings,
    assigned,
    emit,
    ensure_result,
    final,
    is_data,
    paths,
    trace_body,
)
from hybridml.trace.graph import Value


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Carry a state along the first axis of `xs`: `carry, y = f(carry, x)` for each row x; returns (carry, stacked ys).

    init: a nest of tensors, which `f` returns with the same shapes and dtypes. xs: a nest of tensors with equal first axes, or None
    with a `length`; then x is None. The ys are nests of tensors of shape (length, *y.shape). `reverse` goes from the last row to the
    first; the ys stand where their x stood. Inside a traced function this is one node that runs without Python, and its gradient is
    a scan the other way.

    Raises ShapeError where first axes differ, and where the carry changes its shape; DTypeError where it changes its dtype.

    >>> import hybridml as hml
    >>> total, sums = hml.scan(lambda c, x: (c + x, c + x), 0.0, hml.asarray([1., 2., 3.]))
    >>> float(total), sums.tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    source = user_line()
    start = pytree.map(loop_tensor, init)
    rows = pytree.map(loop_tensor, xs)
    n = _length(pytree.leaves(rows), length, source)
    mapped = mapped_scan(scan, f, start, rows, n, reverse) if state.now.levels else None
    if mapped is not None:
        return mapped
    if state.now.traces and not state.now.levels:
        return _trace_scan(f, start, rows, n, reverse, source)
    return _run_scan(f, start, rows, n, reverse, source)


def _length(rows: Sequence[Any], length: int | None, source: SourceLine | None) -> int:
    if any(x.ndim == 0 for x in rows):
        raise ShapeError(
            located("hml.scan goes along the first axis of xs, but one of them has no dimensions", source)
        )
    sizes = [x.shape[0] for x in rows] + ([dim(length)] if length is not None else [])
    if not all_equal(sizes):
        raise ShapeError(
            located(
                f"hml.scan: the first axes of xs {[x.shape for x in rows]}"
                + (f" and length={length}" if length is not None else "") + " must be equal", source)
        )  # fmt: skip
    if not sizes:
        raise TraceError(located("hml.scan needs xs or a length", source))
    return sizes[0]


def _pair(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise TraceError(
            located(
                f"the function of hml.scan must return (carry, y), got {type(returned).__name__}; return (carry, None) for no y",
                user_line(),
            )
        )
    return returned


def _next_carry(start: Any, carry: Any, source: SourceLine | None) -> list[Any]:
    leaves, structure = pytree.flatten(carry)
    return continued("carry", start, leaves, structure, source, "hml.scan")


def _run_scan(
    f: Any, start: Any, rows: Any, n: int, reverse: bool, source: SourceLine | None
) -> tuple[Any, Any]:
    structure = pytree.flatten(start)[1]
    if n == 0:
        specs = [[x.spec for x in pytree.leaves(start)], [_row(x.spec) for x in pytree.leaves(rows)]]
        args = pytree.flatten((start, rows))[1]
        body = trace_body(
            "scan", lambda c, x: _pair(f(c, x)), args, specs[0] + specs[1], [""] * args.n_leaves
        )
        ys = pytree.unflatten(body.structure, body.leaves)[1]
        return start, pytree.map(lambda y: zeros((0, *lift(y).shape), dtype=lift(y).dtype), ys)
    carry, ys = start, []
    for t in reversed(range(n)) if reverse else range(n):
        carry, y = _pair(f(carry, pytree.map(lambda x: x[t], rows)))  # noqa: B023  (called at once)
        carry = pytree.unflatten(structure, _next_carry(start, carry, source))
        ys.append(y)
    if reverse:
        ys.reverse()
    return carry, pytree.map(lambda *each: stack([lift(y) for y in each]), *ys)


def _row(s: TensorSpec) -> TensorSpec:
    return TensorSpec(s.shape[1:], s.dtype)


def _trace_scan(
    f: Any, start: Any, rows: Any, n: int, reverse: bool, source: SourceLine | None
) -> tuple[Any, Any]:
    args = pytree.flatten((start, rows))[1]
    carry, slices = pytree.leaves(start), pytree.leaves(rows)
    names = paths(args.children[0], "carry") + paths(args.children[1], "x")
    step = trace_body(
        "scan",
        lambda c, x: _pair(f(c, x)),
        args,
        [*[x.spec for x in carry], *[_row(x.spec) for x in slices]],
        names,
    )
    new_carry, ys = pytree.unflatten(step.structure, step.leaves)
    after = _next_carry(start, new_carry, source)
    y_leaves, y_structure = pytree.flatten(ys)
    for y in y_leaves:
        if not is_data(y):
            raise TraceError(
                located(f"hml.scan stacks tensors, but y holds {type(y).__name__} {y!r}", source)
            )
    changed = assigned([step])
    outputs: list[Value] = (
        [step.value(x) for x in after] + [final(step, v) for v in changed] + [step.value(y) for y in y_leaves]
    )
    ensure_result([step], [outputs])
    around = Surroundings([step], changed)
    inits = carry + [v.value() for v in changed]
    operands = inits + slices + around.operands()
    k = len(carry)
    graph = _carried_first(around, step, outputs, k, len(changed))
    attrs = {
        "body": graph,
        "carried": len(inits),
        "sliced": len(slices),
        "length": n,
        "reverse": bool(reverse),
    }
    results = emit(SCAN, operands, attrs) if outputs else ()
    for v, new in zip(changed, results[k : len(inits)], strict=True):
        v.assign(new)
    return (
        pytree.unflatten(args.children[0], results[:k]),
        pytree.unflatten(y_structure, results[len(inits) :]),
    )


def _carried_first(around: Surroundings, step: Body, outputs: Sequence[Value], k: int, variables: int) -> Any:
    """The body with its inputs in the row's order: carry, carried variables, rows, invariants."""
    graph = around.close(step, step.inputs, outputs)
    n = len(step.inputs)
    own = graph.inputs
    return graph.replace(inputs=(*own[:k], *own[n : n + variables], *own[k:n], *own[n + variables :]))


# map_fn


def map_fn(f: Callable[[Any], Any], xs: Any) -> Any:
    """`f` on each row of `xs` (a nest of tensors with equal first axes), the results stacked.

    >>> import hybridml as hml
    >>> hml.map_fn(lambda x: x * x, hml.asarray([1., 2., 3.])).tolist()
    [1.0, 4.0, 9.0]
    """
    return scan(lambda _, x: ((), f(x)), (), xs)[1]
