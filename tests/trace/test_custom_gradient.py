"""custom_gradient in traced functions: the rule holds wherever the gradient is taken."""

import numpy as np
import pytest

import hybridml as hml

X = hml.asarray(np.array([0.3, -0.2, 0.6], np.float32))


@hml.custom_gradient
def clipped(x):
    return x * x, lambda g: hml.clip(g * x, -1, 1)


@hml.custom_gradient
def kinked(x):
    y = x * x if x.sum() > 0 else x * 3

    def rule(g):
        for i in range(hml.argmax(x)):
            g = g * i if g.sum() > 100 else g * x
        return g

    return y, rule


def scaled(scale):
    @hml.custom_gradient
    def f(x, k=2):
        y = x * scale * k
        return {"y": y, "n": hml.argmax(y)}, lambda _, g: (g * y,)

    return lambda x: f(x)["y"].sum()


FUNCTIONS = {
    "a rule that reads its argument": lambda x: (clipped(x) * 3).sum(),
    "a rule that reads a closure and the result": scaled(hml.asarray(1.5)),
    "a closure that is traced": lambda x: scaled(x.sum() * 0 + 2.0)(x),
    "conditions on tensors": lambda x: (kinked(x) * kinked(x - 1)).sum(),
    "in a scan": lambda x: hml.scan(lambda c, r: (clipped(r) + c, None), hml.zeros(()), x)[0],
    "in a branch": lambda x: hml.cond(x.sum() > 0, lambda: clipped(x).sum(), lambda: x.sum()),
    "in a rule": lambda x: hml.custom_gradient(lambda x: (x + 0, lambda g: g * clipped(x)))(x).sum(),
    "in a checkpoint": lambda x: hml.checkpoint(lambda x: clipped(x).sum())(x),
}


@pytest.mark.parametrize("case", FUNCTIONS)
@pytest.mark.parametrize("order", [1, 2])
def test_traced_equals_eager(case, order):
    f = FUNCTIONS[case]

    def gradient(f):
        g = hml.grad(f)
        return g if order == 1 else hml.grad(lambda x: (g(x) ** 2).sum())

    expected = gradient(f)(X)
    assert np.abs(expected.numpy()).sum() > 0
    for way, g in (("inside", hml.function(gradient(f))), ("around", gradient(hml.function(f)))):
        np.testing.assert_allclose(g(X), expected, rtol=1e-5, err_msg=way)


def test_variables_assigned_by_the_function():
    calls = hml.Variable(0)

    @hml.custom_gradient
    def counted(x):
        calls.assign_add(1)
        return x + 1, lambda g: g * 2

    f = hml.function(lambda x: counted(x).sum())
    with hml.GradientTape() as tape:
        tape.watch(X)
        y = f(X)
    np.testing.assert_array_equal(tape.gradient(y, X), [2, 2, 2])
    assert int(calls) == 1


def test_the_wrong_number_of_gradients():
    @hml.custom_gradient
    def wrong(x, y):
        return x + y, lambda g: g

    with pytest.raises(hml.errors.ShapeError, match="wrong returned 1 gradients for 2"):
        hml.function(wrong)(X, X)
