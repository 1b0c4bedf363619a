"""What all optimisers share: state, schedules, None gradients, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import GradientWarning, ShapeError


def ones(n: int = 2) -> hml.Tensor:
    return hml.asarray(np.ones(n, np.float32))


def test_minimize_goes_downhill_and_returns_the_loss() -> None:
    w, opt = hml.Variable([3.0, -2.0]), hml.optim.SGD(0.1)
    losses = [float(opt.minimize(lambda: hml.sum(w * w), [w])) for _ in range(50)]
    assert losses[0] == 13.0
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    w = hml.Variable([2.0, 4.0])
    hml.optim.SGD(0.5, weight_decay=0.1).apply_gradients([(0.0 * ones(), w)])
    np.testing.assert_allclose(w.numpy(), [1.9, 3.8], rtol=1e-6)


def test_a_schedule_is_asked_with_the_steps_done() -> None:
    w, opt = hml.Variable([0.0]), hml.optim.SGD(lambda step: 1.0 / (hml.astype(step, hml.float32) + 1.0))
    for _ in range(4):
        opt.apply_gradients([(ones(1), w)])
    np.testing.assert_allclose(w.numpy(), [-(1 + 1 / 2 + 1 / 3 + 1 / 4)], rtol=1e-6)


def test_a_learning_rate_variable_is_read_each_step() -> None:
    rate, w = hml.Variable(1.0, trainable=False), hml.Variable([0.0])
    opt = hml.optim.SGD(rate)
    opt.apply_gradients([(ones(1), w)])
    rate.assign(10.0)
    opt.apply_gradients([(ones(1), w)])
    assert w.numpy().tolist() == [-11.0]


def test_a_learning_rate_can_be_changed() -> None:
    w, opt = hml.Variable([0.0]), hml.optim.SGD(1.0)
    opt.apply_gradients([(ones(1), w)])
    before = opt.learning_rate
    opt.learning_rate = 0.5
    opt.apply_gradients([(ones(1), w)])
    assert w.numpy().tolist() == [-1.5]
    assert opt.learning_rate is before, "the variable stays, so that traced functions see the change"


def test_slots_are_made_once_for_each_variable() -> None:
    a, b, opt = (
        hml.Variable([1.0, 2.0], name="a"),
        hml.Variable([3.0], name="b", dtype=hml.float64),
        hml.optim.Adam(),
    )
    opt.build([a])
    first = opt.slots(a)
    opt.apply_gradients([(ones(), a), (hml.asarray([1.0], dtype=hml.float64), b)])
    assert [s.name for s in first.values()] == ["a/m", "a/v"]
    assert all(opt.slots(a)[k] is first[k] for k in first)
    assert opt.slots(b)["m"].dtype == hml.float64
    assert len(opt.variables) == 2 + 4
    assert not any(v.trainable for v in opt.variables)
    assert opt.iterations.dtype == hml.int64


def test_a_value_read_before_the_step_stays() -> None:
    w = hml.Variable([1.0, 2.0])
    held = w.value()
    hml.optim.Adam(0.1).apply_gradients([(ones(), w)])
    assert held.tolist() == [1.0, 2.0]
    assert w.numpy().tolist() != [1.0, 2.0]


def test_a_missing_gradient_warns_once_and_names_the_variable() -> None:
    a, b, opt = hml.Variable([1.0, 2.0]), hml.Variable([5.0], name="idle"), hml.optim.SGD(1.0)
    with pytest.warns(GradientWarning, match="idle"):
        opt.apply_gradients([(ones(), a), (None, b)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.apply_gradients([(ones(), a), (None, b)])
    assert a.numpy().tolist() == [-1.0, 0.0]
    assert b.numpy().tolist() == [5.0]


def test_the_gradient_is_cast_to_the_variable() -> None:
    w = hml.Variable([1.0, 2.0])
    hml.optim.SGD(1.0).apply_gradients([(hml.asarray(np.ones(2)), w)])
    assert w.dtype == hml.float32
    assert w.numpy().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: hml.optim.SGD(-1.0), ValueError, "learning_rate"),
        (lambda: hml.optim.SGD("fast"), TypeError, "learning_rate"),
        (lambda: hml.optim.SGD(float("nan")), ValueError, "learning_rate"),
        (lambda: hml.optim.SGD(hml.Variable([1.0, 2.0])), ShapeError, "shape"),
        (lambda: hml.optim.SGD(0.1, momentum=1.0), ValueError, "momentum"),
        (lambda: hml.optim.SGD(0.1, nesterov=True), ValueError, "momentum"),
        (lambda: hml.optim.SGD(0.1, weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda: hml.optim.Adam(beta_2=1.5), ValueError, "beta_2"),
        (lambda: hml.optim.SGD(0.1).apply_gradients([]), ValueError, "no variables"),
        (lambda: hml.optim.SGD(0.1).apply_gradients([(ones(3), hml.Variable([1.0]))]), ShapeError, r"\(3,\)"),
        (lambda: hml.optim.SGD(0.1).apply_gradients([(ones(3), ones(3))]), TypeError, "Variable"),
    ],
)
def test_errors_name_what_is_wrong(make, error, words) -> None:
    with pytest.raises(error, match=words):
        make()


def test_nothing_but_missing_gradients_is_an_error() -> None:
    with pytest.warns(GradientWarning), pytest.raises(ValueError, match="idle"):
        hml.optim.SGD(0.1).apply_gradients([(None, hml.Variable([1.0], name="idle"))])


def test_a_traced_step_follows_a_changed_learning_rate() -> None:
    w, opt = hml.Variable([0.0]), hml.optim.SGD(1.0)
    step = hml.function(lambda g: opt.apply_gradients([(g, w)]))
    step(ones(1))
    opt.learning_rate = 0.5
    step(ones(1))
    assert w.numpy().tolist() == [-1.5]
