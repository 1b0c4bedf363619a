"""Variables as arguments: a trace is keyed by dtype, shape and aliasing, and runs on the variables passed."""

import dataclasses
import functools

import numpy as np
import pytest

import hybridml as hml

X = hml.asarray(np.array([1.0, 2.0], np.float32))


def variable(*numbers, **options):
    return hml.Variable(np.array(numbers, np.float32), **options)


def traces(f):
    return f.cache_info().traces


def add_to(w, x):
    w.assign_add(x)
    return w * 10


def test_one_trace_for_all_variables_of_a_shape():
    f = hml.function(add_to)
    a, b = variable(0, 0), variable(5, 5)
    for v, expected in ((a, [10, 20]), (b, [60, 70]), (a, [20, 40]), (b, [70, 90])):
        np.testing.assert_array_equal(f(v, X), expected)
    np.testing.assert_array_equal(a, [2, 4])
    np.testing.assert_array_equal(b, [7, 9])
    assert traces(f) == 1


def test_other_shapes_dtypes_and_variables_that_are_not_trained_are_other_traces():
    f = hml.function(lambda w: w.value().sum())
    for v in (variable(1, 2), variable(1, 2, 3), hml.Variable(np.zeros(2)), variable(1, 2, trainable=False)):
        f(v)
    assert traces(f) == 4


def test_aliasing():
    @hml.function
    def f(a, b):
        a.assign_add(X)
        return b * 1

    v, w, u = variable(0, 0), variable(0, 0), variable(0, 0)
    np.testing.assert_array_equal(f(v, w), [0, 0])
    np.testing.assert_array_equal(f(v, v), [2, 4])
    np.testing.assert_array_equal(f(u, w), [0, 0])
    np.testing.assert_array_equal(f(u, u), [2, 4])
    assert traces(f) == 2


def test_gradients_reach_the_variables_passed():
    f = hml.function(lambda w, x: (w * w * x).sum())
    a, b = variable(1, 1), variable(3, 5)
    for v in (a, b, a):
        with hml.GradientTape() as tape:
            loss = f(v, X)
        np.testing.assert_array_equal(tape.gradient(loss, v), 2 * v.numpy() * X.numpy())

    @hml.function
    def inside(w, x):
        with hml.GradientTape() as tape:
            loss = (w * w * x).sum()
        w.assign_sub(tape.gradient(loss, w))
        return loss

    for v in (a, b):
        before = v.numpy()
        inside(v, X)
        np.testing.assert_array_equal(v, before - 2 * before * X.numpy())
    assert traces(f) == traces(inside) == 1


def test_a_captured_variable_that_is_also_passed():
    w = variable(1, 1)
    f = hml.function(lambda v, x: v * 0 + w + x)
    np.testing.assert_array_equal(f(variable(9, 9), X), [2, 3])
    np.testing.assert_array_equal(f(w, X), [2, 3])
    w.assign([2.0, 2.0])
    np.testing.assert_array_equal(f(variable(7, 7), X), [3, 4])
    np.testing.assert_array_equal(f(w, X), [3, 4])


@dataclasses.dataclass(eq=False)
class Holder:
    parts: list

    def __call__(self, x):
        return self.parts[0] * x


module_variable = hml.Variable(np.array([4.0, 4.0], np.float32))


def read_module_variable(x):
    return module_variable * x


def held_by():
    """(function of (variable, x), the variable that it knows by itself), one for each way to know one."""
    w = variable(1, 1)
    box, holder = {"deep": [w]}, Holder([w])

    def helper(x):
        return w * x

    yield "closure", (lambda v, x: v + w * x), w
    yield "container", (lambda v, x: v + box["deep"][0] * x), w
    yield "object", (lambda v, x: v + holder(x)), w
    yield "helper", (lambda v, x: v + helper(x)), w
    yield "partial", functools.partial(lambda u, v, x: v + u * x, w), w
    yield "default", (lambda v, x, u=w: v + u * x), w
    yield "global of a helper", (lambda v, x: v + read_module_variable(x)), module_variable


@pytest.mark.parametrize(("f", "w"), [pytest.param(f, w, id=name) for name, f, w in held_by()])
def test_first_called_with_a_variable_it_knows_by_itself(f, w):
    """The trace made with `w` in both roles is of no use for another variable."""
    g = hml.function(f)
    other = variable(100, 100)
    np.testing.assert_array_equal(g(w, X), f(w, X))
    np.testing.assert_array_equal(g(other, X), f(other, X))


def test_state_kept_for_each_variable_by_an_optimiser():
    a, b, c, d = (variable(1, 1) for _ in range(4))
    opts = [hml.optim.SGD(0.1, momentum=0.9) for _ in range(2)]

    def step(opt, w):
        with hml.GradientTape() as tape:
            loss = (w * w).sum()
        opt.apply_gradients([(tape.gradient(loss, w), w)])

    traced = hml.function(lambda w: step(opts[0], w))
    for _ in range(3):
        for v in (a, b):
            traced(v)
        for v in (c, d):
            step(opts[1], v)
    np.testing.assert_allclose(a, c, rtol=1e-6)
    np.testing.assert_allclose(b, d, rtol=1e-6)


def test_nested_structures_of_variables():
    @hml.function
    def f(model, x):
        return model["layers"][0] * x + model["layers"][1]

    one = {"layers": [variable(1, 1), variable(2, 2)]}
    two = {"layers": [variable(3, 3), variable(4, 4)]}
    for m in (one, two, one):
        a, b = m["layers"]
        np.testing.assert_array_equal(f(m, X), a.numpy() * X.numpy() + b.numpy())
    shared = {"layers": [one["layers"][0], two["layers"][1]]}
    np.testing.assert_array_equal(f(shared, X), X.numpy() + 4)
    assert traces(f) == 1


def test_concrete_functions_are_for_the_variables_they_were_asked_for():
    f = hml.function(add_to)
    a, b = variable(0, 0), variable(5, 5)
    for_a, for_b = f.get_concrete_function(a, X), f.get_concrete_function(b, X)
    assert for_a.variables == (a,) and for_b.variables == (b,) and for_a.program is for_b.program
    for_b(X)
    np.testing.assert_array_equal(a, [0, 0])
    np.testing.assert_array_equal(b, [6, 7])
    assert traces(f) == 1
