"""Modules and traced functions: as arguments by structure and leaves, by closure, and with methods that are traced."""

import gc
import warnings
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import ChangedValueWarning

X = hml.asarray(np.array([[1.0, -2.0, 3.0]], np.float32))


class Net(hml.nn.Module):
    def __init__(self, factor=1.0, width=4):
        super().__init__()
        self.factor = factor
        self.hidden, self.drop, self.out = hml.nn.Dense(width), hml.nn.Dropout(0.0), hml.nn.Dense(2)

    def call(self, x):
        return self.out(self.drop(self.hidden(x))) * self.factor


def built(**options):
    net = Net(**options)
    net(X)
    return net


def counted():
    traces = []

    @hml.function
    def f(net, x):
        traces.append(1)
        return net(x)

    return f, traces


def test_modules_that_are_alike_share_a_trace_and_keep_their_own_weights():
    f, traces = counted()
    a, b = built(), built()
    for net in (a, b, a, b):
        np.testing.assert_allclose(f(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda: built(width=5), lambda: built(factor=2.0), lambda: built(factor=1),
        lambda: changed(built(), "out", hml.nn.Dense(2, activation="relu")),
        lambda: changed(built(), "extra", [1]), lambda: changed(built(), "drop", hml.nn.Lambda(lambda x: x)),
        lambda: tied(built(), "bias"),
    ],
    ids=["shape", "number", "type of a number", "activation", "one more attribute", "class", "not trainable"],
)  # fmt: skip
def test_modules_that_differ_do_not(other):
    f, traces = counted()
    f(built(), X)
    net = other()
    net(X)
    np.testing.assert_allclose(f(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert len(traces) == 2


def changed(net, name, value):
    setattr(net, name, value)
    return net


def tied(net, name):
    getattr(net.hidden, name).trainable = False
    return net


def test_weights_that_are_shared_inside_are_another_trace():
    f, traces = counted()
    a = hml.nn.Sequential([hml.nn.Dense(3), hml.nn.Dense(3)])
    one = hml.nn.Dense(3)
    b = hml.nn.Sequential([one, one])
    for net in (a, b):
        np.testing.assert_allclose(f(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert len(traces) == 2


def test_the_first_call_builds_and_runs_the_body_once():
    f, traces = counted()
    a, b = Net(), Net()
    first = f(a, X)
    np.testing.assert_allclose(first, a(X), rtol=1e-5, atol=1e-6)
    f(a, X)
    assert len(traces) == 1 and f.cache_info().hits == 1
    np.testing.assert_allclose(
        f(b, X), b(X), rtol=1e-5, atol=1e-6
    )  # it has to be built, so the body runs again
    f(a, X), f(b, X)
    assert len(traces) == 2 and f.cache_info().size == 1


def test_a_changed_attribute_is_another_trace_and_named():
    f, traces = counted()
    net = built()
    f(net, X)
    net.factor = 3.0
    np.testing.assert_allclose(f(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert len(traces) == 2
    assert "argument `net.factor` changed 1 time(s), last from 1.0 to 3.0" in f.explain_retraces()
    net.factor = 1.0
    f(net, X)
    assert len(traces) == 2
    net.hidden.activation = hml.tanh
    np.testing.assert_allclose(f(net, X), net(X), rtol=1e-5, atol=1e-6)
    assert "argument `net.hidden.activation` changed" in f.explain_retraces()


def test_what_tracing_itself_changes_is_no_reason_to_trace_again():
    class Counter(hml.nn.Module):
        calls = 0

        def call(self, x):
            self.calls += 1
            return x * 2

    f, traces = counted()
    net = Counter()
    for _ in range(3):
        f(net, X)
    assert len(traces) == 1 and net.calls == 1


def test_numbers_beside_a_module_still_become_scalars_of_one_trace():
    traces = []

    @hml.function
    def f(net, x, rate):
        traces.append(rate)
        return net(x) * rate

    for rate in (0.1, 0.2, 0.3, 0.4):
        net = Net()  # each one unbuilt
        np.testing.assert_allclose(f(net, X, rate), net(X) * rate, rtol=1e-5, atol=1e-6)
        for again in (0.5, 0.6):
            np.testing.assert_allclose(f(net, X, again), net(X) * again, rtol=1e-5, atol=1e-6)
    assert f.cache_info().size == 2  # the first number by value, then one for all


def test_in_nests_by_keyword_with_a_signature_and_as_concrete_functions():
    net = built()
    f = hml.function(lambda d, x: d["nets"][1](x))
    np.testing.assert_allclose(f(d={"nets": (0, net)}, x=X), net(X), rtol=1e-5, atol=1e-6)
    g = hml.function(lambda net, x: net(x), input_signature=[hml.TensorSpec((None, 3), hml.float32)])
    np.testing.assert_allclose(g(net, X), net(X), rtol=1e-5, atol=1e-6)
    h = hml.function(lambda net, x: net(x))
    concrete = h.get_concrete_function(net, X.spec)
    np.testing.assert_allclose(concrete(X), net(X), rtol=1e-5, atol=1e-6)
    fresh = Net()
    np.testing.assert_allclose(h.get_concrete_function(fresh, X.spec)(X), fresh(X), rtol=1e-5, atol=1e-6)


def test_gradients_and_assignments_go_to_the_module_that_was_passed():
    @hml.function
    def step(net, x):
        with hml.GradientTape() as tape:
            loss = hml.mean(net(x) ** 2)
        weights = net.trainable_variables
        for w, g in zip(weights, tape.gradient(loss, weights), strict=True):
            w.assign_sub(0.01 * g)
        return loss

    a, b = built(), built()
    kept = a.get_weights()
    losses = [float(step(b, X)) for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    for was, now in zip(kept, a.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    step(a, X)
    assert any((was != now).any() for was, now in zip(kept, a.get_weights(), strict=True))
    assert step.cache_info().traces == 1
    f = hml.function(lambda net, x: hml.sum(net(x)))
    with hml.GradientTape() as tape:
        y = f(b, X)
    got = tape.gradient(y, b.trainable_variables)
    with hml.GradientTape() as tape:
        y = hml.sum(b(X))
    for g, w in zip(got, tape.gradient(y, b.trainable_variables), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5)


def test_an_optimiser_keeps_its_slots_apart_for_two_modules():
    opt = hml.optim.Adam(0.1)

    @hml.function
    def step(net, x):
        opt.minimize(lambda: hml.mean(net(x) ** 2), net.trainable_variables)

    def train(net, opt):
        for _ in range(3):
            opt.minimize(lambda: hml.mean(net(X) ** 2), net.trainable_variables)

    a, b = built(), built()
    start = b.get_weights()
    step(a, X), step(a, X), step(a, X)
    step(b, X), step(b, X), step(b, X)
    alone = built()
    alone.set_weights(start)
    other = hml.optim.Adam(0.1)
    other.iterations.assign(3)
    train(alone, other)
    for got, want in zip(b.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_a_trace_keeps_no_module_alive():
    f, traces = counted()
    net = built()
    f(net, X)
    traces.clear()
    alive = weakref.ref(net)
    del net
    gc.collect()
    assert alive() is None
    f(built(), X)


class Trainer(hml.nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.rate = hml.nn.Dense(1), 0.5
        self.traces = 0

    @hml.function
    def step(self, x):
        self.traces += 1
        return self.net(x) * self.rate


def test_a_traced_method_is_one_function_an_instance_and_freed_with_it():
    a, b = Trainer(), Trainer()
    for _ in range(2):
        for t in (a, b):
            np.testing.assert_allclose(t.step(X), t.net(X) * 0.5, rtol=1e-5, atol=1e-6)
    assert a.traces == b.traces == 1 and a.net.kernel is not b.net.kernel
    alive = weakref.ref(a)
    del a, t
    gc.collect()
    assert alive() is None


OUTER = Net()


@pytest.mark.parametrize(
    ("make", "name", "change"),
    [
        (lambda: (hml.function(lambda x: OUTER(x)), OUTER), "OUTER.factor", lambda n: setattr(n, "factor", 5.0)),
        (lambda: (hml.function(lambda x: OUTER(x)), OUTER), "OUTER.drop.rate", lambda n: setattr(n.drop, "rate", 0.5)),
        (lambda: (lambda t: (t.step, t))(Trainer()), "self.rate", lambda t: setattr(t, "rate", 5.0)),
        (lambda: (lambda n: (hml.function(lambda x: n(x)), n))(Net()), "n.factor", lambda n: setattr(n, "factor", 5.0)),
    ],
    ids=["by closure", "of a layer", "in a method", "in a cell"],
)  # fmt: skip
def test_a_changed_attribute_that_the_trace_read_is_noticed_by_name(make, name, change):
    f, net = make()
    first = f(X)
    before = dict(vars(net)), dict(vars(getattr(net, "drop", net)))
    change(net)
    try:
        with pytest.warns(ChangedValueWarning) as seen:
            again = f(X)
        assert [str(w.message).split(" was ")[0] for w in seen] == [f"`{name}`"]
        np.testing.assert_array_equal(first, again)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            f(X)
    finally:
        vars(net).update(before[0])
        vars(getattr(net, "drop", net)).update(before[1])
