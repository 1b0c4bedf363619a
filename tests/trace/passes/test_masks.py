"""ReLU's mask is applied to what is scattered, not after it."""

import numpy as np
from graphs import check_pass, count, ops, trace_of, traced

import hybridml as hml
from hybridml.trace.passes import dce, masks


def test_the_mask_moves_before_the_scatter():
    for name in ("pooled relu", "pooled relu, windows overlap"):
        new = dce(check_pass(masks, *traced(name)))
        names = ops(new)
        assert names.index("window_scatter") > max(i for i, n in enumerate(names) if n == "less_equal"), name
        scatter = next(n for n in new.nodes if n.op.name == "window_scatter")
        assert not any(scatter.out in n.values and n.op.name == "where" for n in new.nodes)


def test_special_values_keep_their_gradient():
    x = np.array([np.nan, -1, 0, np.inf, -np.inf, -2, -0.0, 0, 1, 1, -3, np.nan], np.float32).reshape(
        1, 2, 6, 1
    )
    f = hml.grad(lambda x: hml.nn.max_pool2d(hml.nn.relu(x), 2).sum())
    graph = trace_of(f, x)
    check_pass(masks, graph, [x], [])
    np.testing.assert_array_equal(hml.function(f)(x).numpy(), f(hml.asarray(x)).numpy())


def test_other_masks_stay():
    def f(x, y):
        return hml.grad(lambda x: hml.where(y > 0, hml.nn.max_pool2d(x, 2, 1), 0).sum())(x)

    graph = trace_of(f, np.ones((1, 3, 3, 1), np.float32), np.ones((1, 2, 2, 1), np.float32))
    assert masks(graph).nodes == graph.nodes
    assert count(graph, "window_scatter") == 1
