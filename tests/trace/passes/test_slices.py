"""Arithmetic that is only read slice by slice is computed slice by slice."""

from graphs import check_pass, count, ops, traced

import hybridml as hml
from hybridml.trace.function import Function
from hybridml.trace.passes import slices


def test_slices_move_before_the_arithmetic():
    new = check_pass(slices, *traced("slices that make up the whole"))
    assert count(new, "exp") == 2 and ops(new).index("slice") < ops(new).index("exp")


def test_slices_that_overlap_stay():
    graph, inputs, variables = traced("slices that overlap")
    assert check_pass(slices, graph, inputs, variables).nodes == graph.nodes


def test_bias_relu_and_pooling_are_one_kernel_and_so_is_their_gradient():
    graph, inputs, _ = traced("pooled relu")
    concrete = Function(lambda x, b: _forward(x, b)).get_concrete_function(*inputs)
    assert concrete.stats.kernels == 1
    assert "max_pool2d" not in ops(concrete.optimized)
    assert count(graph, "max_pool2d") == 1


def _forward(x, b):
    return hml.nn.max_pool2d(hml.nn.relu(x + b), 2)
