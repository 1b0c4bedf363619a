"""Every optimiser against its formula, over several steps, in float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import optimizer_formulas as reference
import pytest

import hybridml as hml

STEPS = 8
CASES: dict[str, tuple[Any, Any]] = {
    "SGD": (lambda: hml.optim.SGD(0.1), lambda x, g: reference.sgd(x, g, 0.1)),
    "SGD momentum": (lambda: hml.optim.SGD(0.1, momentum=0.9), lambda x, g: reference.sgd(x, g, 0.1, 0.9)),
    "SGD nesterov": (
        lambda: hml.optim.SGD(0.1, momentum=0.9, nesterov=True),
        lambda x, g: reference.sgd(x, g, 0.1, 0.9, True),
    ),
    "Adam": (lambda: hml.optim.Adam(0.01), lambda x, g: reference.adam(x, g, 0.01, 0.9, 0.999, 1e-7)),
    "Adam large epsilon": (
        lambda: hml.optim.Adam(0.01, 0.8, 0.9, 0.1),
        lambda x, g: reference.adam(x, g, 0.01, 0.8, 0.9, 0.1),
    ),
    "AdamW": (
        lambda: hml.optim.AdamW(0.01, weight_decay=0.1),
        lambda x, g: reference.adam(x, g, 0.01, 0.9, 0.999, 1e-7, 0.1),
    ),
    "Adamax": (lambda: hml.optim.Adamax(0.01), lambda x, g: reference.adamax(x, g, 0.01, 0.9, 0.999, 1e-7)),
    "Nadam": (lambda: hml.optim.Nadam(0.01), lambda x, g: reference.nadam(x, g, 0.01, 0.9, 0.999, 1e-7)),
    "Adagrad": (lambda: hml.optim.Adagrad(0.1), lambda x, g: reference.adagrad(x, g, 0.1, 1e-7)),
    "RMSprop": (lambda: hml.optim.RMSprop(0.01), lambda x, g: reference.rmsprop(x, g, 0.01, 0.9, 1e-7)),
    "RMSprop momentum": (
        lambda: hml.optim.RMSprop(0.01, momentum=0.5),
        lambda x, g: reference.rmsprop(x, g, 0.01, 0.9, 1e-7, 0.5),
    ),
    "RMSprop centered": (
        lambda: hml.optim.RMSprop(0.01, momentum=0.5, epsilon=1e-3, centered=True),
        lambda x, g: reference.rmsprop(x, g, 0.01, 0.9, 1e-3, 0.5, True),
    ),
    "Adadelta": (lambda: hml.optim.Adadelta(1.0), lambda x, g: reference.adadelta(x, g, 1.0, 0.95, 1e-7)),
    "Lion": (lambda: hml.optim.Lion(0.01), lambda x, g: reference.lion(x, g, 0.01, 0.9, 0.99)),
    "Lion decay": (
        lambda: hml.optim.Lion(0.01, weight_decay=0.1),
        lambda x, g: reference.lion(x, g, 0.01, 0.9, 0.99, 0.1),
    ),
    "LAMB": (lambda: hml.optim.LAMB(0.01), lambda x, g: reference.lamb(x, g, 0.01, 0.9, 0.999, 1e-7, 0.0)),
    "LAMB decay": (
        lambda: hml.optim.LAMB(0.01, weight_decay=0.1),
        lambda x, g: reference.lamb(x, g, 0.01, 0.9, 0.999, 1e-7, 0.1),
    ),
}


def start_and_gradients(shape: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(7)
    return rng.normal(size=shape), [rng.normal(size=shape) for _ in range(STEPS)]


@pytest.mark.parametrize("dtype", [hml.float32, hml.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_follows_its_formula(name: str, dtype: np.dtype) -> None:
    make, rule = CASES[name]
    x, grads = start_and_gradients((3, 4))
    w, opt = hml.Variable(x, dtype=dtype), make()
    for expected, g in zip(rule(x, iter(grads)), grads, strict=True):
        opt.apply_gradients([(hml.asarray(g, dtype=dtype), w)])
        np.testing.assert_allclose(
            w.numpy(), expected, rtol=2e-5 if dtype == hml.float32 else 1e-12, atol=1e-6
        )
    assert w.dtype == dtype
    assert int(opt.iterations) == STEPS
    assert not np.allclose(w.numpy(), x)


@pytest.mark.parametrize("name", CASES)
def test_same_numbers_traced(name: str) -> None:
    make, _ = CASES[name]
    x, grads = start_and_gradients((3, 4))
    results = []
    for traced in (False, True):
        w, b, opt = hml.Variable(x, dtype=hml.float32), hml.Variable(x[0], dtype=hml.float32), make()

        def step(g: Any, w: Any = w, b: Any = b, opt: Any = opt) -> None:
            opt.apply_gradients([(g, w), (g[0], b)])

        run = hml.function(step) if traced else step
        for g in grads:
            run(hml.asarray(g, dtype=hml.float32))
        assert int(opt.iterations) == STEPS
        results.append((w.numpy(), b.numpy()))
    for eager, fast in zip(*results, strict=True):
        np.testing.assert_allclose(fast, eager, rtol=1e-5, atol=1e-6)


def test_lamb_starts_from_zero() -> None:
    """A parameter of norm 0 must move, and no gradient must not divide 0 by 0."""
    w, opt = hml.Variable([0.0, 0.0]), hml.optim.LAMB(0.1)
    opt.apply_gradients([(hml.asarray([0.0, 0.0]), w)])
    assert w.numpy().tolist() == [0.0, 0.0]
    opt.apply_gradients([(hml.asarray([1.0, -1.0]), w)])
    assert (w.numpy() * [1, -1] < 0).all()
