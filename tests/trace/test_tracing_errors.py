"""Errors while tracing: values that do not exist yet, tensors that escaped, wrong shapes, and the stacks left clean."""

import warnings

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager.state import state
from hybridml.errors import (
    GradientWarning,
    HybridMLError,
    RetraceWarning,
    ShapeError,
    SignatureError,
    TraceError,
    TracerError,
)


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


x3, x4 = vector(1, 2, 3), vector(1, 2, 3, 4)


NO_VALUE = {
    "float": (lambda t: float(t), "a Python float"),
    "int": (lambda t: int(t), "a Python int"),
    "bool": (lambda t: 1 if t > 0 else 2, "a Python truth value"),
    "numpy": (lambda t: t.numpy(), "the NumPy values"),
    "np.sin": (lambda t: np.asarray(t), "the NumPy values"),
    "item": (lambda t: t.item(), "a Python number"),
    "tolist": (lambda t: t.tolist(), "Python numbers"),
    "format": (lambda t: f"{t:.2f}", "a Python number"),
    "range": (lambda t: range(t), "a Python int"),
}


@pytest.mark.parametrize("case", NO_VALUE)
def test_values_asked_of_a_tracer(case):
    use, what = NO_VALUE[case]

    @hml.function(autograph=False)
    def asking(t):
        return use(t)

    with pytest.raises(TracerError) as e:
        asking(hml.asarray(1.0))
    assert what in str(e.value) and "asking" in str(e.value) and __file__ in str(e.value)


def test_a_shape_error_while_tracing_carries_the_users_line():
    @hml.function
    def f(x, y):
        return x + y  # the line

    with pytest.raises(ShapeError) as e:
        f(x3, x4)
    line = f.python_function.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}" in str(e.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[9],
        lambda x: x.astype("float3"),
        lambda x: hml.matmul(x, x4),
        lambda x: hml.take(x, hml.asarray([0, 9])),
        lambda x: hml.take(x, -4),
        lambda x: hml.take_along_axis(x, [3]),
        lambda x: hml.scatter_add(x, np.array([3]), [1.0]),
        lambda x: hml.scatter_add_along_axis(x, np.array([3]), [1.0]),
        lambda x: x[hml.asarray([0, 3])],
    ],
    ids=[
        "index",
        "dtype",
        "shape",
        "take",
        "take, negative",
        "take_along_axis",
        "scatter_add",
        "scatter_add_along_axis",
        "x[tensor]",
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["plainly", "in a branch"])
def test_static_errors_are_raised_where_nobody_uses_the_result_with_the_users_line(wrong, inside):
    @hml.function
    def f(x):
        if inside:
            if x[0] > 0:
                wrong(x)
        else:
            wrong(x)
        return x

    with pytest.raises(HybridMLError) as e:
        f(x3)
    assert str(e.value).count(f"{__file__}:{wrong.__code__.co_firstlineno} ") == 1, str(e.value)


def test_an_escaped_tracer_says_where_it_was_made_and_where_it_is_used():
    kept = []

    @hml.function
    def leaky(x):
        kept.append(x * 2)
        return x

    leaky(x3)
    made = leaky.python_function.__code__.co_firstlineno + 2
    for use in (
        lambda: kept[0] + 1,
        lambda: kept[0].numpy(),
        lambda: hml.function(lambda x: x + kept[0])(x3),
    ):
        with pytest.raises(TracerError) as e:
            use()
        assert (
            "leaky" in str(e.value) and f"{__file__}:{made}" in str(e.value) and "return it" in str(e.value)
        )


class Kept:
    pass


@pytest.mark.parametrize("way", ["kept[0]", "kept['a']", "kept.a", "kept.a[1]"])
def test_an_escaped_tracer_names_what_holds_it(way):
    kept = {"kept[0]": [None], "kept['a']": {}}.get(way, Kept())

    @hml.function
    def leaky(x):
        if way == "kept[0]":
            kept[0] = x * 2
        elif way == "kept['a']":
            kept["a"] = x * 2
        else:
            kept.a = x * 2 if way == "kept.a" else [None, x * 2]
        return x

    leaky(x3)
    escaped = eval(way)
    with pytest.raises(TracerError) as e:
        escaped.numpy()
    assert f"It was kept in `{way}`;" in str(e.value)
    kept = None
    with pytest.raises(TracerError, match="It was kept in a list, an attribute or a global"):
        escaped.numpy()


def test_an_exception_while_tracing_leaves_no_trace_and_no_tape_behind():
    fail = [True]

    @hml.function
    def f(x):
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = x * 2
            if fail[0]:
                raise KeyError("user")
        return tape.gradient(y, x)

    for _ in range(2):
        with pytest.raises(KeyError, match="user"):
            f(x3)
        assert state.now.traces == [] and state.now.tapes == []
    with hml.GradientTape() as tape, pytest.raises(KeyError):
        f(x3)
    assert state.now.tapes == [] and tape is not None
    fail[0] = False
    assert f(x3).tolist() == [2, 2, 2]
    assert (x3 + 1).tolist() == [2, 3, 4]


def test_a_concrete_function_refuses_other_shapes():
    f = hml.function(lambda x: x + 1)
    concrete = f.get_concrete_function(hml.TensorSpec((3,), hml.float32))
    assert concrete(x3).tolist() == [2, 3, 4]
    assert f(x3).tolist() == [2, 3, 4] and f.cache_info().traces == 1
    with pytest.raises(SignatureError, match=r"argument `x`: expected float32\[3\], got float32\[4\]"):
        concrete(x4)
    with pytest.raises(SignatureError, match="takes 1 tensors"):
        concrete(x3, x3)


def test_warnings_point_at_the_users_line():
    @hml.function
    def f(x, w):
        with hml.GradientTape() as tape:
            y = x * x
        return tape.gradient(y, w)

    other = hml.function(lambda x: x, reduce_retracing=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        f(x3, x3)
        for n in range(1, 7):
            other(hml.zeros((n,)))
    assert {w.category for w in caught} == {GradientWarning, RetraceWarning}
    assert {w.filename for w in caught} == {__file__}


def generator(x):
    yield x


async def coroutine(x):
    return x


LATE = {
    "generator": generator,
    "coroutine": coroutine,
    "map": lambda x: map(abs, [x]),
    "zip": lambda x: {"pairs": zip([x], [x], strict=True)},
}


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", LATE)
def test_a_result_whose_code_runs_later_is_refused(kind):
    with pytest.raises(TraceError, match=rf"`.*` returns a {kind}.*\n?.*return a list"):
        hml.function(LATE[kind])(hml.asarray([1.0]))
