"""Gradient tapes, function transforms and custom gradients."""

import dataclasses
import gc
import threading
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager.state import state
from hybridml.errors import GradientWarning, ShapeError, TapeError
from hybridml.testing import check_grads


def gradient_of(f, *xs, **kwargs):
    with hml.GradientTape(**kwargs) as tape:
        tape.watch(xs)
        y = f(*xs)
    return tape.gradient(y, list(xs))


def test_gradient_of_a_product():
    x, y = hml.asarray([1.0, 2.0]), hml.asarray([3.0, 4.0])
    gx, gy = gradient_of(lambda x, y: x * y, x, y)
    assert (gx.tolist(), gy.tolist()) == ([3, 4], [1, 2])


def test_variables_are_watched_when_read_and_constants_are_not():
    v, frozen = hml.Variable(2.0), hml.Variable(2.0, trainable=False)
    with hml.GradientTape() as tape:
        y = v * v * frozen
    assert tape.watched_variables() == (v,)
    assert float(tape.gradient(y, v)) == 8.0
    with hml.GradientTape(watch_accessed_variables=False) as tape:
        y = v * v
    with pytest.warns(GradientWarning, match="did not watch it"):
        assert tape.gradient(y, v) is None


def test_a_tape_is_used_up_unless_persistent():
    x = hml.asarray(3.0)
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    tape.gradient(y, x)
    with pytest.raises(TapeError, match="persistent=True"):
        tape.gradient(y, x)
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        z = y * y
    assert [float(tape.gradient(t, x)) for t in (y, z, y)] == [6.0, 108.0, 6.0]


def test_structures_are_kept():
    @dataclasses.dataclass
    class Params:
        w: hml.Tensor
        b: list

    p = Params(hml.asarray(2.0), [hml.asarray(3.0), {"k": hml.asarray(4.0)}])
    with hml.GradientTape() as tape:
        tape.watch(p)
        y = p.w * p.b[0] + p.b[1]["k"]
    g = tape.gradient(y, p)
    assert isinstance(g, Params)
    assert (float(g.w), float(g.b[0]), float(g.b[1]["k"])) == (3.0, 2.0, 1.0)


def test_targets_are_summed_and_weighed():
    x = hml.asarray([1.0, 2.0])
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, z = x * x, x * 3
    assert tape.gradient([y, z], x).tolist() == [5, 7]
    assert tape.gradient(y, x, output_gradients=hml.asarray([1.0, 10.0])).tolist() == [2, 40]
    with pytest.raises(ShapeError, match="equal"):
        tape.gradient(y, x, output_gradients=hml.ones(3))


def test_output_gradients_count_targets_not_elements():
    x = hml.asarray([1.0, 2.0])
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    with pytest.raises(ShapeError, match="2 tensors for 1 target"):
        tape.gradient(y, x, output_gradients=[hml.ones(2), hml.ones(2)])


def test_unconnected_sources():
    x, z = hml.asarray(1.0), hml.asarray([1.0, 2.0])
    with hml.GradientTape(persistent=True) as tape:
        tape.watch((x, z))
        y = x * 2
    with pytest.warns(GradientWarning, match="does not depend on it"):
        assert tape.gradient(y, z) is None
    assert tape.gradient(y, z, unconnected_gradients="zero").tolist() == [0, 0]
    with pytest.raises(ValueError, match="none"):
        tape.gradient(y, x, unconnected_gradients="zeros")


def test_integers_have_no_gradient():
    i = hml.asarray([1, 2])
    with hml.GradientTape() as tape:
        tape.watch(i)
        y = i * 2.0
    with pytest.warns(GradientWarning, match="int64"):
        assert tape.gradient(y, i) is None


def test_a_source_used_twice_and_a_source_that_is_the_target():
    x = hml.asarray(3.0)
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        z = y + x
    assert [float(g) for g in tape.gradient(z, [x, y, z])] == [7.0, 1.0, 1.0]


def test_nothing_is_recorded_while_stopped():
    x = hml.asarray(3.0)
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        with tape.stop_recording():
            z = x * 100
        total = y + z
    assert float(tape.gradient(total, x)) == 6.0
    with hml.GradientTape() as tape:
        tape.watch(x)
        with tape.stop_recording():
            z = x * 100
    with pytest.warns(GradientWarning):
        assert tape.gradient(z, x) is None


def test_reset_forgets():
    x = hml.asarray(3.0)
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        tape.reset()
        tape.watch(x)
        z = x * 5
        total = y + z
    assert float(tape.gradient(total, x)) == 5.0


def test_a_tape_lets_go_of_what_rules_do_not_read():
    x = hml.asarray(np.ones(1000))
    with hml.GradientTape() as tape:
        tape.watch(x)
        a = x + 1
        b = a + 1
    gone = weakref.ref(a)
    del a
    gc.collect()
    assert gone() is None
    assert tape.gradient(b, x).tolist() == [1] * 1000


