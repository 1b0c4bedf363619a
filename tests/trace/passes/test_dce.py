"""Dead code goes; effects and everything they need stay."""

from graphs import array, check_pass, ops, trace_of, traced

import hybridml as hml
from hybridml.trace.passes import dce


def test_what_nobody_reads_goes():
    graph, inputs, variables = traced("dead code")
    assert ops(check_pass(dce, graph, inputs, variables)) == ["multiply"]


def test_constants_that_nobody_reads_go():
    graph = trace_of(lambda x: (x * hml.asarray([1.0, 2.0, 3.0]), x + 1)[1], array(3))
    assert len(graph.constants) == 1 and not dce(graph).constants


def test_effects_stay():
    def f(x):
        hml.check_finite(x * 2, "doubled")
        hml.exp(x)
        return x + 1

    assert ops(dce(trace_of(f, array(3)))) == ["multiply", "check_finite", "add"]


def test_assignments_are_results():
    v = hml.Variable(array(3))

    def f(x):
        v.assign(x * 2)

    graph = trace_of(f, array(3))
    assert ops(dce(graph)) == ["multiply"] and len(dce(graph).updates) == 1


def test_unused_inputs_and_variables_keep_their_place():
    graph = dce(trace_of(lambda x, y: y + 1, array(3), array(3)))
    assert len(graph.inputs) == 2
