"""@hml.function as its callers meet it: what makes a trace, what is written down, and what happens at each call."""

import copy
import dataclasses
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import DTypeError, SignatureError


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


def counted(f=lambda *args, **kwargs: hml.zeros(()), **options):
    """(traced function, list that grows by one at each trace)."""
    traces = []

    def counting(*args, **kwargs):
        traces.append(args)
        return f(*args, **kwargs)

    return hml.function(counting, **options), traces


@dataclasses.dataclass
class Point:
    x: object
    y: object


x3, y3, x4 = vector(1, 2, 3), vector(4, 5, 6), vector(1, 2, 3, 4)
KEYS = {
    "other values": ([(x3,), (y3,)], 1),
    "another shape": ([(x3,), (x4,)], 2),
    "another dtype": ([(x3,), (hml.asarray([1, 2, 3]),)], 2),
    "an array for a tensor": ([(x3,), (np.float32([7, 8, 9]),)], 1),
    "a NumPy scalar for a 0-d tensor": ([(hml.asarray(2.0),), (np.float32(3),)], 1),
    "a string by value": ([(x3, "a"), (x3, "b"), (x3, "a")], 2),
    "None": ([(x3, None), (x3, None)], 1),
    "int, float and bool of one value": ([(x3, 1), (x3, 1.0), (x3, True)], 3),
    "zeros of both signs": ([(x3, 0.0), (x3, -0.0)], 2),
    "lists of two lengths": ([(([x3]),), (([x3, x3]),)], 2),
    "a list for a tuple": ([([x3],), ((x3,),)], 2),
    "dicts in any order": ([({"a": x3, "b": x4},), ({"b": x4, "a": x3},)], 1),
    "dataclasses": ([(Point(x3, 1),), (Point(y3, 1),), (Point(y3, "one"),)], 2),
    "nested structures": ([({"k": [x3, (x4,)]},), ({"k": [y3, (x4,)]},)], 1),
    "slices and dtypes": ([(slice(1, 2), np.dtype("int8")), (slice(1, 2), np.dtype("int8")), (slice(2), np.dtype("int8"))], 2),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_what_makes_a_new_trace(case):
    calls, expected = KEYS[case]
    f, traces = counted()
    for args in calls:
        f(*args)
        f(*args)
    assert len(traces) == expected


def test_defaults_and_keywords_are_one_trace():
    traces = []

    @hml.function
    def f(x, k=2, *, scale=1.0):
        traces.append(1)
        return x * k * scale

    for result in (f(x3), f(x3, 2), f(x3, k=2), f(x=x3, scale=1.0), f(k=2, x=x3)):
        assert result.tolist() == [2, 4, 6]
    assert len(traces) == 1


def test_unknown_keywords_show_the_signature():
    @hml.function
    def f(x, k=2):
        return x * k

    with pytest.raises(SignatureError, match=r"unexpected keyword argument 'n'.*\(x, k=2\)"):
        f(x3, n=1)


def test_a_number_that_changes_becomes_a_scalar_of_the_graph():
    f, traces = counted(lambda x, rate: x * rate)
    for rate in (0.1, 0.2, 0.3, 0.4, 0.5):
        got = f(x3, rate)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.numpy(), (x3 * rate).numpy())
    assert len(traces) == 2


