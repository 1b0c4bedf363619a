"""Writing a graph down: what becomes an input, a constant, a variable, and what belongs to which trace."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager.state import state
from hybridml.errors import ShapeError, TraceError, TracerError
from hybridml.ops.spec import TensorSpec
from hybridml.trace.builder import Builder
from hybridml.trace.graph import verify

SPEC = TensorSpec((3,), hml.float32)


def test_a_graph_written_by_hand():
    b = Builder("hand")
    with b:
        x = b.input(SPEC, "x")
        y = hml.exp(x) + 1
    graph, variables = b.finish([y])
    assert [n.op.name for n in verify(graph).nodes] == ["exp", "add"] and variables == []
    assert b.closed and state.now.traces == []


def test_captured_tensors_are_constants_once():
    c = hml.asarray([1.0, 2.0, 3.0])
    b = Builder("capture")
    with b:
        x = b.input(SPEC)
        y = x + c - c
    graph, _ = b.finish([y])
    assert [a.tolist() for a in graph.constants.values()] == [[1, 2, 3]]


def test_a_stretched_constant_is_kept_small():
    b = Builder("capture")
    with b:
        y = b.input(TensorSpec((100, 3), hml.float32)) + hml.broadcast_to(
            hml.asarray([1.0, 2.0, 3.0]), (100, 3)
        )
    graph, _ = b.finish([y])
    assert [a.size for a in verify(graph).constants.values()] == [3]


def test_a_captured_constant_is_the_value_at_the_time_of_the_trace():
    mine = np.float32([1, 2, 3])
    c = hml.asarray(mine)
    f = hml.function(lambda x: x + c)
    zero = np.zeros(3, np.float32)
    before = f(zero).tolist()
    mine[:] = 9
    assert f(zero).tolist() == before == [1, 2, 3]


def test_reads_and_assignments_are_one_variable():
    v = hml.Variable([1.0, 2.0, 3.0], name="v")
    b = Builder("state")
    with b:
        x = b.input(SPEC)
        first = v.value()
        v.assign(x)
        v.assign(v.value() + first)
    graph, variables = b.finish([first])
    assert len(variables) == 1 and variables[0] is v
    assert len(verify(graph).variables) == 1 and [i for i, _ in graph.updates] == [0]
    assert v.numpy().tolist() == [1, 2, 3], "tracing assigned"


def test_assigning_another_shape_or_dtype():
    v = hml.Variable([1.0, 2.0, 3.0])
    b = Builder("state")
    with b:
        with pytest.raises(ShapeError, match="cannot assign a value of shape"):
            v.assign(b.input(TensorSpec((4,), hml.float32)))
        v.assign(b.input(TensorSpec((3,), hml.int32)))
    graph, _ = b.finish([])
    assert [n.op.name for n in verify(graph).nodes] == ["cast"]


def test_an_initial_value_cannot_come_from_the_arguments():
    @hml.function
    def f(x):
        return hml.Variable(x * 2) + 1

    with pytest.raises(TraceError, match="give it a constant") as e:
        f(np.zeros(3, np.float32))
    assert __file__ in str(e.value)


def test_variables_of_one_line_visited_twice_are_two():
    @hml.function
    def f(x):
        made = [hml.Variable(float(k)) for k in range(2)]
        for v in made:
            v.assign_add(1.0)
        return [x + v for v in made]

    zero = np.float32(0)
    assert [float(t) for t in f(zero)] == [1, 2]
    assert [float(t) for t in f(zero)] == [2, 3]


def test_tensors_of_two_traces_do_not_mix():
    outer = Builder("outer")
    with outer:
        x = outer.input(SPEC)
        inner = Builder("inner")
        with inner:
            with pytest.raises(TracerError, match="outer"):
                x + 1
            y = inner.input(SPEC)
        assert (x + 1).shape == (3,)
        with pytest.raises(TracerError, match="inner"):
            y + 1


def test_ops_made_of_nothing_belong_to_the_trace():
    f = hml.function(lambda: hml.random.uniform((3,)))
    assert f().tolist() != f().tolist()


def test_symbolic_tensors_show_what_they_are():
    b = Builder("shown")
    with b:
        x = b.input(TensorSpec((2, 3), hml.float64))
        assert (x.shape, x.dtype, x.ndim, x.size, len(x)) == ((2, 3), np.float64, 2, 6, 2)
        assert repr(x) == "SymbolicTensor(float64[2, 3], in shown)"
        with pytest.raises(TypeError, match=r"len\(\) was asked of a tensor of shape \(\)"):
            len(x.sum())
