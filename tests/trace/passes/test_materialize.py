"""Every result gets a buffer of its own, and no view is left that has no layout."""

import pytest
from graphs import GRAPHS, check_pass, count, traced

from hybridml.kernels.views import places
from hybridml.trace.passes import dce, materialize


@pytest.mark.parametrize("name", GRAPHS)
def test_results_are_computed_and_distinct(name):
    new = check_pass(materialize, *traced(name))
    bases = [places(new)[v] for v in new.results]
    produced = {v for n in new.nodes for v in n.outputs}
    assert all(base in produced for base, _ in bases)
    assert len({id(base) for base, _ in bases}) == len(bases)
    assert all(layout.is_contiguous and layout.offset == 0 for _, layout in bases)


def test_a_reshape_of_a_transpose_needs_a_copy_before_it():
    graph, inputs, variables = traced("views")
    new = check_pass(materialize, graph, inputs, variables)
    assert count(new, "copy") == 4 and count(graph, "copy") == 0


def test_what_needs_no_copy_gets_none():
    new = check_pass(lambda g: materialize(dce(g)), *traced("elementwise"))
    assert count(new, "copy") == 0
