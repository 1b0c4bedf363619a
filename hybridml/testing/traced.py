"""Eager, interpreted, optimised and compiled: one function run in every way there is, and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import pytree
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.testing.tolerance import assert_close, widened
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.function import Function
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret


def check_traced(
    f: Callable[..., Any],
    args: Sequence[Any],
    *,
    variables: Sequence[Variable] = (),
    ops: float = 4.0,
    scale: float | None = None,
    label: str = "",
) -> ConcreteFunction:
    """Compare f(*args) eager with its graph interpreted, its optimised graph interpreted, and its program, called twice.

    f: takes tensors, returns a structure of tensors and anything else; it may read and assign `variables`, which start from
    the same values each time. `ops` and `scale` go to `assert_close`.
    Returns the concrete function. Raises AssertionError naming the way of running that differs, GraphError for a broken graph.

    >>> import hybridml as hml
    >>> check_traced(lambda x: hml.tanh(x) * 2, (hml.asarray([0.0, 1.0]),))
    <ConcreteFunction lambda(float32[2]), 1 kernels>
    """
    start = [v.numpy() for v in variables]
    given = [_elements(x) for x in pytree.leaves(list(args)) if _is_array(x)]

    def restore() -> None:
        for v, a in zip(variables, start, strict=True):
            v.assign(a)

    want = [_elements(x) for x in pytree.leaves(f(*args))]
    state = [v.numpy() for v in variables]
    restore()
    function = Function(f)
    concrete = function.get_concrete_function(*args)

    def compare(way: str, got: list[Any]) -> None:
        assert len(got) == len(want), f"{label} {way}: {len(got)} results, expected {len(want)}"
        for k, (a, b) in enumerate(zip(got, want, strict=True)):
            assert_close(a, b, ops=ops, scale=scale, label=f"{label} {way}, result {k}\n{concrete.graph}")

    place = {id(v): i for i, v in enumerate(variables)}
    held = [start[place[id(v)]] if id(v) in place else v.numpy() for v in concrete.variables]
    for way, graph in (("interpreted", concrete.graph), ("optimised", concrete.optimized)):
        outputs, updates = interpret(verify(graph), given, held)
        compare(way, _with_constants(concrete, outputs))
        for (i, _), new in zip(graph.updates, updates, strict=True):
            expected = state[place[id(concrete.variables[i])]]
            assert_close(new, expected, ops=ops, scale=scale, label=f"{label} {way}, variable {i}")
    for way in ("compiled", "compiled, second call"):
        restore()
        compare(way, [_elements(x) for x in pytree.leaves(function(*args))])
        for i, (v, expected) in enumerate(zip(variables, state, strict=True)):
            assert_close(v.numpy(), expected, ops=ops, scale=scale, label=f"{label} {way}, variable {i}")
    restore()
    for x, before in zip([x for x in pytree.leaves(list(args)) if _is_array(x)], given, strict=True):
        np.testing.assert_array_equal(
            widened(_elements(x)), widened(before), err_msg=f"{label}: an input changed"
        )
    return concrete


def _is_array(x: Any) -> bool:
    return isinstance(x, (Tensor, np.ndarray, np.generic))


def _elements(x: Any) -> Any:
    return np.array(x.numpy()) if isinstance(x, (Tensor, Variable)) else np.array(x)


def _with_constants(concrete: ConcreteFunction, outputs: list[np.ndarray]) -> list[Any]:
    return [_elements(x) for x in pytree.leaves(concrete.rebuild(outputs))]