TAKES_A_NUMBER = {
    "arithmetic": lambda x, k: x + k,
    "asarray": lambda x, k: hml.asarray(k),
    "stack": lambda x, k: hml.stack([x[0], k]),
    "concat": lambda x, k: hml.concat([x, hml.reshape(k, (1,))]),
    "where": lambda x, k: hml.where(x > 0, x, k),
    "branch": lambda x, k: x[0] if x[0] > 1 else k,
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int32", "int64"])
@pytest.mark.parametrize("case", TAKES_A_NUMBER)
def test_a_number_that_changes_has_the_dtype_it_has_eagerly(case, dtype):
    f, _ = counted(TAKES_A_NUMBER[case])
    x = hml.asarray(np.array([3, 0, 1], dtype))
    for k in (2, 3, 4, 2.5, 3.5, 4.5):
        if case == "branch" and (dtype != "float32" or type(k) is int):
            continue  # the two sides would differ in dtype
        eager, traced = (hml.asarray(g(x, k)) for g in (TAKES_A_NUMBER[case], f))
        assert traced.dtype == eager.dtype
        np.testing.assert_allclose(traced.numpy(), eager.numpy())


def test_a_number_that_does_not_fit_into_an_integer_says_so():
    f, _ = counted(lambda x, k: x + k)
    f(x3, 1), f(x3, 2), f(x3, 3)
    with pytest.raises(DTypeError, match="fits into int64, got 1180591620717411303424"):
        f(x3, 2**70)


@hml.function
def known_by_name(x):
    return x * 3


def doubled(x):
    return x * 2


def test_a_function_is_pickled_by_name_or_by_what_it_was_made_of():
    assert pickle.loads(pickle.dumps(known_by_name)) is known_by_name
    assert copy.deepcopy(known_by_name) is known_by_name
    f = hml.function(doubled, check=True, reduce_retracing=False)
    f(x3)
    for other in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f), copy.copy(f)):
        assert other is not f
        assert (other.check, other.reduce_retracing, other.cache_info().traces) == (True, False, 0)
        assert other(x3).tolist() == f(x3).tolist()


def test_a_number_needed_by_value_is_traced_for_each():
    f, _ = counted(lambda x, n: sum(x for _ in range(n)))
    for n in (1, 2, 3, 2, 1):
        assert f(x3, n).tolist() == (x3 * n).tolist()
    assert f.cache_info().size == 3


def test_objects_key_by_identity_and_are_not_kept_alive():
    class Setting:
        factor = 3.0

    f, traces = counted(lambda x, s: x * s.factor)
    a, b = Setting(), Setting()
    f(x3, a), f(x3, b), f(x3, a)
    assert len(traces) == 2
    traces.clear()
    alive = weakref.ref(a)
    del a
    gc.collect()
    assert alive() is None
    f(x3, Setting())
    assert f.cache_info().size <= 3


def test_methods_have_one_function_an_instance_that_dies_with_it():
    traces = []

    class Scale:
        def __init__(self, by):
            self.by = by

        @hml.function
        def apply(self, x):
            traces.append(1)
            return x * self.by

    two, three = Scale(2.0), Scale(3.0)
    assert two.apply == two.apply != three.apply and len({two.apply, two.apply, three.apply}) == 2
    assert two.apply.__name__ == "apply" and two.apply.python_function is two.apply.python_function
    assert [two.apply(x3).tolist(), three.apply(x3).tolist(), two.apply(y3).tolist()] == [
        [2, 4, 6],
        [3, 6, 9],
        [8, 10, 12],
    ]
    assert len(traces) == 2
    alive = weakref.ref(two)
    del two
    gc.collect()
    assert alive() is None


def test_a_method_of_an_instance_that_nobody_else_holds():
    class Scale:
        def __init__(self, by):
            self.by = by

        @hml.function
        def apply(self, x):
            return x * self.by

    assert Scale(2.0).apply(x3).tolist() == [2, 4, 6]
    applied = Scale(3.0).apply
    gc.collect()
    assert applied(x3).tolist() == [3, 6, 9] and applied.cache_info().traces == 1


def test_lambdas_partials_callable_objects_and_functions_without_source():
    import functools

    class Adder:
        def __call__(self, x):
            return x + 1

    space = {}
    exec("def made(x):\n    return x + 1", space)
    add = functools.partial(lambda n, x: x + n, 1)
    for f in (lambda x: x + 1, add, Adder(), space["made"]):
        assert hml.function(f)(x3).tolist() == [2, 3, 4]


def test_a_function_made_in_a_loop_keeps_its_own_closure():
    made = [hml.function(lambda x, k=k: x * k) for k in range(3)]
    assert [f(x3).tolist() for f in made] == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]


def test_python_side_effects_happen_while_tracing_only():
    f, traces = counted(lambda x: x + 1)
    for _ in range(3):
        f(x3)
    assert len(traces) == 1


