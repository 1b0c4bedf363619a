"""A tape around a traced call: one step, whose backward graph is traced once and is a traced function itself."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.eager.state import state
from hybridml.testing import assert_close
from hybridml.trace.gradient import PureFunction, differentiate
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)
x = hml.asarray(rng.normal(size=(3, 4)))
w = hml.asarray(rng.normal(size=(4, 2)))
b = hml.asarray(rng.normal(size=2))

FUNCTIONS = {
    "one output": (lambda x: hml.tanh(x) * x, (x,)),
    "several outputs": (lambda x, w, b: (hml.tanh(x @ w + b), (x * x).sum(axis=0)), (x, w, b)),
    "an input returned": (lambda x, w: (x, x @ w), (x, w)),
    "an output used by another": (lambda x: (lambda y: (y, hml.exp(y)))(hml.sin(x)), (x,)),
    "an unused input": (lambda x, w: x * 2, (x, w)),
    "an integer output": (lambda x: (hml.argmax(x, axis=1), x.max(axis=1)), (x,)),
    "softmax": (hml.nn.softmax, (x,)),
    "layer_norm": (lambda x, s: hml.nn.layer_norm(x, s), (x, hml.asarray(rng.normal(size=4)))),
    "a tape inside": (lambda x: hml.grad(lambda x: (hml.tanh(x) ** 2).sum())(x), (x,)),
}


def scalar(out):
    return sum(
        ((o * o).sum() for o in pytree.leaves(out) if o.dtype.kind == "f"), hml.zeros((), dtype=hml.float64)
    )


def gradients(f, args, order):
    """The gradient of a scalar of f, or of the squared length of that gradient, and so on."""

    def value(*args):
        return scalar(f(*args))

    for _ in range(order):
        inner = hml.grad(value, tuple(range(len(args))))

        def value(*args, inner=inner):
            return sum(((g * g).sum() for g in inner(*args)), hml.zeros((), dtype=hml.float64))

    return [g.numpy() for g in inner(*args)]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_tape_around_is_the_tape_of_eager(case, order):
    f, args = FUNCTIONS[case]
    for got, want in zip(gradients(hml.function(f), args, order), gradients(f, args, order), strict=True):
        assert_close(got, want, ops=1e4, label=case)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_forward_and_backward_graphs(case):
    f, args = FUNCTIONS[case]
    graph = hml.function(f).get_concrete_function(*args).graph
    split = differentiate(graph)
    forward, backward = verify(split.forward), verify(split.backward)
    arrays = [a.numpy() for a in args]
    outputs, _ = interpret(forward, arrays)
    n = len(graph.outputs)
    for got, want in zip(outputs[:n], interpret(graph, arrays)[0], strict=True):
        assert_close(got, want)
    saved = [arrays[i] if is_input else outputs[n + i] for is_input, i in split.saved]
    seeds = [np.ones(v.shape, v.dtype) for v in graph.outputs if v.dtype.kind == "f"]
    grads = dict(zip(split.wanted, interpret(backward, saved + seeds)[0], strict=True))
    with hml.GradientTape() as tape:
        tape.watch(args)
        out = [o for o in pytree.leaves(f(*args)) if o.dtype.kind == "f"]
    for i, want in enumerate(tape.gradient(out, list(args), unconnected_gradients="zero")):
        got = grads.get(i, np.zeros(want.shape))
        assert_close(got, want.numpy(), ops=100, label=case)
    assert state.now.tapes == [] and state.now.traces == []


def test_what_the_backward_graph_can_compute_from_inputs_is_not_saved():
    graph = hml.function(lambda x, w: x @ w).get_concrete_function(x, w).graph
    assert all(is_input for is_input, _ in differentiate(graph).saved)


def test_the_body_runs_once_however_often_the_gradient_is_asked():
    traces = []

    @hml.function
    def f(x):
        traces.append(1)
        return hml.tanh(x)

    for _ in range(3):
        hml.grad(lambda x: f(x).sum())(x)
    assert len(traces) == 1


def test_variables_are_watched_and_assigned():
    v = hml.Variable(rng.normal(size=4), dtype=hml.float64)
    start = v.numpy()

    @hml.function
    def f(x):
        y = x * v
        v.assign_sub(v * 0.5)
        return y

    with hml.GradientTape() as tape:
        loss = (f(x) ** 2).sum()
    np.testing.assert_allclose(v.numpy(), start * 0.5)
    np.testing.assert_allclose(tape.gradient(loss, v).numpy(), (2 * x.numpy() ** 2 * start).sum(axis=0))


def test_a_gradient_does_not_go_through_an_assignment():
    """As eagerly: what is read after an assignment is the variable."""
    v = hml.Variable([1.0, 2.0], dtype=hml.float64)
    start = v.numpy()

    def f(z):
        v.assign(z * 3)
        return v.value() * z

    z = hml.asarray([2.0, 5.0], dtype=hml.float64)
    found = []
    for g in (f, hml.function(f), hml.function(lambda z: hml.value_and_grad(lambda z: f(z).sum())(z)[1])):
        v.assign(start)
        if g is f or len(found) == 1:
            with hml.GradientTape() as tape:
                tape.watch(z)
                out = g(z)
            found.append([t.tolist() for t in tape.gradient(out, [z, v])])
        else:
            assert g(z).tolist() == found[0][0]
    assert found[0] == found[1] == [[6.0, 15.0], [2.0, 5.0]]


def test_a_persistent_tape_and_two_calls():
    f = hml.function(lambda x: hml.exp(x * 0.1))
    with hml.GradientTape(persistent=True) as tape:
        tape.watch(x)
        a = f(x)
        b = f(a)
    for target in (a, b):
        with hml.GradientTape() as eager:
            eager.watch(x)
            y = hml.exp(x * 0.1)
            y = hml.exp(y * 0.1) if target is b else y
        assert_close(tape.gradient(target, x).numpy(), eager.gradient(y, x).numpy(), ops=10)


def test_a_tape_that_watches_nothing_of_the_call_records_nothing():
    f = hml.function(lambda x: x * 2)
    with hml.GradientTape() as tape:
        f(x)
    assert tape._entries == []


def test_pure_functions_inline_into_a_trace():
    graph = hml.function(lambda x: hml.tanh(x) * 2).get_concrete_function(x).graph
    pure = PureFunction(graph)
    outer = hml.function(lambda x: pure([x + 1])[0]).get_concrete_function(x)
    assert [n.op.name for n in outer.graph.nodes] == ["add", "tanh", "multiply"]
