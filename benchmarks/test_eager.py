"""What eager calls on tiny tensors cost beside what a NumPy user would write: the price of a framework, one row a kind of call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from record import Record
from turns import in_turns, median, ratio

import hybridml as hml

M = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
ROW = np.ones(4, np.float32)
LABELS = np.array([1, 2, 0, 3])
x, row, labels, v = hml.asarray(M), hml.asarray(ROW), hml.asarray(LABELS), hml.Variable(M)


def softmax(a: Any) -> Any:
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm(a: Any) -> Any:
    c = a - a.mean(-1, keepdims=True)
    return c / np.sqrt((c * c).mean(-1, keepdims=True) + 1e-5) * ROW + ROW


def cross_entropy(a: Any) -> Any:
    top = a.max(-1, keepdims=True)
    return np.log(np.exp(a - top).sum(-1)) + top[:, 0] - a[np.arange(4), LABELS]


def gradient_of_squares() -> Any:
    with hml.GradientTape() as tape:
        loss = hml.sum(v * v)
    return tape.gradient(loss, v)


def training_gradient() -> Any:
    with hml.GradientTape() as tape:
        loss = hml.mean(hml.nn.softmax_cross_entropy(hml.nn.layer_norm(v, row, row), labels))
    return tape.gradient(loss, v)


def numpy_gradient_of_squares() -> Any:
    (M * M).sum()
    return 1.0 * M + 1.0 * M


# our call, NumPy's, at most how many times as long, at most how many seconds
CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], float, float]] = {
    "sum(x, axis=0)": (lambda: hml.sum(x, axis=0), lambda: M.sum(axis=0), 3.0, 5e-6),
    "x[:, 1:3]": (lambda: x[:, 1:3], lambda: M[:, 1:3], 15.0, 2.5e-6),
    "x[labels]": (lambda: x[labels], lambda: M[LABELS], 3.0, 2.5e-6),
    "einsum": (
        lambda: hml.einsum("ij,jk->ik", x, x),
        lambda: np.einsum("ij,jk->ik", M, M, optimize=True),
        1.0,
        5e-6,
    ),
    "softmax": (lambda: hml.nn.softmax(x), lambda: softmax(M), 1.5, 10e-6),
    "layer_norm": (lambda: hml.nn.layer_norm(x, row, row), lambda: layer_norm(M), 1.5, 18e-6),
    "softmax_cross_entropy": (
        lambda: hml.nn.softmax_cross_entropy(x, labels),
        lambda: cross_entropy(M),
        2.5,
        20e-6,
    ),
    "gradient of sum(v * v)": (gradient_of_squares, numpy_gradient_of_squares, 15.0, 40e-6),
}


@pytest.mark.parametrize("what", CASES)
def test_eager_calls(what: str, benchmark: Any, record: Record) -> None:
    ours, numpys, times, seconds = CASES[what]
    np.testing.assert_allclose(ours().numpy(), numpys(), rtol=1e-5, atol=1e-6)
    a, b = in_turns(ours, numpys)
    record.add(f"eager {what}, 4 x 4 float32", median(a), at_most=seconds, unit="s")
    record.add(f"eager {what}, 4 x 4 float32", ratio(a, b), at_most=times, unit="x", note="NumPy")
    benchmark(ours)


def test_eager_training_gradient(benchmark: Any, record: Record) -> None:
    (ours,) = in_turns(training_gradient)
    record.add(
        "eager gradient of mean cross-entropy of layer_norm, 4 x 4", median(ours), at_most=80e-6, unit="s"
    )
    benchmark(training_gradient)
