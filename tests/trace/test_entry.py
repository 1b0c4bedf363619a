"""The fast way of a call: which calls take it, and that those it must not take get their right results all the same."""

import gc
import sys
import threading
import weakref
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import DTypeError, SignatureError
from hybridml.kernels import driver
from hybridml.kernels.recognise import NO_ANSWER
from hybridml.trace import recent
from hybridml.trace.guard import Trace

Pair = namedtuple("Pair", "first second")
X, Y = hml.asarray([1.0, 2.0, 3.0]), hml.asarray([[1.0], [2.0]])


class Thing:
    factor = 2.0


@dataclass
class Record:
    x: object


THING = Thing()


def twice(x):
    return x * 2


def nest(n):
    return n["a"][0] + n["b"][1] * n["b"][0]["c"]


FAST = {
    "a tensor": (twice, (X,)),
    "an array": (twice, (np.arange(3.0),)),
    "no axes": (twice, (hml.asarray(2.0),)),
    "no elements": (twice, (hml.zeros((0, 3)),)),
    "a nest": (nest, ({"b": [{"c": X}, Y], "a": (X, None)},)),
    "a named tuple": (lambda p: p.first - p.second, (Pair(X, Y),)),
    "constants": (lambda x, a, b, c, d, e: x * a * b if c and d is None else x, (X, 2, 0.5, True, None, "text")),
    "an object": (lambda x, t: x * t.factor, (X, THING)),
    "a variable as argument": (lambda v: v * 2, (hml.Variable([1.0, 2.0]),)),
    "defaults": (lambda x, y=3.0, z=None: x * y, (X,)),
    "any number of arguments": (lambda *xs: xs[0] + xs[1], (X, Y)),
    "several results": (lambda x: {"twice": x * 2, "all": (x + 1, [x - 1, 5, None])}, (X,)),
    "many threads' work": (twice, (hml.ones((300, 1000)),)),
}  # fmt: skip


def values(result):
    return [np.asarray(x).tolist() if hasattr(x, "dtype") else x for x in hml.pytree.leaves(result)]


def forbid_python(monkeypatch):
    def refuse(*_):
        raise AssertionError("this call went through Python code")

    monkeypatch.setattr(Trace, "match", refuse)
    monkeypatch.setattr(hml.trace.function.Function, "_call_slowly", refuse)


@pytest.mark.parametrize("name", FAST)
def test_calls_that_take_it(name, monkeypatch):
    python, args = FAST[name]
    f = hml.function(python)
    f(*args), f(*args)
    forbid_python(monkeypatch)
    result = f(*args)
    assert values(result) == values(python(*args))
    assert type(result) is type(
        python(*hml.pytree.map(lambda x: hml.asarray(x) if isinstance(x, np.ndarray) else x, args))
    )


def test_by_name_as_well(monkeypatch):
    f = hml.function(lambda x, scale, shift=0.0: x * scale + shift)
    f(X, 2.0, 1.0), f(X, 2.0, 1.0)
    forbid_python(monkeypatch)
    for result in (f(X, scale=2.0, shift=1.0), f(shift=1.0, scale=2.0, x=X), f(X, 2.0, shift=1.0)):
        assert result.tolist() == [3, 5, 7]


def test_calls_by_name_have_a_way_of_their_own(monkeypatch):
    """It answers calls with as many arguments by position and the same ones by name, in any order; others look for theirs."""
    f = hml.function(lambda x, scale=2.0, shift=0.0, last=None: x * scale + shift)
    f(X), f(X)
    f(X, shift=1.0), f(X, shift=1.0)
    last = f._recent
    way = last.named
    assert way((X,), {"shift": 1.0}).tolist() == [3, 5, 7]
    for args, kwargs in (
        ((X,), {"scale": 1.0}),  # as many, other names
        ((X,), {"shift": 1.0, "last": None}),
        ((), {"x": X, "shift": 1.0}),
        ((X, 2.0), {"shift": 1.0}),
        ((X,), {}),
    ):
        assert way(args, kwargs) is NO_ANSWER
    assert f(X, scale=1.0).tolist() == [1, 2, 3]
    assert f(X, last=None, shift=1.0).tolist() == f(X, shift=1.0, last=None).tolist() == [3, 5, 7]
    assert f(shift=1.0, x=X).tolist() == [3, 5, 7]
    for wrong in ({"x": X}, {"other": 1}, {"scale": 1.0, "other": 1}):
        with pytest.raises(SignatureError):
            f(X, **wrong)
    asked = []
    monkeypatch.setattr(last, "named", lambda args, kwargs: asked.append(kwargs) or NO_ANSWER)
    assert f(X, shift=1.0).tolist() == [3, 5, 7]
    assert asked == [{"shift": 1.0}]


