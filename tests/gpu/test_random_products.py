"""Random programs of products and what may follow them, with their gradients: what the pass makes of them is what they were."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml.kernels.cuda.absorb import absorb
from hybridml.kernels.cuda.epilogue import PRODUCT
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

STEPS = {
    "product": lambda x, y, w, b: x @ w,
    "bias": lambda x, y, w, b: x @ w + b,
    "relu of a product": lambda x, y, w, b: hml.nn.relu(x @ w + b),
    "gelu of a product": lambda x, y, w, b: hml.nn.gelu(x @ w + b, approximate=True),
    "sum": lambda x, y, w, b: x + y,
    "relu": lambda x, y, w, b: hml.nn.relu(x),
    "residual": lambda x, y, w, b: y + (x @ w + b),
}


def program(seed: int) -> tuple[Any, list[Any]]:
    """A function and its arguments: two inputs, three weights and three biases, of one product or a batch, for each of it or for all."""
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    batch, rows, size = choose.choice([(), (), (2,), (2, 3)]), choose.choice([1, 2, 5]), choose.choice([4, 8])
    shapes = [(*batch, rows, size)] * 2
    shapes += [choose.choice([(size, size), (*batch, size, size)])] * 3
    shapes += [choose.choice([(size,), (*batch, 1, size)])] * 3
    args: list[Any] = [(rng.normal(size=s) * 0.5).astype(np.float32) for s in shapes]
    plan = [
        (choose.choice(list(STEPS)), choose.random(), choose.randrange(3))
        for _ in range(choose.randint(2, 8))
    ]

    def values(a: Any) -> list[Any]:
        found = list(a[:2])
        for name, place, k in plan:
            other = found[int(place * len(found))]
            found.append(STEPS[name](found[-1], other, a[2 + k], a[5 + k]))
        return found

    def backwards(*a: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch(list(a))
            found = values(a)
            loss = hml.sum(found[-1] * found[-1]) + hml.sum(found[len(found) // 2])
        return loss, tape.gradient(loss, list(a), unconnected_gradients="zero")

    return (backwards if choose.random() < 0.7 else lambda *a: tuple(values(a)[-2:])), args


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("seed", range(40))
def test_what_products_take_changes_nothing(seed: int, gpu: FakeGpu) -> None:
    f, args = program(seed)
    graph = hml.function(f).get_concrete_function(*map(hml.asarray, args)).optimized
    found, _ = absorb(graph, lambda plan, aligned: None)
    wanted = interpret(graph, args)[0]
    for got, want in zip(interpret(verify(found), args)[0], wanted, strict=True):
        close(got, want)
    if seed % 4:
        return
    expected = hml.pytree.leaves(hml.function(f)(*map(hml.asarray, args)))
    with hml.device("gpu:0"):  # places in memory too: a result may lie where its residual was
        traced, tensors = hml.function(f), [hml.asarray(a) for a in args]
        for _ in range(3):
            for got, want in zip(hml.pytree.leaves(traced(*tensors)), expected, strict=True):
                close(got.numpy(), want.numpy())


def test_the_programs_have_epilogues_of_all_kinds() -> None:
    seen: set[str] = set()
    for seed in range(40):
        f, args = program(seed)
        graph = hml.function(f).get_concrete_function(*map(hml.asarray, args)).optimized
        found, _ = absorb(graph, lambda plan, aligned: None)
        seen |= {
            word for n in found.nodes if n.op is PRODUCT for word in str(n.attrs["epilogue"]).split(", ")
        }
    assert seen == {
        "residual", "bias", "biases", "relu", "gelu", "kept", "relu gradient", "gelu gradient", "bias gradient"
    }  # fmt: skip
