"""Long reductions to few results happen in two steps."""

import numpy as np
from graphs import array, check_pass, count, trace_of, traced

from hybridml.trace.passes import split


def test_a_long_sum_is_a_sum_of_partial_sums():
    graph, inputs, variables = traced("long reductions")
    new = check_pass(split, graph, inputs, variables)
    assert count(new, "sum") == 2 * count(graph, "sum") and count(new, "max") == 2 * count(graph, "max")


def test_short_reductions_and_many_results_stay_whole():
    for shape, axis in (((64, 64), None), ((256, 256), 1), ((32771,), None)):
        graph = trace_of(lambda x, axis=axis: x.sum(axis=axis), np.ones(shape, np.float32))
        assert count(split(graph), "sum") == 1, shape


def test_which_axis_is_cut_is_a_matter_of_divisors():
    graph = trace_of(lambda x: x.sum(), array(32771, 8))
    new = check_pass(split, graph, [array(32771, 8)], [])
    assert count(new, "sum") == 2