def test_a_few_traces_are_used_in_turns(monkeypatch):
    """Other shapes, another flag, by position and by name: none of these calls builds a key."""
    f = hml.function(lambda x, training=False: x * 2 if training else x + 1, reduce_retracing=False)
    calls = [((X,), {}), ((Y,), {}), ((X, True), {}), ((Y,), {"training": True})]
    expected = [[2, 3, 4], [[2], [3]], [2, 4, 6], [[2], [4]]]
    for _ in range(3):
        for args, kwargs in calls:
            f(*args, **kwargs)
    forbid_python(monkeypatch)
    for k in (0, 1, 2, 3, 1, 0, 3, 3, 2, 0):
        args, kwargs = calls[k]
        assert f(*args, **kwargs).tolist() == expected[k]
    assert f.cache_info().traces == 4
    with pytest.raises(AssertionError, match="Python code"):
        f(hml.ones(9))


@pytest.mark.filterwarnings("ignore::hybridml.errors.RetraceWarning")
def test_a_function_keeps_few_traces_at_hand_and_one_for_certain_variables():
    f = hml.function(lambda x: x * 2)
    for n in range(2, 9):
        f(hml.zeros((n,) * n))
        f(hml.zeros((n,) * n))
    assert len(f._recent._entrances) == recent.FEW
    g = hml.function(lambda v: v * 2)
    kept = [hml.Variable([1.0, float(k)]) for k in range(3)]
    refs = [weakref.ref(v) for v in kept]
    for v in (*kept, *kept):
        g(v)
    del kept, v
    gc.collect()
    assert sum(r() is not None for r in refs) <= 2, "that of the trace itself and that of the last call"


def test_native_code_is_asked_once():
    """What it does not recognise goes to Python code, whether or not the way was made for calls without their defaults."""
    for f, args, others in (
        (hml.function(twice), (X,), (np.arange(6.0, dtype="f4")[::2],)),
        (hml.function(lambda x, k=2.0: x * k), (X,), (np.arange(6.0, dtype="f4")[::2],)),
    ):
        expected = f(*args).tolist(), (np.asarray(others[0]) * 2).tolist()
        f(*args), f(*args)
        asked, last = [], f._recent
        native, way = last.trace.fast, last.fast
        last.trace.fast = lambda given, native=native, asked=asked: asked.append("trace") or native(given)
        last._entrances[0].fast = last.fast = lambda x, way=way, asked=asked: asked.append("way") or way(x)
        assert f(*others).tolist() == expected[1] and asked == ["way"]
        assert f(*args).tolist() == expected[0] and asked == ["way", "way"]
    f = hml.function(lambda x, k=2.0: x * k)
    for _ in range(3):
        f(X, k=2.0)
    asked, last = [], f._recent
    native, way = last.trace.fast, last.named
    last.trace.fast = lambda given: asked.append("trace") or native(given)
    last.named = lambda args, kwargs: asked.append("way") or way(args, kwargs)
    assert f(np.arange(6.0, dtype="f4")[::2], k=2.0).tolist() == [0, 4, 8] and asked == ["way"]


def test_numbers_that_vary(monkeypatch):
    f = hml.function(lambda x, rate, step: x * rate + step)
    for i in range(3):
        f(X, 0.5 + i, i)
    forbid_python(monkeypatch)
    assert f(X, 0.25, 10).tolist() == [10.25, 10.5, 10.75]
    monkeypatch.undo()
    assert f(X, True, 10).tolist() == [11, 12, 13]
    with pytest.raises(DTypeError, match="int64"):
        f(X, 0.25, 2**70)


