"""Joined arrays that are turned are turned before they are joined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graphs import check_pass

import hybridml as hml
from hybridml.testing import check_traced
from hybridml.trace.passes import joins

rng = np.random.default_rng(0)


def array(*shape: int) -> Any:
    return hml.asarray(rng.normal(size=shape).astype(np.float32))


def names(graph: Any) -> list[str]:
    return [n.op.name for n in graph.nodes]


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_turned_joins(axis: int, axes: tuple[int, ...]) -> None:
    shapes = [[3, 4, 5] for _ in range(3)]
    for k, s in enumerate(shapes):
        s[axis] += k
    args = [array(*s) for s in shapes]

    def f(*xs: Any) -> Any:
        return hml.permute_dims(hml.concat(xs, axis=axis), axes) * 2.0

    check_traced(f, args)
    graph = hml.function(f).get_concrete_function(*args).graph
    turned = check_pass(joins, graph, [a.numpy() for a in args], [])
    if axes != (0, 1, 2):
        assert names(turned).index("concat") > names(turned).index("permute_dims")


def test_what_somebody_else_reads_stays() -> None:
    x, y = array(3, 4), array(2, 4)

    def both(x: Any, y: Any) -> Any:
        z = hml.concat([x, y])
        return z, z.mT + 1.0

    def twice(x: Any, y: Any) -> Any:
        z = hml.concat([x, y])
        return hml.permute_dims(z, (1, 0)) * 2.0, hml.exp(z)

    for f in (both, twice):
        check_traced(f, [x, y])
        graph = hml.function(f).get_concrete_function(x, y).optimized
        assert names(graph).index("concat") < names(graph).index("permute_dims")


def test_an_attention_moves_its_gradients_once() -> None:
    w = hml.Variable(array(32, 96))
    x = array(2, 16, 32)

    def f(x: Any) -> Any:
        with hml.GradientTape() as tape:
            a = hml.permute_dims(hml.reshape(x @ w, (2, 16, 3, 4, 8)), (2, 0, 3, 1, 4))
            q, k, v = a[0], a[1], a[2]
            loss = hml.sum((hml.nn.softmax(q @ k.mT) @ v) ** 2)
        return tape.gradient(loss, w)

    concrete = check_traced(f, [x], variables=[w], ops=1000)
    (joined,) = [n for n in concrete.optimized.nodes if n.op.name == "concat"]
    assert joined.out.shape == (2, 16, 3, 4, 8)
