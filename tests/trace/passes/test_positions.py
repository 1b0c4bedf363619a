"""Positions and what they are compared with, in 32 bits."""

import numpy as np
from graphs import check_pass, count, traced

from hybridml.trace.passes import dce
from hybridml.trace.passes.positions import positions


def compared(graph):
    return {x.dtype.name for n in graph.nodes if n.op.name == "equal" for x in n.values}


def test_compared_in_32_bits_where_the_number_is_one_along_the_axis():
    graph, inputs, variables = traced("positions")
    assert compared(graph) == {"int64"}
    new = dce(check_pass(positions, graph, inputs, variables))
    assert compared(new) == {"int32"} and count(new, "iota") == count(graph, "iota")


def test_numbers_along_the_axis_itself_stay_as_they_are():
    new = check_pass(positions, *traced("positions beside another axis"))
    assert compared(new) == {"int64"} and count(new, "cast") == 0


def test_no_number_outside_of_32_bits_becomes_a_position():
    graph, inputs, variables = traced("positions")
    far = [np.array([2**31 - 1, 2**31, 2**32, 2**32 + 2, -1, -(2**31), -(2**63)]), inputs[1]]
    hot = check_pass(positions, graph, far, variables)
    assert compared(hot) == {"int32"}
