"""Rows that are written in simpler ops are replaced by those."""

import pytest
from graphs import array, check_pass, count, trace_of, traced

from hybridml.ops.registry import OPS
from hybridml.testing import public_functions, samples_of
from hybridml.trace.passes import expand


@pytest.mark.parametrize("name", ["logsumexp", "argmax"])
def test_nothing_that_can_be_expanded_is_left(name):
    graph, inputs, variables = traced(name)
    assert count(graph, name) == 1
    new = check_pass(expand, graph, inputs, variables)
    assert all(n.op.expand is None for n in new.nodes)


@pytest.mark.parametrize("op", [o for o in OPS.values() if o.expand is not None], ids=lambda o: o.name)
def test_expansions_keep_the_users_line(op):
    sample = samples_of(op)[0]
    graph = trace_of(lambda *args: public_functions()[op.name](*args, **sample.kwargs), *sample.args)
    for n in expand(graph).nodes:
        assert n.source is not None and n.source.file == __file__


def test_other_nodes_stay_the_same_objects():
    graph = trace_of(lambda x: x * 2 + 1, array(3))
    assert expand(graph).nodes == graph.nodes
