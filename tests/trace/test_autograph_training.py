"""Converted control flow in programs: gradients, variables, functions of functions, threads, cost."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import hybridml as hml


def gradient_of(f: Any, *args: Any) -> list[Any]:
    with hml.GradientTape() as tape:
        tape.watch(list(args))
        y = f(*args)
    return tape.gradient(y, list(args))


def cond_on_sum(x, w):
    if (x * w).sum() > 0:
        return (x * w * w).sum()
    return (x - w).sum()


def while_halves(x, w):
    y = x * w
    while y.sum() > 1:
        y = y / 2 + w * 0.01
    return (y * y).sum()


def rows_with_condition(x, w):
    h = w + x * 0
    for row in x:
        if row > 0:
            h = hml.tanh(h + row * w)
        else:
            h = h * 0.5
    return h.sum()


def counted_with_break(x, w):
    s = (x * w).sum()
    for i in range(x.astype(hml.int64).sum()):
        s = s + (w * w).sum() * i
        if s > 20:
            break
    return s


def return_inside(x, w):
    s = hml.zeros_like(w)
    for row in x:
        s = s + row * w
        if s.sum() > 3:
            return (s * s).sum()
    return s.sum()


@pytest.mark.parametrize(
    "f", [cond_on_sum, while_halves, rows_with_condition, counted_with_break, return_inside]
)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_through(f: Any, sign: float) -> None:
    x, w = hml.asarray(np.array([2.0, 1.0, 3.0], np.float32) * sign), hml.asarray([0.7, 0.4, 1.1])
    want = gradient_of(f, x, w)
    for got in (gradient_of(hml.function(f), x, w), hml.function(lambda x, w: gradient_of(f, x, w))(x, w)):
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)


def test_a_recurrent_net_written_as_a_plain_loop_trains() -> None:
    rng = np.random.default_rng(0)
    x = hml.asarray(rng.normal(size=(64, 8, 1)).astype(np.float32))
    y = hml.asarray(np.asarray(x)[-3].copy())  # remember what came two steps ago
    w = [hml.Variable((rng.normal(size=s) * 0.5).astype(np.float32)) for s in ((1, 8), (8, 8), (8, 1))]
    traces = []

    @hml.function
    def step(x, y):
        traces.append(1)
        with hml.GradientTape() as tape:
            h = hml.zeros((x.shape[1], 8))
            for row in x:
                h = hml.tanh(row @ w[0] + h @ w[1])
            loss = ((h @ w[2] - y) ** 2).mean()
        for v, g in zip(w, tape.gradient(loss, w), strict=True):
            v.assign_sub(0.2 * g)
        return loss

    losses = [float(step(x, y)) for _ in range(300)]
    assert losses[-1] < losses[0] / 4
    assert len(traces) == 1
    ops = [n.op.name for n in step.get_concrete_function(x, y).graph.nodes]
    assert ops.count("scan") == 2
    assert step.get_concrete_function(x, y).stats.python_steps == 0


def test_variables_in_branches_and_loops_keep_program_order() -> None:
    count, total = hml.Variable(0), hml.Variable(0.0)

    def body(x):
        before = total.value()
        for row in x:
            if row > 0:
                count.assign_add(1)
                total.assign_add(row)
            else:
                total.assign(total * 2)
        while total > 100:
            total.assign(total / 10)
        return before, total.value(), count + 0

    results = []
    for f in (body, hml.function(body)):
        count.assign(0)
        total.assign(1.0)
        calls = [[float(v) for v in f(hml.asarray(x))] for x in ([1.0, -1.0, 5.0], [90.0, 1.0, -1.0])]
        results.append(calls)
    assert results[0] == results[1]
    assert results[0][0] == [1.0, 9.0, 2.0]


def test_a_function_calls_a_function() -> None:
    @hml.function
    def inner(x):
        return x * 2 if x > 0 else x

    @hml.function
    def outer(x):
        if x > 1:
            return inner(x) + 1
        return inner(-x)

    assert [float(outer(hml.asarray(v))) for v in (2.0, 0.5, -3.0)] == [5.0, -0.5, 6.0]


def test_methods_of_traced_classes() -> None:
    class Counter:
        def __init__(self) -> None:
            self.n = hml.Variable(0)

        @hml.function
        def up(self, x):
            if x > 0:
                self.n.assign_add(1)
            return self.n + 0

    a, b = Counter(), Counter()
    assert [int(a.up(hml.asarray(v))) for v in (1.0, -1.0, 2.0)] == [1, 1, 2]
    assert int(b.up(hml.asarray(-1.0))) == 0


def test_second_order_through_a_condition() -> None:
    @hml.function
    def f(x):
        return x**3 if x > 0 else x**2

    second = hml.grad(hml.grad(f))
    assert float(second(hml.asarray(2.0))) == pytest.approx(12)
    assert float(second(hml.asarray(-2.0))) == pytest.approx(2)


def test_many_threads_trace_once() -> None:
    traced = []

    @hml.function
    def f(x):
        traced.append(1)
        while x.sum() > 1:
            x = x / 2
        return x

    x = hml.asarray([3.0, 5.0])
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(f(x).tolist())) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [[0.375, 0.625]] * 8
    assert len(traced) == 1


def test_weak_numbers_stay_weak() -> None:
    @hml.function
    def f(x):
        i, s = 0, 0
        while i < 3:
            s = s + x * i
            i += 1
        return s

    for dtype in (hml.float16, hml.bfloat16, hml.float32, hml.float64):
        assert f(hml.ones((), dtype=dtype)).dtype == dtype
