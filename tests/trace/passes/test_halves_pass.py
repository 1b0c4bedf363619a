"""What is computed in single becomes casts in the graph, and no bit changes."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import dtypes
from hybridml.ops.elementwise import CAST
from hybridml.testing import widened
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret
from hybridml.trace.passes.halves import apart, halves, widen_products

rng = np.random.default_rng(0)
each = pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
COMPUTE = {
    "sum": lambda x: hml.sum(x, axis=0),
    "max": lambda x: (hml.max(x, axis=1), hml.min(x)),
    "prod": lambda x: hml.prod(x[:3, :4]),
    "logsumexp": lambda x: hml.logsumexp(x, axis=1),
    "argmax": lambda x: hml.argmax(x, axis=1),
    "cumsum": lambda x: hml.cumsum(x, axis=1),
    "scatter": lambda x: hml.scatter_add(x, np.array([1, 1, 0]), x[:3]),
    "pool": lambda x: hml.nn.max_pool2d(hml.reshape(x, (1, 8, 6, 5)), 2),
}  # fmt: skip


def graph_of(f, half):
    x = rng.normal(size=(8, 30)).astype(half)
    return hml.function(f).get_concrete_function(x).graph, x


def assert_same(graph, changed, x):
    for a, b in zip(interpret(verify(graph), [x])[0], interpret(verify(changed), [x])[0], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(widened(a), widened(b))


@each
@pytest.mark.parametrize("name", COMPUTE)
def test_nothing_is_added_up_in_half_precision(name, half):
    graph, x = graph_of(COMPUTE[name], half)
    changed = halves(graph)
    assert_same(graph, changed, x)
    rows = [n for n in changed.nodes if n.op.widened == dtypes.HALVES]
    assert rows and not any(dtypes.is_half(v.dtype) for n in rows for v in (*n.values, *n.outputs))


@each
def test_elementwise_rows_and_products_are_left_alone(half):
    graph, x = graph_of(lambda x: hml.sigmoid(x) + x @ x.T[:, :1] * 2, half)
    assert [n.op for n in halves(graph).nodes] == [n.op for n in graph.nodes]
    changed = widen_products(graph)
    assert_same(graph, changed, x)
    (product,) = [n for n in changed.nodes if n.op.provider == "gemm"]
    assert {v.dtype for v in (*product.values, product.out)} == {dtypes.float32}


@each
def test_each_reader_makes_its_own_copy(half):
    graph, x = graph_of(lambda x: (hml.sum(w := x.astype(hml.float32), axis=0), hml.exp(w), w), half)
    changed = apart(graph)
    assert_same(graph, changed, x)
    casts = [n.out for n in changed.nodes if n.op is CAST]
    readers = changed.readers()
    assert len(casts) == 3 and all(len(readers.get(v, [])) <= 1 for v in casts)


def test_other_dtypes_stay_as_they_are():
    graph, _ = graph_of(lambda x: hml.sum(x.astype(hml.float64)) + hml.max(x), np.float32)
    assert halves(graph).nodes == graph.nodes
    assert apart(graph).nodes == graph.nodes
