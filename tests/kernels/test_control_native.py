"""Branches and loops inside the native program: no Python for them, nothing compiled again, and trained recurrent nets."""

from __future__ import annotations

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import IndexOutOfRangeError
from hybridml.kernels import jit
from hybridml.kernels.control import ControlStep


def test_a_second_call_compiles_nothing():
    @hml.function
    def f(x, n):
        return hml.while_loop(
            lambda i, s: i < n, lambda i, s: (i + 1, hml.cond(i > 1, lambda: s * x, lambda: s + x)), (0, x)
        )[1]

    x = hml.asarray([1.5, -0.5])
    first = f(x, hml.asarray(2)).numpy()
    with jit.forbid_compiling():
        np.testing.assert_allclose(f(x, hml.asarray(2)).numpy(), first)
        np.testing.assert_allclose(f(x, hml.asarray(4)).numpy(), first * np.square(x.numpy()), rtol=1e-6)


def test_a_body_that_needs_python_runs_the_loop_in_python():
    """There is no native kernel for sorting; the loop still gives the right results, and says so."""

    @hml.function
    def f(xs):
        return hml.scan(lambda c, x: (hml.sort(c + x), c), hml.zeros(3), xs)

    xs = hml.asarray([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    c = f.get_concrete_function(xs)
    assert c.stats.python_steps == 1
    assert "no native kernel for sort inside `body`" in str(f.explain(xs))
    last, ys = f(xs)
    np.testing.assert_array_equal(last.numpy(), [1, 4, 7])
    np.testing.assert_array_equal(ys.numpy(), [[0, 0, 0], [1, 2, 3]])


def test_a_check_inside_a_body_names_the_line_and_spares_variables():
    v = hml.Variable([1.0, 2.0, 3.0])

    @hml.function
    def f(indices):
        def step(c, i):
            v.assign_add([1.0, 1.0, 1.0])
            return c + hml.take(v.value(), i, axis=0), i

        return hml.scan(step, 0.0, indices)[0]

    assert f(hml.asarray([0, 1])).item() == 2.0 + 4.0
    with pytest.raises(IndexOutOfRangeError, match=r"(?s)index 7 is out of range.*test_control_native.py"):
        f(hml.asarray([0, 7]))
    np.testing.assert_array_equal(v.numpy(), [3, 4, 5])
    assert f(hml.asarray([0, 2])).item() == 4.0 + 7.0


def test_loop_state_lives_in_the_result_and_is_overwritten_in_place():
    @hml.function
    def f(h, xs, w):
        return hml.scan(lambda h, x: (hml.tanh(h @ w + x), None), h, xs)[0]

    c = f.get_concrete_function(np.zeros((4, 8), "f"), np.zeros((6, 4, 8), "f"), np.zeros((8, 8), "f"))
    (step,) = [s for s in c.program.steps if isinstance(s, ControlStep)]
    assert not step.regions["body"].copies


def test_two_states_that_change_places():
    f = hml.function(
        lambda a, b, n: hml.while_loop(lambda i, a, b: i < n, lambda i, a, b: (i + 1, b, a), (0, a, b))[1:]
    )
    a, b = hml.asarray([1.0, 2.0]), hml.asarray([3.0, 4.0])
    for n in range(4):
        x, y = f(a, b, hml.asarray(n))
        assert (x.tolist(), y.tolist()) == (
            ([1.0, 2.0], [3.0, 4.0]) if n % 2 == 0 else ([3.0, 4.0], [1.0, 2.0])
        )


def test_one_initial_value_for_two_states():
    f = hml.function(
        lambda a: hml.scan(lambda c, _: ((c[0] * 2, c[1] + c[0]), None), (a * 1.5, a * 1.5), length=3)[0]
    )
    x, y = f(hml.asarray([2.0]))
    assert (x.item(), y.item()) == (24.0, 3.0 + 3 + 6 + 12)


def test_large_steps_are_shared_by_threads():
    """Kernels inside a body split over the pool like any other."""
    xs = hml.asarray(np.random.default_rng(0).normal(size=(3, 300_000)).astype("f"))
    f = hml.function(lambda xs: hml.scan(lambda c, x: (hml.tanh(c + x), c.sum()), xs[0], xs))
    eager = hml.scan(lambda c, x: (hml.tanh(c + x), c.sum()), xs[0], xs)
    for a, b in zip(f(xs), eager, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-4)


def test_a_recurrent_net_of_64_steps_trains():
    """A GRU learns to add up its inputs; eager and traced losses agree while it does."""
    rng = np.random.default_rng(1)
    n, d, h = 8, 3, 16

    def net():
        r = np.random.default_rng(2)
        shapes = {"w": (d, 3 * h), "u": (h, 3 * h), "b": (3 * h,), "out": (h, 1)}
        return {k: hml.Variable((r.normal(size=s) * 0.3).astype("f"), name=k) for k, s in shapes.items()}

    def train(p, xs, ys):
        def step(state, x):
            gx, gh = x @ p["w"] + p["b"], state @ p["u"]
            z = hml.sigmoid(gx[:, :h] + gh[:, :h])
            r = hml.sigmoid(gx[:, h : 2 * h] + gh[:, h : 2 * h])
            new = hml.tanh(gx[:, 2 * h :] + r * gh[:, 2 * h :])
            state = z * state + (1 - z) * new
            return state, state @ p["out"]

        with hml.GradientTape() as tape:
            _, out = hml.scan(step, hml.zeros((n, h)), xs)
            loss = ((out - ys) ** 2).mean()
        for v, g in zip(p.values(), tape.gradient(loss, list(p.values())), strict=True):
            v.assign_sub(0.1 * g)
        return loss

    xs = rng.normal(size=(64, n, d)).astype("f")
    ys = np.tanh(np.cumsum(xs.sum(-1, keepdims=True), 0) * 0.3).astype("f")
    a, b = net(), net()
    traced = hml.function(lambda xs, ys: train(b, xs, ys))
    eager_losses = [float(train(a, hml.asarray(xs), hml.asarray(ys))) for _ in range(5)]
    losses = [float(traced(xs, ys)) for _ in range(300)]
    np.testing.assert_allclose(losses[:5], eager_losses, rtol=1e-4)
    assert losses[-1] < 0.7 * losses[0]
    assert traced.get_concrete_function(xs, ys).stats.python_steps == 0
