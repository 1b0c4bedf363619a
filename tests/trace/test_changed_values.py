"""A changed attribute, closure or global value that the trace read is noticed, and warned about once by name."""

import functools
import gc
import types
import warnings
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import ChangedValueWarning

X = hml.asarray(np.array([1.0, 2.0], np.float32))
global_scale = 2
settings = types.SimpleNamespace(rate=0.5, deep=types.SimpleNamespace(name="a"))
module = types.ModuleType("user_module")
module.rate = 1.0


class Layer:
    width = 3

    def __init__(self, factor):
        self.factor = factor
        self.calls = 0

    @hml.function
    def method(self, x):
        self.calls += 1
        return x * self.factor + self.width

    def helper(self, x):
        return x * self.factor

    def __call__(self, x):
        return self.helper(x)


def helper(x):
    return x * global_scale


keep = []


def cases():
    scale = 2
    layer, wide, other, held = Layer(2.0), Layer(2.0), Layer(2.0), Layer(2.0)
    keep.extend([layer, wide])  # a method does not

    def set_scale(value):
        nonlocal scale
        scale = value

    def setter(x, name):
        return functools.partial(setattr, x, name)

    f, set_global = hml.function, functools.partial(globals().__setitem__, "global_scale")
    yield "closure", f(lambda x: x * scale), (), "scale", set_scale, 3
    yield "global", f(lambda x: x * global_scale), (), "global_scale", set_global, 3
    yield "global of a helper", f(lambda x: helper(x) + 1), (), "global_scale", set_global, 4
    yield "attribute", f(lambda x: x * settings.rate), (), "settings.rate", setter(settings, "rate"), 0.25
    deep = f(lambda x: x if settings.deep.name == "a" else -x)
    yield "attribute of an attribute", deep, (), "settings.deep.name", setter(settings.deep, "name"), "b"
    yield "module", f(lambda x: x * module.rate), (), "module.rate", setter(module, "rate"), 2.0
    yield "method", layer.method, (), "self.factor", setter(layer, "factor"), 3.0
    yield "class attribute", wide.method, (), "self.width", setter(Layer, "width"), 4
    yield (
        "object argument",
        f(lambda x, o: o(x) * o.factor),
        (other,),
        "o.factor",
        setter(other, "factor"),
        5.0,
    )
    yield "callable object", f(lambda x: held(x)), (), "self.factor", setter(held, "factor"), 5.0
    yield "nested function", f(lambda x: (lambda y: y * global_scale)(x)), (), "global_scale", set_global, 7


@pytest.mark.parametrize(
    ("f", "args", "name", "change", "value"), [pytest.param(*c[1:], id=c[0]) for c in cases()]
)
def test_noticed_and_warned_about_once_by_name(f, args, name, change, value):
    first = f(X, *args)
    f(X, *args)
    change(value)
    with pytest.warns(ChangedValueWarning) as seen:
        again = f(X, *args)
    (warning,) = seen
    message = str(warning.message)
    assert message.startswith(f"`{name}` was ") and f"is {value!r} now" in message and __file__ in message
    assert "Pass it as an argument" in message
    np.testing.assert_array_equal(again, first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            f(X, *args)


@pytest.mark.parametrize("calls", [1, 40, 333])
def test_noticed_after_any_number_of_calls(calls):
    box = types.SimpleNamespace(k=1)
    f = hml.function(lambda x: x * box.k)
    for _ in range(calls):
        f(X)
    box.k = 2
    with pytest.warns(ChangedValueWarning, match=r"`box.k` was 1 .* is 2 now"):
        for _ in range(40):
            f(X)


def test_a_new_trace_reads_the_new_value_without_a_word():
    box = types.SimpleNamespace(k=1)
    f = hml.function(lambda x: x * box.k)
    f(X)
    box.k = 2
    np.testing.assert_array_equal(f(hml.ones((3,))), [2, 2, 2])
    f(hml.ones((3,)))


def test_what_the_function_assigns_itself_is_its_own_business():
    count = 0

    @hml.function
    def f(x):
        nonlocal count
        count += 1
        settings.seen = count
        return x * 1

    settings.seen = 0
    for n in (2, 3, 2, 4, 2):
        f(hml.ones((n,)))
    assert count == 2


def test_equal_values_nan_and_values_that_went_away():
    box = types.SimpleNamespace(a=float("nan"), b=1000, c=(1, "x", None), d=2)
    f = hml.function(lambda x: x * box.a + box.b + len(box.c) + box.d)
    f(X)
    box.a, box.b, box.c = float("nan"), int("1000"), (1, "x", None)
    del box.d
    f(X)
    f(X)


def test_looking_keeps_no_object_alive_and_runs_no_property():
    class Model:
        ran = 0

        @property
        def rate(self):
            Model.ran += 1
            return 0.5

        @hml.function
        def step(self, x):
            return x * self.rate

    m = Model()
    for _ in range(3):
        m.step(X)
    assert Model.ran == 1
    ref = weakref.ref(m)
    del m
    gc.collect()
    assert ref() is None
