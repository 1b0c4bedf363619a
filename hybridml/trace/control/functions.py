"""cond and while_loop: plain Python outside a trace, one node with sub-graphs inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError, ShapeError, SourceLine, TraceError, located, user_line
from hybridml.ops.elementwise import add, less, not_equal
from hybridml.ops.logic import logical_and
from hybridml.ops.spec import TensorSpec
from hybridml.ops.view import reshape
from hybridml.trace.control.mapped import mapped_cond, mapped_while
from hybridml.trace.control.rows import COND, WHILE
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
    weak_tensor,
)
from hybridml.trace.symbol import SymbolicTensor

_NOTHING = pytree.flatten(())[1]


def _predicate(x: Any, what: str) -> Any:
    """A bool tensor without dimensions, or a Python bool where the value is known."""
    if not is_data(x):
        raise DTypeError(
            located(f"{what} must be a bool or a tensor of one element, got {type(x).__name__}", user_line())
        )
    if not isinstance(x, SymbolicTensor):
        x = x.value() if isinstance(x, Variable) and state.now.traces else x
    if not isinstance(x, SymbolicTensor):
        return bool(x)
    if x.size != 1:
        raise ShapeError(
            located(
                f"{what} must have one element, got {x.spec}; use hml.any(x), hml.all(x) or hml.where",
                user_line(),
            )
        )
    x = x if x.ndim == 0 else reshape(x, ())
    return x if x.dtype.kind == "b" else not_equal(x, 0)


# cond


def cond(pred: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """`true_fn()` if `pred` is true, else `false_fn()`.

    pred: a bool, or a tensor of one element. The functions take no arguments and return nests of tensors (None for nothing).
    Inside a traced function, where `pred` is a tensor of the trace, both are traced and one of them runs: they must return the same
    nest of the same shapes and dtypes. What they assign to variables counts only for the branch that runs. Where `pred` is known
    while tracing, only that branch is traced.

    Raises TraceError, ShapeError or DTypeError where the branches differ, with the output's name and both sides.

    >>> import hybridml as hml
    >>> @hml.function
    ... def f(x):
    ...     return hml.cond(x.sum() > 0, lambda: x * 2, lambda: -x)
    >>> f(hml.asarray([1., 2.])).tolist(), f(hml.asarray([-1., -2.])).tolist()
    ([2.0, 4.0], [1.0, 2.0])
    """
    if state.now.levels:
        return mapped_cond(cond, pred, true_fn, false_fn)
    pred = _predicate(pred, "the predicate of hml.cond")
    if isinstance(pred, bool):
        return true_fn() if pred else false_fn()
    source = user_line()
    true = trace_body("true", true_fn, _NOTHING, [], [])
    false = trace_body("false", false_fn, _NOTHING, [], [])
    places, returned = _agree(true, false, source)
    changed = assigned([true, false])
    outs = [
        [b.value(x) for x in xs] + [final(b, v) for v in changed]
        for b, xs in zip((true, false), returned, strict=True)
    ]
    ensure_result([true, false], outs)
    around = Surroundings([true, false])
    operands = around.operands()
    graphs = [around.close(b, [], out) for b, out in zip((true, false), outs, strict=True)]
    results = emit(COND, [pred, *operands], {"true": graphs[0], "false": graphs[1]}) if outs[0] else ()
    for v, new in zip(changed, results[len(places) :], strict=False):
        v.assign(new)
    leaves = list(true.leaves)
    for i, r in zip(places, results, strict=False):
        leaves[i] = r
    return pytree.unflatten(true.structure, leaves)


def _agree(
    true: Body, false: Body, source: SourceLine | None
) -> tuple[list[int], tuple[list[Any], list[Any]]]:
    """Which leaves are tensors, and what either branch returns for them, of equal specs."""
    if true.structure != false.structure:
        raise TraceError(
            located(
                f"the branches of hml.cond return different nests: true_fn returns {true.structure}, false_fn returns "
                f"{false.structure}; return the same nest from both",
                source,
            )
        )
    places, left, right = [], [], []
    for i, (a, b, name) in enumerate(
        zip(true.leaves, false.leaves, paths(true.structure, "output"), strict=True)
    ):
        if not (is_data(a) and is_data(b)):
            if a is b or (type(a) is type(b) and a == b):
                continue  # the same Python object either way
            raise TraceError(
                located(
                    f"hml.cond: `{name}` is {_kind(a)} from true_fn and {_kind(b)} from false_fn; a condition that is a tensor can "
                    "choose between tensors only: return tensors or numbers from both",
                    source,
                )
            )
        if type(a) in (bool, int, float) and type(b) in (bool, int, float) and a == b and type(a) is type(b):
            continue
        a, b = _meet(a, b)
        if a.spec != b.spec:
            raise (ShapeError if a.shape != b.shape else DTypeError)(
                located(
                    f"hml.cond: `{name}` is {a.spec} from true_fn and {b.spec} from false_fn; "
                    + ("reshape or broadcast" if a.shape != b.shape else "cast (.astype)") + " one to the other",
                    source,
                )
            )  # fmt: skip
        places.append(i)
        left.append(a)
        right.append(b)
    return places, (left, right)


def _kind(x: Any) -> str:
    return str(lift(x).spec) if is_data(x) else f"{type(x).__name__} {x!r}"


def _meet(a: Any, b: Any) -> tuple[Any, Any]:
    """Two leaves as tensors; a Python number takes the dtype of the tensor across where it can."""
    if isinstance(b, Tensor):
        a = weak_tensor(a, b.spec)
    elif isinstance(a, Tensor):
        b = weak_tensor(b, a.spec)
    return lift(a), lift(b)


# while_loop


def while_loop(
    cond: Callable[..., Any], body: Callable[..., Any], loop_vars: Any, maximum_iterations: int | None = None
) -> Any:
    """Run `loop_vars = body(*loop_vars)` as long as `cond(*loop_vars)` is true, and return the last loop variables.

    loop_vars: a tuple or list of tensors, or of nests of tensors; `body` returns the same nests of the same shapes and dtypes (a
    single loop variable may be returned bare). `maximum_iterations` bounds the number of runs; gradients then store that many steps,
    and otherwise a bounded number of checkpoints between which steps are computed again. Inside a traced function this is one
    node and runs without Python.

    Raises TraceError, ShapeError or DTypeError where a loop variable changes its nest, shape or dtype, naming it.

    >>> import hybridml as hml
    >>> hml.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (0, 1.0))
    (Tensor(3, shape=(), dtype=int64), Tensor(8., shape=(), dtype=float32))
    """
    if not isinstance(loop_vars, (tuple, list)):
        raise TraceError(
            f"loop_vars must be a tuple or a list, got {type(loop_vars).__name__}; write ({'x'},) for one variable"
        )
    as_given = type(loop_vars)
    start = pytree.map(loop_tensor, tuple(loop_vars))
    if state.now.levels:
        done = mapped_while(while_loop, cond, body, start, maximum_iterations)
    elif not state.now.traces:
        done = _run_while(cond, body, start, maximum_iterations)
    elif maximum_iterations is None:
        done = _trace_while(cond, body, start, "loop_vars", None)
    else:
        done = _trace_while(
            lambda count, inner: logical_and(less(count, maximum_iterations), _known_or_symbol(cond(*inner))),
            lambda count, inner: (add(count, 1), _as_tuple(body(*inner), inner)),
            (asarray(0), start),
            "loop_vars",
            maximum_iterations,
        )[1]
    return as_given(done) if as_given is list else done


def loop_tensor(x: Any) -> Tensor:
    if not is_data(x) and not isinstance(x, Variable):
        raise TraceError(
            f"a loop variable must be a tensor or a number, got {type(x).__name__} {x!r}; read it from the closure"
        )
    return lift(x)


def _known_or_symbol(x: Any) -> Any:
    x = _predicate(x, "the condition of hml.while_loop")
    return asarray(x) if isinstance(x, bool) else x


def _as_tuple(returned: Any, loop_vars: tuple[Any, ...]) -> Any:
    """What a body returned, as the tuple of loop variables."""
    if isinstance(returned, list):
        return tuple(returned)
    if len(loop_vars) == 1 and not (isinstance(returned, tuple) and len(returned) == 1):
        return (returned,)
    return returned


def _run_while(cond: Any, body: Any, now: tuple[Any, ...], limit: int | None) -> tuple[Any, ...]:
    source = user_line()
    count = 0
    while (limit is None or count < limit) and _predicate(cond(*now), "the condition of hml.while_loop"):
        leaves, structure = pytree.flatten(_as_tuple(body(*now), now))
        now = pytree.unflatten(
            structure, continued("loop_vars", now, leaves, structure, source, "hml.while_loop")
        )
        count += 1
    return now


def _trace_while(
    cond: Any, body: Any, start: tuple[Any, ...], name: str, limit: int | None
) -> tuple[Any, ...]:
    source = user_line()
    leaves, structure = pytree.flatten(start)
    specs, names = [x.spec for x in leaves], paths(structure, name if limit is None else "")
    test = trace_body("cond", lambda *now: _known_or_symbol(cond(*now)), structure, specs, names)
    if test.builder.assigned():
        raise TraceError(
            located("the condition of hml.while_loop assigns a variable; assign in the body instead", source)
        )
    step = trace_body("body", lambda *now: _as_tuple(body(*now), now), structure, specs, names)
    after = continued(name, start, step.leaves, step.structure, source, "hml.while_loop", limit is not None)
    changed = assigned([step])
    outputs = [step.value(x) for x in after] + [final(step, v) for v in changed]
    around = Surroundings([test, step], changed)
    inits = leaves + [v.value() for v in changed]
    operands = inits + around.operands()
    attrs = {
        "cond": around.close(test, test.inputs, [test.value(x) for x in test.leaves]),
        "body": around.close(step, step.inputs, outputs),
        "carried": len(inits), "limit": limit,
    }  # fmt: skip
    results = emit(WHILE, operands, attrs)
    for v, new in zip(changed, results[len(leaves) :], strict=True):
        v.assign(new)
    return pytree.unflatten(structure, results[: len(leaves)])


def continued(
    name: str,
    before: Any,
    leaves: list[Any],
    structure: pytree.Structure,
    source: SourceLine | None,
    where: str,
    counted: bool = False,
) -> list[Any]:
    """The next values of loop variables as tensors, or an error that names the one that changed."""
    old, expected = pytree.flatten(before)
    if structure != expected:
        shown = [
            str(s.children[1]) if counted and len(s.children) == 2 else str(s) for s in (expected, structure)
        ]
        raise TraceError(
            located(
                f"{where}: the body must return the nest it was given: `{name}` is {shown[0]}, the body returns {shown[1]}",
                source,
            )
        )
    names = paths(expected.children[1], name) if counted else paths(expected, name)
    new: list[Any] = []
    for i, (a, b) in enumerate(zip(old, leaves, strict=True)):
        if not is_data(b):
            raise TraceError(
                located(
                    f"{where}: `{names[i - counted]}` is {a.spec} and becomes {_kind(b)}; return a tensor",
                    source,
                )
            )
        b = weak_tensor(b, a.spec)
        if a.spec != b.spec:
            raise _changed(where, names[i - counted], a.spec, b.spec, source)
        new.append(b)
    return new


def _changed(where: str, name: str, a: TensorSpec, b: TensorSpec, source: SourceLine | None) -> Exception:
    if a.shape != b.shape:
        cure = "loops keep shapes: start with the final shape, or write the result of each step into one (hml.scan stacks them)"
        return ShapeError(
            located(f"{where}: `{name}` starts as {a} and becomes {b} after one iteration; {cure}", source)
        )
    number = a.shape == () and a.dtype.kind in "iu" and b == TensorSpec((), dtypes.default_float)
    start = "start it with 0.0" if number else f"start it as hml.{b.dtype.name}"
    cure = f"{start}, or cast in the body with .astype(hml.{a.dtype.name})"
    return DTypeError(
        located(f"{where}: `{name}` starts as {a} and becomes {b} after one iteration; {cure}", source)
    )
