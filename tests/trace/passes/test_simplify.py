"""The rows' own algebra: neutral elements, involutions, views and reductions that change nothing."""

import pytest
from graphs import check_pass, count, ops, traced

from hybridml.trace.passes import dce, simplify


@pytest.mark.parametrize("name", ["neutral elements", "neutral tensors", "involutions"])
def test_what_changes_nothing_goes(name):
    new = dce(check_pass(simplify, *traced(name)))
    assert new.nodes == () and new.outputs == new.inputs


@pytest.mark.parametrize("name", ["not neutral: it broadcasts", "not neutral: it changes the dtype"])
def test_neutral_only_where_shape_and_dtype_stay(name):
    assert count(dce(check_pass(simplify, *traced(name))), "add") == 1


def test_reductions_of_axes_of_size_one_are_reshapes():
    new = dce(check_pass(simplify, *traced("reductions of nothing")))
    assert ops(new) == ["reshape", "reshape", "add"]
    assert ops(dce(simplify(new))) == ["add"]


def test_operands_of_one_value_become_literals():
    graph, inputs, variables = traced("a large constant broadcast")
    new = dce(check_pass(simplify, graph, inputs, variables))
    assert ops(new) == ["multiply"] and new.nodes[0].inputs[1] == 2.0 and not new.constants
