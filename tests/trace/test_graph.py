"""The graph itself: printing, key, and the verifier's complaints."""

import dataclasses

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import GraphError
from hybridml.ops.registry import OPS
from hybridml.trace.graph import Graph, Node, Value, verify

X, Y = np.zeros((3, 4), np.float32), np.zeros(4, np.float32)


def graph_of(f, *inputs):
    return hml.function(f).get_concrete_function(*inputs).graph


def example(x, y):
    z = x * y
    return hml.tanh(z).sum(axis=(0,)), z + 1


def test_printing():
    graph = graph_of(example, X, Y)
    line = example.__code__.co_firstlineno
    assert str(graph).splitlines() == [
        "graph example(%x: float32[3, 4], %y: float32[4]):",
        f"    %2: float32[3, 4] = multiply(%x, %y)  # test_graph.py:{line + 1}",
        f"    %3: float32[3, 4] = tanh(%2)  # test_graph.py:{line + 2}",
        f"    %4: float32[4] = sum(%3, axis=(0,), keepdims=False)  # test_graph.py:{line + 2}",
        f"    %5: float32[3, 4] = add(%2, 1)  # test_graph.py:{line + 2}",
        "    return %4, %5",
    ]


def test_printing_shows_variables_constants_and_assignments():
    v = hml.Variable([1.0, 2.0], name="w")
    c = hml.asarray([3.0, 4.0])

    def f():
        v.assign(v + c)

    shown = str(graph_of(f))
    assert "%w: float32[2] = variable" in shown
    assert "float32[2] = constant" in shown
    assert "%w <- %" in shown and shown.endswith("return ")


def test_every_node_knows_its_line():
    for n in graph_of(example, X, Y).nodes:
        assert n.source.file == __file__ and n.source.function == "example"


def test_equal_structure_has_an_equal_key():
    assert graph_of(example, X, Y).key() == graph_of(lambda a, b: example(a, b), X, Y).key()


OTHERS = {
    "another op": lambda x, y: (hml.sin(x * y).sum(axis=(0,)), x * y + 1),
    "another attribute": lambda x, y: (hml.tanh(x * y).sum(axis=(0,), keepdims=True), x * y + 1),
    "another operand": lambda x, y: (hml.tanh(x * x).sum(axis=(0,)), x * y + 1),
    "another scalar": lambda x, y: (hml.tanh(x * y).sum(axis=(0,)), x * y + 2),
    "a scalar of another type": lambda x, y: (hml.tanh(x * y).sum(axis=(0,)), x * y + 1.0),
    "outputs in another order": lambda x, y: example(x, y)[::-1],
    "a constant": lambda x, y: (example(x, y), hml.asarray([1.0]) * x)[0],
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_structure_has_another_key(case):
    assert graph_of(OTHERS[case], X, Y).key() != graph_of(example, X, Y).key()


def test_keys_tell_constants_shapes_and_assigned_variables_apart():
    v, w = hml.Variable([1.0]), hml.Variable([1.0])
    graphs = [graph_of(lambda x, c=c: x + hml.asarray([c]), np.zeros(1, np.float32)) for c in (1.0, 2.0)]
    graphs += [graph_of(example, X[:2], Y), graph_of(example, X, Y)]

    def swap(first, second):
        return lambda: (v.value(), w.value(), first.assign(second.value() * 2)) and None

    graphs += [graph_of(swap(v, w)), graph_of(swap(w, v))]
    assert len({g.key() for g in graphs}) == len(graphs)


def broken(change):
    return change(graph_of(example, X, Y))


def _swap_nodes(g):
    return g.replace(nodes=(g.nodes[1], g.nodes[0], *g.nodes[2:]))


def _wrong_shape(g):
    n = g.nodes[1]
    bad = dataclasses.replace(n, outputs=(Value(hml.TensorSpec((9,), hml.float32)),))
    return g.replace(nodes=(g.nodes[0], bad, *g.nodes[2:]))


BROKEN = {
    "read before it is produced": _swap_nodes,
    "the shape rule says": _wrong_shape,
    "is produced twice": lambda g: g.replace(nodes=(*g.nodes, g.nodes[-1])),
    "a source appears twice": lambda g: g.replace(inputs=(g.inputs[0], *g.inputs)),
    "a result is never produced": lambda g: g.replace(outputs=(Value(hml.TensorSpec((), hml.float32)),)),
    "but holds": lambda g: g.replace(
        constants={Value(hml.TensorSpec((2,), hml.float32)): np.zeros(3, np.float32)}
    ),
    "and is assigned": lambda g: g.replace(
        inputs=g.inputs[1:], variables=g.inputs[:1], updates=((0, g.nodes[2].out),)
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_verify_finds_faults(fault):
    verify(graph_of(example, X, Y))
    with pytest.raises(GraphError, match=fault):
        verify(broken(BROKEN[fault]))


def test_verify_shows_the_nodes_around_the_fault():
    with pytest.raises(GraphError) as e:
        verify(broken(_swap_nodes))
    marked = [line for line in str(e.value).splitlines() if line.startswith("  > ")]
    assert len(marked) == 1 and "tanh" in marked[0]
    assert "multiply" in str(e.value) and "return" in str(e.value)


def test_a_graph_is_not_changed_by_replace():
    graph = graph_of(example, X, Y)
    key = graph.key()
    other = graph.replace(outputs=graph.outputs[:1])
    assert graph.key() == key != other.key() and len(graph.outputs) == 2


def test_readers_and_producers():
    graph = graph_of(example, X, Y)
    z = graph.nodes[0].out
    assert [n.op.name for n in graph.readers()[z]] == ["tanh", "add"]
    assert graph.producers()[z] is graph.nodes[0]


def test_a_graph_by_hand():
    x, y = Value(hml.TensorSpec((2,), hml.float32), "x"), Value(hml.TensorSpec((2,), hml.float32))
    graph = Graph("hand", (x,), (), {}, (Node(OPS["exp"], (x,), {}, (y,)),), (y,))
    assert str(verify(graph)).splitlines()[1] == "    %1: float32[2] = exp(%x)"