def test_tapes_are_restored_after_an_error():
    with pytest.raises(ZeroDivisionError), hml.GradientTape():
        raise ZeroDivisionError
    assert state.now.tapes == []
    tape = hml.GradientTape()
    with tape, pytest.raises(TapeError, match="recording already"), tape:
        raise AssertionError("not reached")


def test_each_thread_has_its_own_tapes():
    x = hml.asarray(3.0)
    found = []

    def work():
        found.append(float(gradient_of(lambda x: x * x * x, x)[0]))

    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        threads = [threading.Thread(target=work) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert found == [27.0] * 4
    assert float(tape.gradient(y, x)) == 6.0


def test_second_and_third_order():
    x = hml.asarray(2.0)
    with hml.GradientTape() as t3:
        t3.watch(x)
        with hml.GradientTape() as t2:
            t2.watch(x)
            with hml.GradientTape() as t1:
                t1.watch(x)
                y = x * x * x * x
            g1 = t1.gradient(y, x)
        g2 = t2.gradient(g1, x)
    assert (float(g1), float(g2), float(t3.gradient(g2, x))) == (32.0, 48.0, 48.0)


def test_gradient_asked_inside_its_own_context():
    x = hml.asarray(3.0)
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        g = tape.gradient(y, x)
    assert float(g) == 6.0


def test_jacobian_and_batch_jacobian():
    a = np.random.default_rng(0).normal(size=(2, 3))
    x = hml.asarray(a)
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = hml.sin(x) * x[:, :1]
        z = y.sum(axis=1)
    j = tape.jacobian(y, x)
    assert j.shape == (2, 3, 2, 3)
    assert tape.jacobian(z, x).shape == (2, 2, 3)
    np.testing.assert_allclose(
        tape.batch_jacobian(y, x).numpy(), np.stack([j.numpy()[i, :, i] for i in range(2)])
    )
    np.testing.assert_allclose(tape.jacobian(z, x).numpy(), j.numpy().sum(axis=1))
    with pytest.raises(ShapeError, match="equal first sizes"):
        tape.batch_jacobian(y, x[:1])


def test_every_read_of_a_variable_counts_with_the_value_it_had():
    v = hml.Variable(2.0)
    with hml.GradientTape() as tape:
        y = v * 3
        v.assign(10.0)
        z = v * v
        total = y + z
    assert float(tape.gradient(total, v)) == 23.0
    assert float(v) == 10.0


# transforms


def f(x, y):
    return (hml.sin(x) * y).sum()


X, Y = np.array([1.0, 2.0]), np.array([3.0, 4.0])


def test_grad_and_value_and_grad():
    np.testing.assert_allclose(hml.grad(f)(X, Y).numpy(), np.cos(X) * Y)
    gx, gy = hml.grad(f, argnums=(0, 1))(X, Y)
    np.testing.assert_allclose(gx.numpy(), np.cos(X) * Y)
    np.testing.assert_allclose(gy.numpy(), np.sin(X))
    value, g = hml.value_and_grad(f, argnums=1)(X, Y)
    np.testing.assert_allclose(float(value), np.sum(np.sin(X) * Y))
    np.testing.assert_allclose(g.numpy(), np.sin(X))
    (value, aux), g = hml.value_and_grad(lambda x: ((x * x).sum(), "aux"), has_aux=True)(X)
    assert aux == "aux" and float(value) == 5.0
    assert (
        hml.grad(lambda p: p["a"] * p["b"][0])({"a": hml.asarray(2.0), "b": [hml.asarray(3.0)]})["b"][
            0
        ].tolist()
        == 2.0
    )
    with pytest.raises(ShapeError, match="one element"):
        hml.grad(lambda x: x)(X)
    with pytest.raises(TypeError, match="must return a tensor"):
        hml.grad(lambda x: 1.0)(X)


def test_the_same_tensor_as_two_arguments():
    x = hml.asarray(3.0)
    assert [float(g) for g in hml.grad(lambda a, b: a * a * b, argnums=(0, 1))(x, x)] == [18.0, 9.0]


def test_nested_grad_follows_the_outer_argument():
    assert float(hml.grad(lambda x: hml.grad(lambda y: y * y * x)(hml.asarray(3.0)))(hml.asarray(2.0))) == 6.0
    assert float(hml.grad(hml.grad(hml.grad(lambda x: x**4)))(hml.asarray(2.0))) == 48.0


def test_vjp_and_jvp_are_adjoint():
    rng = np.random.default_rng(0)
    t, u = (rng.normal(size=2), rng.normal(size=2)), rng.normal(size=(2, 2))

    def g(x, y):
        return hml.exp(x)[:, None] * y

    out, pull = hml.vjp(g, X, Y)
    _, push = hml.jvp(g, (X, Y), t)
    forwards = np.vdot(push.numpy(), u)
    backwards = sum(np.vdot(p.numpy(), s) for p, s in zip(pull(u), t, strict=True))
    np.testing.assert_allclose(forwards, backwards)
    np.testing.assert_allclose(out.numpy(), np.exp(X)[:, None] * Y)
    assert [z.shape for z in pull(u)] == [(2,), (2,)]


def test_jvp_of_structures_and_of_what_does_not_depend():
    (a, b), (da, db) = hml.jvp(lambda x, y: (x + x, y * 0 + 5.0), (X, Y), (np.ones(2), np.ones(2)))
    assert (a.tolist(), b.tolist(), da.tolist(), db.tolist()) == ([2, 4], [5, 5], [2, 2], [0, 0])
    with pytest.raises(ShapeError, match="tangents of shapes"):
        hml.jvp(lambda x: x, (X,), (np.ones(3),))


def test_forward_over_reverse_is_a_hessian_product():
    h = hml.hessian(lambda x: (x**3).sum() * x[0])(X).numpy()
    v = np.array([1.0, -1.0])
    _, hv = hml.jvp(hml.grad(lambda x: (x**3).sum() * x[0]), (X,), (v,))
    np.testing.assert_allclose(hv.numpy(), h @ v)
    np.testing.assert_allclose(h, h.T)


def test_jacobian_transform():
    jx, jy = hml.jacobian(lambda x, y: x * y, argnums=(0, 1))(X, Y)
    np.testing.assert_array_equal(jx.numpy(), np.diag(Y))
    np.testing.assert_array_equal(jy.numpy(), np.diag(X))
    assert hml.jacobian(lambda x: x[:0])(X).shape == (0, 2)


# custom gradients


def test_custom_gradient():
    @hml.custom_gradient
    def log1pexp(x):
        e = hml.exp(x)
        return hml.log(1 + e), lambda g: g * (1 - 1 / (1 + e))

    x = hml.asarray(100.0)
    assert float(hml.grad(log1pexp)(x)) == 1.0
    y = hml.asarray(0.5, dtype=hml.float64)
    s = 1 / (1 + np.exp(-0.5))
    np.testing.assert_allclose(float(hml.grad(hml.grad(log1pexp))(y)), s * (1 - s))


def test_custom_gradient_of_several_arguments_and_results():
    @hml.custom_gradient
    def both(x, k, pair):
        return {"a": x * k, "b": pair[0] + pair[1]}, lambda a, b: (a * 100, None, b * 7)

    x, p, q = hml.asarray(1.0), hml.asarray(2.0), hml.asarray(3.0)
    with hml.GradientTape(persistent=True) as tape:
        tape.watch((x, p, q))
        out = both(x, 5.0, [p, q])
    assert float(out["a"]) == 5.0
    assert float(tape.gradient(out["a"], x)) == 100.0
    assert float(tape.gradient(out, q)) == 7.0
    assert float(tape.gradient(out["b"], x, unconnected_gradients="zero")) == 0.0


def test_custom_gradient_with_a_wrong_number_of_gradients():
    @hml.custom_gradient
    def bad(x, y):
        return x * y, lambda g: g

    with pytest.raises(ShapeError, match="bad returned 1 gradients for 2"):
        hml.grad(lambda x: bad(x, x))(hml.asarray(1.0))


def test_custom_gradient_of_a_variable():
    v = hml.Variable(3.0)

    @hml.custom_gradient
    def double(x):
        return x * 2, lambda g: g * 50

    with hml.GradientTape() as tape:
        y = double(v)
    assert float(tape.gradient(y, v)) == 50.0


def test_stop_gradient_and_check_finite():
    assert float(hml.grad(lambda x: x * hml.stop_gradient(x * x))(hml.asarray(3.0))) == 9.0
    assert float(hml.grad(lambda x: hml.check_finite(x * x))(hml.asarray(3.0))) == 6.0


# the check itself


def test_check_grads_finds_a_wrong_gradient():
    @hml.custom_gradient
    def wrong(x):
        return x * x, lambda g: g * x

    with pytest.raises(AssertionError, match="order 1"):
        check_grads(wrong, (X,))

    @hml.custom_gradient
    def wrong_later(x):
        return x * x, lambda g: g * 2 * hml.stop_gradient(x)

    check_grads(wrong_later, (X,), order=1)
    with pytest.raises(AssertionError, match="order 2"):
        check_grads(wrong_later, (X,), order=2)
    with pytest.raises(ValueError, match="floating point"):
        check_grads(lambda i: i, (np.arange(2),))
