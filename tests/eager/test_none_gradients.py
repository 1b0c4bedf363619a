"""A gradient that is None is explained once, by name and cause."""

import warnings

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import GradientWarning


def ask(build, sources, **options):
    """(gradients, warnings) of build(*sources) under a tape that watches them."""
    with hml.GradientTape() as tape:
        tape.watch([s for s in sources if isinstance(s, hml.Tensor)])
        y = build(*sources)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = tape.gradient(y, sources, **options)
    return found, [str(w.message) for w in caught]


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


def test_through_assign():
    w, v = hml.Variable([1.0, 2.0], name="w"), hml.Variable([0.0, 0.0], name="v")

    def build(w):
        v.assign(w * 3)
        return (v * 2).sum()

    found, (message,) = ask(build, [w])
    assert found == [None]
    assert (
        'gradient of Variable("w"' in message
        and 'was assigned to Variable("v"' in message
        and __file__ in message
    )


def test_gradient_through_assign_in_a_traced_function():
    w, v = hml.Variable([1.0, 2.0], name="w"), hml.Variable([0.0, 0.0], name="v")

    @hml.function
    def step():
        with hml.GradientTape() as tape:
            v.assign(w * 3)
            y = (v * 2).sum()
        g = tape.gradient(y, [w, v])
        assert g[0] is None
        return g[1]

    with pytest.warns(GradientWarning, match='assigned to Variable."v"'):
        assert step().tolist() == [2, 2]


@pytest.mark.parametrize(
    ("leave", "how"),
    [
        (lambda x: hml.asarray(np.sin(x.numpy())), "handed to NumPy"),
        (lambda x: hml.asarray(np.asarray(x) * 2), "handed to NumPy"),
        (lambda x: hml.ones((2,)) * float(x.sum()), "read as a Python number"),
        (lambda x: hml.asarray(x.tolist()), "read as Python numbers"),
        (lambda x: hml.asarray([x[0], x[1]]), "handed to NumPy"),
    ],
    ids=["numpy", "asarray", "float", "tolist", "a list of tensors"],
)
def test_through_numpy_and_python(leave, how):
    x = vector(1, 2)
    line = leave.__code__.co_firstlineno
    (found,), messages = ask(lambda x: leave(x * 1).sum(), [x])
    assert found is None
    assert f"What was computed from it was {how} at {__file__}:{line}" in messages[0]


def test_names_of_sources():
    a, b, c = vector(1), vector(2, 2), hml.asarray([1, 2])
    _, messages = ask(lambda a, b, c: a * 2, [a, b, c])
    assert len(messages) == 2
    assert "source 1, a tensor float32[2], is None because the target does not depend on it" in messages[0]
    assert "source 2, a tensor int64[2], is None because its dtype is int64" in messages[1]


def test_once_for_each_cause_and_line():
    idle, w = hml.Variable(1.0, name="idle"), hml.Variable(2.0, name="w")
    messages = []
    for _ in range(5):
        messages += ask(lambda *_: w * 2, [idle, w])[1]
    assert len(messages) == 1 and "idle" in messages[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            with hml.GradientTape() as tape:
                y = w * 2
            tape.gradient(y, [idle, w])
    assert len(caught) == 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with hml.GradientTape() as tape:
            y = w * 2
        tape.gradient(y, [idle, w])  # another line asks
    assert len(caught) == 1


def test_zeros_and_gradients_that_are_there_need_no_words():
    x, z = vector(1, 2), vector(1, 2)

    def build(x, z):
        float(x.sum())
        z.numpy()
        return (x * x).sum()

    found, messages = ask(build, [x, z], unconnected_gradients="zero")
    assert [g.tolist() for g in found] == [[2, 4], [0, 0]] and not messages
