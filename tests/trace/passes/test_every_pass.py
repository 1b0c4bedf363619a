"""What every pass has to stand: a valid graph with the same results, made from a graph that stays as it was."""

import pytest
from graphs import GRAPHS, check_pass, traced

from hybridml.trace.passes import PASSES, optimize

BY_NAME = {p.__name__: p for p in PASSES}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", BY_NAME)
def test_keeps_the_meaning(name, graph):
    check_pass(BY_NAME[name], *traced(graph))


@pytest.mark.parametrize("graph", GRAPHS)
def test_keeps_the_meaning_after_all_before_it(graph):
    new, inputs, variables = traced(graph)
    for p in PASSES:
        new = check_pass(p, new, inputs, variables)


@pytest.mark.parametrize("graph", GRAPHS)
def test_optimising_twice_changes_nothing_more(graph):
    graph, inputs, variables = traced(graph)
    once = check_pass(optimize, graph, inputs, variables)
    twice = check_pass(optimize, once, inputs, variables)
    assert len(twice.nodes) <= len(once.nodes)


@pytest.mark.parametrize("graph", GRAPHS)
def test_equal_traces_have_equal_results(graph):
    assert optimize(traced(graph)[0]).key() == optimize(traced(graph)[0]).key()
