"""Rows of the table in test_semantics.py that no other file is about: one check each."""

import gc
import warnings
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import GradientWarning, IndexOutOfRangeError, RetraceWarning, TraceError
from hybridml.trace import traces as traces_of_functions


def vector(*numbers: float) -> hml.Tensor:
    return hml.asarray(np.array(numbers, np.float32))


def test_reduce_retracing_can_be_turned_off() -> None:
    f = hml.function(lambda x, k: x * k, reduce_retracing=False)
    assert [float(f(vector(1.0), k)[0]) for k in (1.0, 2.0, 3.0, 2.0)] == [1, 2, 3, 2]
    assert f.cache_info().traces == 3


def test_a_dropped_trace_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_of_functions, "MAX_TRACES", 2)
    f = hml.function(lambda x, mode: x + 1)
    first = weakref.ref(f.get_concrete_function(vector(1.0), "first"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RetraceWarning)
        for mode in "abc":
            f(vector(1.0), mode)
    gc.collect()
    assert first() is None and f.cache_info().size == 2


def test_a_variable_created_on_the_first_call_only() -> None:
    class Model:
        def __init__(self) -> None:
            self.v: hml.Variable | None = None
            self.runs = 0

        @hml.function
        def call(self, x: hml.Tensor) -> hml.Tensor:
            self.runs += 1
            if self.v is None:
                self.v = hml.Variable(2.0)
            return x * self.v.assign_add(1.0)

    model = Model()
    assert [float(model.call(vector(1.0))[0]) for _ in range(3)] == [3, 4, 5]
    assert model.runs == 1


def test_an_initial_value_that_cannot_be_names_line_and_cure() -> None:
    f = hml.function(lambda x: hml.Variable(x) + 1)
    with pytest.raises(TraceError, match="give it a constant and assign inside the function") as e:
        f(vector(1.0))
    assert f"{__file__}:{f.python_function.__code__.co_firstlineno}" in str(e.value)


def test_numpys_random_numbers_are_frozen() -> None:
    f = hml.function(lambda: hml.asarray(np.random.rand(4)))
    assert f().tolist() == f().tolist()


@pytest.mark.parametrize("draw", ["uniform", "normal", "randint"])
def test_one_seed_gives_the_same_numbers_eager_and_traced(draw: str) -> None:
    bounds = (0, 1000) if draw == "randint" else ()

    def numbers() -> hml.Tensor:
        return getattr(hml.random, draw)(*bounds, (64,))

    def three(f: Callable[[], hml.Tensor]) -> np.ndarray:
        hml.random.seed(11)
        return np.stack([f().numpy() for _ in range(3)])

    eager, traced = three(numbers), three(hml.function(numbers))
    assert not np.array_equal(eager[0], eager[1])
    if draw == "normal":  # log and cos of the kernel may differ from NumPy's in the last bit
        np.testing.assert_allclose(traced, eager, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(traced, eager)


def test_an_index_out_of_range_names_the_line() -> None:
    f = hml.function(lambda x, i: hml.take(x, i))
    assert float(f(vector(1.0, 2.0), hml.asarray(1))) == 2
    with pytest.raises(IndexOutOfRangeError, match="index 7 is out of range for axis 0 of size 2") as e:
        f(vector(1.0, 2.0), hml.asarray(7)).item()
    assert f"{__file__}:{f.python_function.__code__.co_firstlineno}" in str(e.value)


def through_assign(x: hml.Variable) -> hml.Tensor:
    other = hml.Variable(0.0)
    other.assign(x * 2)
    return other * 1


NONE = {
    "an unwatched constant": (
        hml.asarray(1.0),
        lambda x: x * x,
        r"is None because the tape did not watch it",
    ),
    "integers": (hml.Variable(1, name="count"), lambda v: v * 2, r'"count".* its dtype is int64'),
    "an assignment": (hml.Variable(1.0, name="w"), through_assign, r'"w".* does not depend on it'),
    "NumPy": (
        hml.Variable(1.0, name="w"),
        lambda v: hml.asarray(np.sin(v.numpy())),
        r'"w".* does not depend on it',
    ),
}


@pytest.mark.parametrize("case", NONE)
def test_a_gradient_that_is_none_says_why(case: str) -> None:
    source, f, message = NONE[case]
    with hml.GradientTape() as tape:
        target = f(source)
    with pytest.warns(GradientWarning, match=message):
        assert tape.gradient(target, source) is None


def test_a_line_says_once_why_its_gradient_is_none() -> None:
    x = hml.asarray(1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            with hml.GradientTape() as tape:
                y = x * x
            assert tape.gradient(y, x) is None
    assert len(caught) == 1


def cubes(x: hml.Tensor) -> hml.Tensor:
    return hml.sum(x * x * x)


TRANSFORMS = {
    "jvp": (lambda f, x: hml.jvp(f, (x,), (x,))[1], 24 + 81),
    "forward over reverse": (lambda f, x: hml.jvp(hml.grad(f), (x,), (x,))[1], [24, 54]),
    "jacobian of the gradient": (lambda f, x: hml.jacobian(hml.grad(f))(x), [[12, 0], [0, 18]]),
    "hessian": (lambda f, x: hml.hessian(f)(x), [[12, 0], [0, 18]]),
    "third order": (
        lambda f, x: hml.grad(lambda x: hml.sum(hml.grad(lambda x: hml.sum(hml.grad(f)(x)))(x)))(x),
        [6, 6],
    ),
}


@pytest.mark.parametrize("case", TRANSFORMS)
@pytest.mark.parametrize("how", ["eager", "traced", "around a traced function"])
def test_transforms_eager_traced_and_around(case: str, how: str) -> None:
    transform, expected = TRANSFORMS[case]
    inner = hml.function(cubes) if how == "around a traced function" else cubes
    run = hml.function(lambda x: transform(inner, x)) if how == "traced" else lambda x: transform(inner, x)
    assert run(vector(2.0, 3.0)).tolist() == expected
