"""@hml.function as its callers meet it: what makes a trace, what is written down, and what happens at each call."""

import dataclasses
import gc
import threading
import warnings
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager.state import state
from hybridml.errors import RetraceWarning, ShapeError, SignatureError, TracerError
from hybridml.trace import function as function_module


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
    assert two.apply is two.apply
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


# variables


def test_a_variable_is_read_at_each_call():
    v = hml.Variable([1.0, 2.0, 3.0])
    f = hml.function(lambda x: x + v)
    assert f(x3).tolist() == [2, 4, 6]
    v.assign([10.0, 10.0, 10.0])
    assert f(x3).tolist() == [11, 12, 13]


def test_read_assign_read_is_in_program_order():
    v = hml.Variable(1.0)

    @hml.function
    def f(x):
        old = v.value()
        v.assign(old + x)
        new = v.value()
        v.assign_add(x)
        return old, new, v.value()

    one = hml.asarray(1.0)
    assert [float(t) for t in f(one)] == [1, 2, 3]
    assert float(v) == 3
    assert [float(t) for t in f(one)] == [3, 4, 5]
    assert float(v) == 5


def test_a_value_read_earlier_does_not_change():
    v = hml.Variable([1.0, 2.0, 3.0])
    held = v.value()
    view = held[1:]
    f = hml.function(lambda x: v.assign_add(x))
    f(x3)
    assert held.tolist() == [1, 2, 3] and view.tolist() == [2, 3]
    assert v.numpy().tolist() == [2, 4, 6]


def test_assignment_is_in_place_while_nobody_holds_the_value():
    v = hml.Variable([1.0, 2.0, 3.0])
    f = hml.function(lambda x: v.assign_sub(x * 0.5))
    f(x3)
    memory = v._array.ctypes.data
    for _ in range(3):
        f(x3)
    assert v._array.ctypes.data == memory
    np.testing.assert_allclose(v.numpy(), [-1, -2, -3])


def test_two_variables_swap():
    a, b = hml.Variable([1.0, 2.0]), hml.Variable([3.0, 4.0])

    @hml.function
    def swap():
        old = a.value()
        a.assign(b)
        b.assign(old)

    swap()
    assert a.numpy().tolist() == [3, 4] and b.numpy().tolist() == [1, 2]
    swap()
    assert a.numpy().tolist() == [1, 2] and b.numpy().tolist() == [3, 4]


def test_three_variables_rotate_through_arithmetic():
    vs = [hml.Variable(np.full(5, float(i))) for i in range(3)]

    @hml.function
    def rotate():
        values = [v.value() for v in vs]
        for v, new in zip(vs, values[1:] + values[:1], strict=True):
            v.assign(new * 2)

    rotate()
    assert [v.numpy()[0] for v in vs] == [2, 4, 0]


def test_a_variable_created_inside_is_created_once_and_reused_by_later_traces():
    @hml.function
    def f(x):
        count = hml.Variable(0.0, name="count")
        count.assign_add(1.0)
        return x + count

    assert [f(vector(0.0)).tolist() for _ in range(3)] == [[1], [2], [3]]
    assert f(vector(0.0, 0.0)).tolist() == [4, 4]


def test_a_variable_as_argument_is_the_same_variable():
    f, traces = counted(lambda v, x: v.assign_add(x).value())
    v = hml.Variable([1.0, 1.0, 1.0])
    assert f(v, x3).tolist() == [2, 3, 4]
    assert f(v, x3).tolist() == [3, 5, 7]
    assert v.numpy().tolist() == [3, 5, 7] and len(traces) == 1


def test_returned_variables_are_their_values():
    v = hml.Variable([1.0, 2.0])
    f = hml.function(lambda: v.assign(v * 2))
    out = f()
    assert isinstance(out, hml.Tensor) and out.tolist() == [2, 4]
    f()
    assert out.tolist() == [2, 4]


# retracing


