"""One computation of what is computed twice."""

from graphs import array, check_pass, count, trace_of, traced

import hybridml as hml
from hybridml.trace.passes import cse, dce


def test_equal_chains_are_computed_once():
    graph, inputs, variables = traced("common subexpressions")
    new = dce(check_pass(cse, graph, inputs, variables))
    assert (count(graph, "add"), count(graph, "tanh")) == (2, 2)
    assert (count(new, "add"), count(new, "tanh"), count(new, "multiply")) == (1, 1, 1)


def test_other_attributes_are_other_computations():
    graph = trace_of(lambda x: (x.sum(axis=0), x.sum(axis=1), x.sum(axis=0)), array(3, 3))
    assert count(dce(cse(graph)), "sum") == 2


def test_scalars_of_another_type_or_sign_are_other_operands():
    graph = trace_of(lambda x: (x * 0.0, x * -0.0, x * 0, x * False), array(3))
    assert count(dce(cse(graph)), "multiply") == 4


def test_effects_are_never_merged():
    graph = trace_of(lambda x: (hml.check_finite(x, "a"), hml.check_finite(x, "a")), array(3))
    assert count(dce(cse(graph)), "check_finite") == 2


def test_random_numbers_of_one_state_are_equal():
    def f():
        return hml.random.uniform((3,)), hml.random.uniform((3,))

    a, b = hml.function(f)()
    assert a.tolist() != b.tolist()