# what comes out

OUTPUTS = {
    "one tensor": lambda x: x + 1,
    "a tuple": lambda x: (x + 1, x * 2),
    "nested": lambda x: {"a": [x + 1, (x * 2,)], "b": x - 1},
    "None": lambda x: None,
    "None among tensors": lambda x: (x + 1, None),
    "Python constants": lambda x: (x + 1, 3, "text", 2.5, True),
    "the input itself": lambda x: x,
    "the input twice": lambda x: (x, x),
    "one tensor twice": lambda x: (lambda y: (y, y, {"y": y}))(x * 2),
    "views of one tensor": lambda x: (lambda y: (y[::2], y[1:], y.reshape((3, 1)), y))(x * 2),
    "a constant tensor": lambda x: y3,
    "a value computed from constants": lambda x: hml.ones((2, 2)) * 3,
    "a dataclass": lambda x: Point(x + 1, x - 1),
    "nothing": lambda x: (),
    "a view of the input": lambda x: x[::-1],
}


def shown(x):
    return hml.asarray(x).tolist() if isinstance(x, (hml.Tensor, hml.Variable)) else x


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_have_the_structure_of_the_python_function(case):
    f = OUTPUTS[case]
    traced = hml.function(f)
    for _ in range(2):
        got, want = traced(x3), f(x3)
        assert hml.pytree.map(shown, got) == hml.pytree.map(shown, want)


def test_outputs_are_fresh_at_each_call():
    f = hml.function(lambda x: (x * 2, x))
    a, same = f(x3)
    b, _ = f(y3)
    assert a.tolist() == [2, 4, 6] and b.tolist() == [8, 10, 12] and same.tolist() == [1, 2, 3]


def test_an_input_that_is_returned_is_not_the_callers_memory():
    mine = np.float32([1, 2, 3])
    out = hml.function(lambda x: x)(mine)
    mine[:] = 0
    assert out.tolist() == [1, 2, 3]


def test_run_functions_eagerly():
    f, traces = counted(lambda x: x + float(x.sum()))
    hml.run_functions_eagerly(True)
    try:
        assert f(x3).tolist() == [7, 8, 9] and f(x3).tolist() == [7, 8, 9]
    finally:
        hml.run_functions_eagerly(False)
    assert len(traces) == 2 and f.cache_info().traces == 0


def test_a_function_inside_a_function_is_part_of_its_trace():
    inner, traces = counted(lambda x: hml.tanh(x) * 2)
    outer = hml.function(lambda x: inner(inner(x)))
    np.testing.assert_allclose(outer(x3).numpy(), (hml.tanh(hml.tanh(x3) * 2) * 2).numpy(), rtol=1e-6)
    assert len(traces) == 2 and outer.get_concrete_function(x3).stats.kernels == 1


def test_non_contiguous_arguments():
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    f = hml.function(lambda x: x * 2)
    for x in (wide[::2, ::3], wide.T, wide[:, 1], np.broadcast_to(np.float32(3), (2, 2)), wide[::-1]):
        np.testing.assert_array_equal(f(x).numpy(), x * 2)
        np.testing.assert_array_equal(f(x).numpy(), x * 2)


def test_eight_threads_call_one_function():
    traces, errors = [], []

    @hml.function
    def f(x, y):
        traces.append(x.shape)
        z = hml.tanh(x @ y)
        return z / (1 + z * z).sum(axis=-1, keepdims=True)

    rng = np.random.default_rng(0)
    calls = [tuple(rng.normal(size=s).astype(np.float32) for s in ((n, 6), (6, 5))) for n in (3, 4, 5)]
    wanted = [f.python_function(hml.asarray(x), hml.asarray(y)).numpy() for x, y in calls]
    traces.clear()
    ready = threading.Barrier(8)

    def work(k):
        try:
            ready.wait()
            for i in range(60):
                n = (i + k) % 3
                np.testing.assert_allclose(f(*calls[n]).numpy(), wanted[n], rtol=1e-5, atol=1e-6)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]
    assert len(traces) == 2  # one of them for all sizes