def test_a_repeated_retrace_warns_once_naming_argument_old_new_and_cure():
    f, _ = counted(lambda image, mode: image)
    with pytest.warns(RetraceWarning) as caught:
        for n in range(2, 12):
            f(hml.zeros((n,)), "train")
    message = str(caught[0].message)
    assert len(caught) == 1
    for part in ("argument `args[0]`", "float32[5]", "float32[6]", "pass batches of one shape", __file__):
        assert part in message
    explained = f.explain_retraces()
    assert "changed 9 time(s)" in explained and "Cure:" in explained


def test_the_argument_is_named_as_the_function_names_it():
    @hml.function
    def f(image, mode="train"):
        return image

    f(x3)
    assert "never traced again" in f.explain_retraces()
    f(x3, "test")
    assert "argument `mode` changed 1 time(s), last from 'train' to 'test'" in f.explain_retraces()
    f(x4, "test")
    assert "argument `image` changed 1 time(s), last from float32[3] to float32[4]" in f.explain_retraces()
    f({"a": x3}, "test")
    assert "the nesting of the arguments" in f.explain_retraces()


def test_cache_info_counts():
    f, _ = counted(lambda x: x + 1)
    f(x3), f(x3), f(x4)
    info = f.cache_info()
    assert (info.traces, info.hits, info.evictions, info.size) == (2, 1, 0, 2)


def test_the_trace_used_longest_ago_is_dropped(monkeypatch):
    monkeypatch.setattr(function_module, "MAX_TRACES", 3)
    f, traces = counted(lambda x, mode: x + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RetraceWarning)
        for mode in "abcadeea":
            f(x3, mode)
        assert f.cache_info().size == 3 and f.cache_info().evictions == len(traces) - 3
        assert [a[1] for a in traces] == ["a", "b", "c", "d", "e"]  # a was used again before d came
        f(x3, "b")
    assert [a[1] for a in traces][-1] == "b"


SIGNATURE = (hml.TensorSpec((None, 3), hml.float32), hml.TensorSpec((), hml.float32))
MISFITS = {
    "the dtype": (
        (np.zeros((2, 3)), np.float32(1)),
        r"argument `x`: expected float32\[.*3\], got float64\[2, 3\]",
    ),
    "the rank": ((np.zeros(3, np.float32), np.float32(1)), r"argument `x`: expected .*, got float32\[3\]"),
    "the size": (
        (np.zeros((2, 4), np.float32), np.float32(1)),
        r"argument `x`: expected .*, got float32\[2, 4\]",
    ),
    "the kind": ((np.zeros((2, 3), np.float32), "one"), "argument `y`: expected .*, got str 'one'"),
    "the number": ((np.zeros((2, 3), np.float32),), "missing a required argument: 'y'"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_input_signature_errors_name_the_argument(case):
    args, message = MISFITS[case]

    @hml.function(input_signature=SIGNATURE)
    def f(x, y):
        return x * y

    with pytest.raises(SignatureError, match=message):
        f(*args)
    assert f(np.ones((2, 3), np.float32), np.float32(2)).tolist() == [[2, 2, 2], [2, 2, 2]]


# errors while tracing

NO_VALUE = {
    "float": (lambda t: float(t), "a Python float"),
    "int": (lambda t: int(t), "a Python int"),
    "bool": (lambda t: 1 if t > 0 else 2, "a Python truth value"),
    "numpy": (lambda t: t.numpy(), "the NumPy values"),
    "np.sin": (lambda t: np.asarray(t), "the NumPy values"),
    "item": (lambda t: t.item(), "a Python number"),
    "tolist": (lambda t: t.tolist(), "Python numbers"),
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
        assert state.traces == [] and state.tapes == []
    with hml.GradientTape() as tape, pytest.raises(KeyError):
        f(x3)
    assert state.tapes == [] and tape is not None
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
    assert sorted(traces) == [(3, 6), (4, 6), (5, 6)]
