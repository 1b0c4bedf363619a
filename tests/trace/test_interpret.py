"""The slow interpreter: the rows' eager forms, node by node."""

import numpy as np

import hybridml as hml
from hybridml.trace.interpret import evaluate, interpret


def concrete(f, *inputs):
    return hml.function(f).get_concrete_function(*inputs)


def test_outputs_and_updates():
    v, w = hml.Variable([1.0, 2.0]), hml.Variable([5.0, 5.0])

    def f(x):
        w.assign(v * 2)
        v.assign_add(x)
        return v.value(), w + x

    c = concrete(f, np.zeros(2, np.float32))
    state = [u.numpy() for u in c.variables]
    outputs, updates = interpret(c.graph, [np.float32([10, 20])], state)
    assert [a.tolist() for a in outputs] == [[11, 22], [12, 24]]
    assert {c.graph.variables[i].name: a.tolist() for (i, _), a in zip(c.graph.updates, updates, strict=True)}
    assert sorted(a.tolist() for a in updates) == [[2, 4], [11, 22]]
    assert [u.numpy().tolist() for u in c.variables] == [a.tolist() for a in state], "interpreting assigned"


def test_several_outputs_of_one_node():
    c = concrete(lambda x: hml.top_k(x, 2), np.zeros(4, np.float32))
    (values, indices), _ = interpret(c.graph, [np.float32([3, 1, 4, 2])])
    assert values.tolist() == [4, 3] and indices.tolist() == [2, 0]


def test_warnings_of_numpy_are_silent_as_in_eager():
    c = concrete(lambda x: hml.log(x) / 0, np.zeros(2, np.float32))
    (out,), _ = interpret(c.graph, [np.float32([0, -1])])
    assert np.isneginf(out[0]) and np.isnan(out[1])


def test_any_way_to_run_a_node_can_be_given():
    c = concrete(lambda x: hml.exp(x) + x, np.zeros(2, np.float32))
    names = []
    evaluate(c.graph, lambda op, operands, attrs: names.append(op.name), dict.fromkeys(c.graph.inputs))
    assert names == ["exp", "add"]
