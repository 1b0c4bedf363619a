"""Variables read and assigned by traced functions: program order, in place, copy on write."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import TraceError


def vector(*numbers):
    return hml.asarray(np.array(numbers, np.float32))


def address_of(v):
    a = v._array
    return a.ctypes.data if isinstance(a, np.ndarray) else a.data.ptr


x3 = vector(1, 2, 3)


def counted(f=lambda *args, **kwargs: hml.zeros(()), **options):
    """(traced function, list that grows by one at each trace)."""
    traces = []

    def counting(*args, **kwargs):
        traces.append(args)
        return f(*args, **kwargs)

    return hml.function(counting, **options), traces


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
    memory = address_of(v)
    for _ in range(3):
        f(x3)
    assert address_of(v) == memory
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


def test_one_variable_for_each_line_that_makes_one_however_often_the_function_is_called():
    class Model:
        @hml.function
        def step(self, x):
            self.count = hml.Variable(0.0)  # unconditionally, at each call as it reads
            return self.count.assign_add(x.sum())

    m = Model()
    assert [float(m.step(vector(*[1.0] * n))) for n in (1, 1, 2, 1)] == [1, 2, 4, 5]
    assert float(m.count) == 5


def test_a_variable_that_would_have_another_shape_on_a_later_trace():
    @hml.function
    def f(x):
        total = hml.Variable(np.zeros(x.shape, np.float32), name="total")
        return total.assign_add(x)

    f(vector(1, 2))
    f(vector(1, 2))
    line = f.python_function.__code__.co_firstlineno + 2
    with pytest.raises(TraceError) as e:
        f(vector(1, 2, 3))
    message = str(e.value)
    assert f"{__file__}:{line}" in message and "float32[2]" in message and "float32[3]" in message
    assert "\n    total = hml.Variable(...)" in message and "\n    f(total, ...)" in message
    assert f(vector(1, 2)).tolist() == [3, 6]


def test_variables_made_in_an_init_scope_belong_to_who_made_them():
    made = {}

    @hml.function
    def f(x, name):
        if name not in made:
            with hml.init_scope():
                made[name] = hml.Variable(0.0)
        return made[name].assign_add(x.sum())

    assert [float(f(vector(1.0), name)) for name in "aabbb"] == [1, 2, 1, 2, 3]
    assert float(made["a"]) == 2 and float(made["b"]) == 3
