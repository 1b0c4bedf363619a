"""Effects inside functions: at each call, in program order, never dropped, and seeing variables as they are at that point."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import CheckError, DTypeError, NonFiniteError, ShapeError, TraceError

F32 = hml.float32


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


def test_print_each_call_in_program_order(capsys):
    @hml.function
    def f(x):
        hml.print("first", x)
        y = hml.tanh(x) * 2
        hml.print("second", {"y": y, "k": 3}, sep="; ", end="!\n")
        hml.print("third")
        return y

    f(vector(0, 1))
    f(vector(1, 0))
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "first [0. 1.]", "second; {'k': 3, 'y': [0.        1.5231884]}!", "third",
        "first [1. 0.]", "second; {'k': 3, 'y': [1.5231884 0.       ]}!", "third",
    ]  # fmt: skip


def test_print_eagerly_at_once(capsys):
    hml.print("x", vector(1, 2), hml.Variable(3.0), None, [1, vector(4)], sep=",")
    assert capsys.readouterr().out == "x,[1. 2.],3.0,None,[1, [4.]]\n"


def test_read_write_read_gives_old_new(capsys):
    v = hml.Variable(vector(1, 2), name="v")

    @hml.function
    def f():
        hml.print(v)
        v.assign_add(vector(10, 10))
        hml.print(v)
        v.assign(v * 2)
        hml.print(v)

    f()
    f()
    assert capsys.readouterr().out.splitlines() == [
        "[1. 2.]",
        "[11. 12.]",
        "[22. 24.]",
        "[22. 24.]",
        "[32. 34.]",
        "[64. 68.]",
    ]
    np.testing.assert_array_equal(v, [64, 68])


def test_an_effect_whose_result_nobody_reads_still_happens():
    seen = []

    @hml.function
    def f(x):
        hml.py_function(lambda a: seen.append(a.tolist()) or a, [x], hml.TensorSpec((2,), F32))
        return x + 1

    f(vector(1, 2))
    f(vector(3, 4))
    assert seen == [[1, 2], [3, 4]]


def test_effects_do_not_pass_each_other_whatever_they_wait_for():
    """The first waits for a long chain, the second for nothing: they stay as they were written."""
    seen = []

    def note(name):
        return lambda a: seen.append(name) or a

    @hml.function
    def g(x):
        y = x
        for _ in range(5):
            y = hml.exp(y - y.max()).sum() + y
        y = hml.py_function(note("slow"), [y], hml.TensorSpec((8,), F32))
        hml.py_function(note("fast"), [x], hml.TensorSpec((8,), F32))
        hml.py_function(lambda: seen.append("none"), [], ())
        hml.py_function(note("last"), [y * 2], hml.TensorSpec((8,), F32))
        return y

    for _ in range(3):
        g(hml.ones((8,)))
    assert seen == ["slow", "fast", "none", "last"] * 3


def test_a_print_before_a_failing_check_is_seen_and_one_after_is_not(capsys):
    @hml.function
    def f(x):
        hml.print("before")
        y = hml.check_finite(hml.log(x), "log of x")
        hml.print("after")
        return y

    f(vector(1, 2))
    assert capsys.readouterr().out == "before\nafter\n"
    with pytest.raises(NonFiniteError, match="log of x"):
        f(vector(-1, 2))
    assert capsys.readouterr().out == "before\n"


@pytest.mark.parametrize("way", ["cond", "scan", "while"])
def test_inside_control_flow_and_once_under_a_gradient(way, capsys):
    def shown(x):
        hml.print("seen", x.sum())
        return x * x

    def f(x):
        if way == "cond":
            return hml.cond(x.sum() > 0, lambda: shown(x), lambda: x).sum()
        if way == "scan":
            return hml.scan(lambda c, r: (c + shown(r), None), hml.zeros(()), x)[0]
        return hml.while_loop(lambda i, s: i < 2, lambda i, s: (i + 1, shown(s)), (0, x))[1].sum()

    x = vector(1, 2)
    expected = {"cond": ["seen 3.0"], "scan": ["seen 1.0", "seen 2.0"], "while": ["seen 3.0", "seen 5.0"]}[
        way
    ]
    hml.function(f)(x)
    assert capsys.readouterr().out.splitlines() == expected
    for g in (hml.function(hml.grad(f)), hml.grad(hml.function(f))):
        np.testing.assert_allclose(g(x), {"cond": [2, 4], "scan": [2, 4], "while": [4, 32]}[way])
        assert capsys.readouterr().out.splitlines() == expected


def test_print_for_each_example_of_a_vmap(capsys):
    f = hml.vmap(lambda x: hml.print("row", x) or x.sum())
    for g in (f, hml.function(f)):
        g(hml.asarray([[1.0, 2.0], [3.0, 4.0]]))
        assert capsys.readouterr().out == "row [1. 2.]\nrow [3. 4.]\n"


def test_the_interpreter_of_check_mode_does_not_print_again(capsys):
    hml.function(lambda x: hml.print(x) or x + 1, check=True)(vector(1, 2))
    assert capsys.readouterr().out == "[1. 2.]\n"


# py_function


def cube(x):
    return {"y": x**3, "n": hml.asarray([x.size])}


CUBE = {"y": hml.TensorSpec((3,), F32), "n": hml.TensorSpec((1,), hml.int64)}


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("how", ["eager", "inside", "around"])
def test_py_function_is_differentiable(how, order):
    def f(x):
        return (hml.py_function(cube, [x * 2], CUBE)["y"] * x).sum()

    def gradient(f):
        g = hml.grad(f)
        return g if order == 1 else hml.grad(lambda x: (g(x) ** 2).sum())

    x = vector(1, -2, 0.5)
    g = {
        "eager": gradient,
        "inside": lambda f: hml.function(gradient(f)),
        "around": lambda f: gradient(hml.function(f)),
    }[how](f)
    np.testing.assert_allclose(
        g(x), 32 * x.numpy() ** 3 if order == 1 else 6 * 1024 * x.numpy() ** 5, rtol=1e-5
    )


def test_py_function_gets_eager_tensors_and_anything_else():
    kinds = []

    def f(x, options, *, base=10):
        kinds.append((type(x), options["name"], type(options["w"])))
        return np.sin(x.numpy()) + options["w"].numpy() + base

    @hml.function
    def g(x):
        return hml.py_function(f, (x, {"name": "n", "w": x * 2}), hml.TensorSpec((2,), F32)) - 10

    np.testing.assert_allclose(g(vector(0, 1)), np.add(np.sin([0, 1]), [0, 2]), rtol=1e-6, atol=1e-6)
    assert kinds == [(hml.Tensor, "n", hml.Tensor)]


def test_py_function_may_keep_its_tensors_and_call_traced_functions():
    kept = []
    inner = hml.function(lambda x: x * 3)

    @hml.function
    def f(x):
        y = hml.py_function(lambda a: kept.append(a) or inner(a), [x + 1], hml.TensorSpec((2,), F32))
        return hml.exp(y)

    f(vector(1, 2))
    f(vector(5, 6))
    assert [k.tolist() for k in kept] == [[2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("f", "error", "words"),
    [
        (lambda x: x[:1], ShapeError, r"result 0 of .* was promised as float32\[2\] and is float32\[1\]"),
        (lambda x: x.astype(hml.float64), DTypeError, "cast it"),
        (lambda x: (x, x), TraceError, "promised to return 1 tensors"),
    ],
)
@pytest.mark.parametrize("how", ["eager", "traced"])
def test_py_function_keeps_its_promise(f, error, words, how):
    def call(x):
        return hml.py_function(f, [x], hml.TensorSpec((2,), F32))

    with pytest.raises(error, match=words):
        (hml.function(call) if how == "traced" else call)(vector(1, 2))


def test_an_error_in_python_leaves_variables_as_they_were():
    v = hml.Variable(vector(1, 2))

    def fail(x):
        raise ValueError("as the user wrote it")

    @hml.function
    def f(x):
        v.assign(x)
        return hml.py_function(fail, [x], hml.TensorSpec((2,), F32))

    with pytest.raises(ValueError, match="as the user wrote it"):
        f(vector(3, 4))
    np.testing.assert_array_equal(v, [1, 2])


def test_asserts_are_effects_too():
    @hml.function
    def f(x):
        hml.check_true(x > 0, "x is positive")
        return hml.ones(())

    f(vector(1, 2))
    with pytest.raises(CheckError, match="x is positive"):
        f(vector(1, -2)).item()


def test_a_py_function_may_call_the_function_it_is_in():
    """Each run inside a run has an arena of its own."""

    def rest(n):
        return total(n - 1) if n.item() > 0 else hml.asarray(0.0)

    @hml.function
    def total(n):
        here = n * 1.0
        return hml.py_function(rest, [n], hml.TensorSpec((), F32)) + here

    assert total(hml.asarray(4.0)).item() == 10.0
    assert total(hml.asarray(3.0)).item() == 6.0
    assert total.cache_info().traces == 1
