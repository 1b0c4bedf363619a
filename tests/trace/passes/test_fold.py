"""Constants are computed while tracing, where that makes nothing larger."""

import numpy as np
from graphs import array, check_pass, count, ops, trace_of, traced, with_constant

import hybridml as hml
from hybridml.trace.passes import dce, fold


def test_arithmetic_on_constants_is_done():
    graph = trace_of(lambda x, c: x + hml.exp(c) * 3, array(2), array(2))
    known = with_constant(graph, np.float32([1, 2]))
    new = dce(check_pass(fold, known, [array(2)], []))
    assert ops(new) == ["add"]
    (constant,) = new.constants.values()
    np.testing.assert_allclose(constant, np.exp([1.0, 2.0]) * 3, rtol=1e-6)


def test_a_broadcast_constant_is_not_made_large():
    graph, inputs, variables = traced("a large constant broadcast")
    new = dce(check_pass(fold, graph, inputs, variables))
    assert max(a.size for a in new.constants.values()) == 1


def test_a_large_result_of_small_constants_is_left_to_the_program():
    graph = trace_of(lambda x, c: x + c * c.T, array(100, 100), array(1, 100))
    new = dce(fold(with_constant(graph, array(1, 100))))
    assert count(new, "multiply") == 1 and all(a.size <= 100 for a in new.constants.values())


def test_nothing_that_depends_on_an_input_is_folded():
    graph, *_ = traced("elementwise")
    assert ops(fold(graph)) == ops(graph)


def test_folding_a_division_by_zero_warns_nobody():
    graph = trace_of(lambda x, c: x + 1 / c, array(2), array(2))
    new = dce(fold(with_constant(graph, np.float32([0, 1]))))
    assert [a.tolist() for a in new.constants.values()] == [[np.inf, 1]]