def test_a_step_that_trains(monkeypatch):
    w, n = hml.Variable([1.0, 2.0]), hml.Variable(0)

    @hml.function
    def step(x):
        w.assign_sub(x * 0.5)
        n.assign_add(1)
        return n * 1

    step(hml.asarray([1.0, 1.0])), step(hml.asarray([1.0, 1.0]))
    forbid_python(monkeypatch)
    assert int(step(hml.asarray([1.0, 1.0]))) == 3
    assert w.numpy().tolist() == [-0.5, 0.5]


class Net(hml.nn.Module):
    def __init__(self):
        self.layers = [hml.nn.Dense(3), {"last": hml.nn.Dense(1)}]
        self.scale, self.training = 1.0, True

    def call(self, x):
        x = self.layers[1]["last"](self.layers[0](x)) * self.scale
        return x if self.training else -x


def test_a_model_and_its_optimiser(monkeypatch):
    net, optimizer = Net(), hml.optim.Adam(0.001)

    @hml.function
    def step(net, optimizer, x):
        with hml.GradientTape() as tape:
            loss = hml.mean(hml.square(net(x)))
        variables = net.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step(net, optimizer, Y)) for _ in range(3)]
    with monkeypatch.context() as m:
        forbid_python(m)
        losses += [float(step(net, optimizer, Y)) for _ in range(3)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_whatever_changes_in_a_model_is_noticed():
    net = Net()
    f = hml.function(lambda net, x: net(x))

    def agrees():
        for _ in range(3):
            np.testing.assert_allclose(f(net, Y).numpy(), net(Y).numpy(), rtol=1e-6)

    agrees()
    net.scale = 3.0
    agrees()
    net.training = False
    agrees()
    net.layers[0].kernel.assign(net.layers[0].kernel * 2.0)
    agrees()
    net.layers[1]["last"].kernel = hml.Variable(net.layers[1]["last"].kernel * -1.0)
    agrees()
    net.layers[1]["last"] = hml.nn.Dense(2)
    agrees()
    net.layers.reverse()
    net.layers[0], net.layers[1] = net.layers[1], net.layers[0]
    agrees()
    other = Net()
    np.testing.assert_allclose(f(other, Y).numpy(), other(Y).numpy(), rtol=1e-6)
    agrees()


@pytest.mark.parametrize(
    "other",
    [
        X[:2], hml.asarray([1, 2, 3]), X.astype("float64"), hml.reshape(hml.asarray(np.arange(6.0, dtype="f4")), (2, 3)),
        np.arange(6.0, dtype="f4")[::2], np.float32(3), np.ma.masked_array(np.arange(3.0, dtype="f4")), 4.0,
    ],
    ids=lambda x: f"{type(x).__name__}{getattr(x, 'shape', '')}",
)  # fmt: skip
def test_another_kind_of_argument(other):
    f = hml.function(twice)
    f(X), f(X)
    assert np.asarray(f(other)).tolist() == (np.asarray(other) * 2).tolist()
    assert f(X).tolist() == [2, 4, 6]


@pytest.mark.filterwarnings("ignore::hybridml.errors.RetraceWarning")
def test_another_form_of_a_nest():
    f = hml.function(lambda n: sum(hml.pytree.leaves(n), start=0.0))
    one = {"a": [X, X], "b": (X,)}
    f(one), f(one)
    for other in (
        {"b": (X,), "a": [X, X]},
        {"a": [X, X, X], "b": (X,)},
        {"a": (X, X), "b": [X]},
        {"a": [X, X], "c": (X,)},
        [X],
        X,
    ):
        expected = np.asarray(X) * len(hml.pytree.leaves(other))
        for _ in range(3):
            assert f(other).tolist() == expected.tolist()
            assert f(one).tolist() == [3, 6, 9]


def test_keys_that_are_equal_and_not_the_same():
    f = hml.function(lambda d: d[(1, "x")] * 2)
    for _ in range(3):
        assert f({(1, "".join(["x"])): X}).tolist() == [2, 4, 6]


@pytest.mark.filterwarnings("ignore::hybridml.errors.RetraceWarning")
def test_other_constants():
    f = hml.function(lambda x, k: x * len(k) if isinstance(k, str) else x * (k or 1), reduce_retracing=False)
    for _ in range(2):
        for k in ("ab", "".join("abc"), 2, 2.0, -0.0, 0.0, True, None, 2**40):
            for _ in range(2):
                expected = np.asarray(X) * (len(k) if isinstance(k, str) else k or 1)
                assert f(X, k).tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore::hybridml.errors.RetraceWarning")
def test_an_object_in_the_place_of_a_dead_one():
    f = hml.function(lambda x, t: x * t.factor)
    for factor in range(1, 50):
        thing = Thing()
        thing.factor = float(factor)
        for _ in range(3):
            assert f(X, thing).tolist() == [factor, 2 * factor, 3 * factor]
        del thing


def test_a_dataclass_goes_through_python():
    f = hml.function(lambda r: r.x * 2)
    for _ in range(3):
        assert f(Record(X)).tolist() == [2, 4, 6]


def test_values_read_from_a_variable_stay_as_they_were():
    v = hml.Variable([1.0, 1.0])
    f = hml.function(lambda x: [v.assign_add(x)])
    held = []
    for _ in range(5):
        held.append(v.value())
        f(hml.ones(2))
    assert [h.tolist() for h in held] == [[n, n] for n in range(1, 6)]
    f(v.value())
    assert v.numpy().tolist() == [12, 12]


def test_other_variables_in_the_same_place():
    def add(v, x):
        v.assign_add(x)
        return v * 1

    f = hml.function(add)
    a, b = hml.Variable([1.0]), hml.Variable([10.0])
    for _ in range(3):
        f(a, hml.ones(1)), f(a, hml.ones(1)), f(b, hml.ones(1))
    assert (a.numpy().tolist(), b.numpy().tolist()) == ([7], [13])
    assert f.cache_info().traces == 1


def test_tapes_and_other_traces_are_not_passed_by():
    f = hml.function(twice)
    f(X), f(X)
    with hml.GradientTape() as tape:
        tape.watch(X)
        y = f(X)
    assert tape.gradient(y, X).tolist() == [2, 2, 2]
    assert hml.function(lambda x: f(x) + 1)(X).tolist() == [3, 5, 7]
    hml.run_functions_eagerly(True)
    try:
        assert f(X).tolist() == [2, 4, 6]
    finally:
        hml.run_functions_eagerly(False)


def test_checks_and_programs_with_python_in_them():
    seen = []
    f = hml.function(lambda x: hml.py_function(lambda t: seen.append(1) or t * 2, [x], x.spec))
    checked = hml.function(twice, check=True)
    for _ in range(4):
        assert f(X).tolist() == checked(X).tolist() == [2, 4, 6]
    assert len(seen) == 4


def test_without_it_results_are_the_same(monkeypatch):
    monkeypatch.setattr(hml.trace.entry, "forms", lambda: None)
    monkeypatch.setattr(driver.objects, "known", lambda: False)
    for python, args in FAST.values():
        f = hml.function(python)
        for _ in range(3):
            result = f(*args)
        assert values(result) == values(python(*args))


@pytest.mark.parametrize("size", [10, 40_000])
def test_eight_threads_whose_arguments_change_under_them(size):
    """With and without the interpreter lock during the run, which the size decides."""
    state = hml.Variable(hml.zeros(size))

    @hml.function
    def f(xs, rate):
        state.assign(state * 0.5 + xs[0] * rate)
        return hml.exp(xs[0] * 0.0) * xs[0] + rate

    shared, errors, barrier = [hml.zeros(size)], [], threading.Barrier(8)
    for rate in (0.5, 1.5, 2.5):
        f(shared, rate)

    def work(number):
        barrier.wait()
        try:
            for step in range(60):
                mine = [hml.full(size, float(number))]
                rate = number + step / 64
                assert (f(mine, rate).numpy() == np.float32(number + rate)).all()
                shared[0] = hml.full(size, float(step))
                f(shared, 0.0)
                if step % 7 == number % 7:
                    state.assign(hml.full(size, 1.0))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(120)
        assert not t.is_alive(), "a thread hangs"
    assert not errors and np.isfinite(state.numpy()).all()


def test_nothing_is_held_after_a_call():
    f = hml.function(lambda n: n["x"][0] * 2)
    x = hml.ones(4)
    f({"x": [x]}), f({"x": [x]})
    gc.collect()
    before = sys.getrefcount(x), sys.getrefcount(x._array)
    for _ in range(1000):
        f({"x": [x]})
    assert (sys.getrefcount(x), sys.getrefcount(x._array)) == before
