"""The control pass: what goes, what moves out of a loop, and that the meaning stays."""

from __future__ import annotations

import numpy as np

import hybridml as hml
from hybridml.testing.traced import check_traced
from hybridml.trace.graph import verify
from hybridml.trace.passes.control import control
from hybridml.trace.passes.dce import dce


def after(f, *args):
    """The control-flow node of the traced function after the pass, and the graph around it."""
    args = [hml.asarray(a) for a in args]
    check_traced(f, args, ops=16)
    graph = verify(control(dce(hml.function(f).get_concrete_function(*args).graph)))
    found = [n for n in graph.nodes if n.op.name in ("cond", "while_loop", "scan")]
    return (found[0] if found else None), graph


X = np.linspace(-1.0, 1.0, 12).reshape(4, 3)


def test_results_that_nobody_reads_go_with_what_only_they_needed():
    def f(x, y):
        def step(c, row):
            a, b = c
            return (a + row, b * hml.sin(y)), {"a": a, "b": b, "again": a}

        (total, _), ys = hml.scan(step, (x[0], y), x)
        return total, ys["a"], ys["again"]

    node, _ = after(f, X, X[1])
    assert (node.attrs["carried"], len(node.outputs), len(node.inputs)) == (1, 2, 2)


def test_loop_variables_that_feed_the_condition_stay():
    def f(x, y):
        return hml.while_loop(lambda i, s, t: i < 3, lambda i, s, t: (i + 1, s + x, t * 2), (0, x, y))[1]

    node, _ = after(f, X, X)
    assert node.attrs["carried"] == 2


def test_a_loop_variable_that_never_changes_is_an_invariant():
    def f(x, n):
        _, s, k = hml.while_loop(lambda i, s, k: i < k, lambda i, s, k: (i + 1, s + x, k), (0, x, n))
        return s, k

    node, _ = after(f, X, 3)
    assert node.attrs["carried"] == 2
    assert len(node.inputs) == 4


def test_branches_that_return_an_operand():
    def f(x, y):
        return hml.cond(x.sum() > 0, lambda: (x, y * 2, y), lambda: (x, y * 3, y))

    node, graph = after(f, X, X[1])
    assert len(node.outputs) == 1
    assert len(node.inputs) == 2
    assert graph.outputs[0] in graph.inputs
    node, _ = after(lambda x: hml.cond(x.sum() > 0, lambda: x, lambda: x), X)
    assert node is None


def test_work_on_invariants_leaves_the_loop():
    def f(x, w):
        return hml.scan(lambda c, row: (hml.tanh(c @ (w * 2 + 1) + row), None), x[:1], x)[0]

    node, graph = after(f, X, np.eye(3))
    inside = [n.op.name for n in node.attrs["body"].nodes]
    assert "multiply" not in inside
    assert "multiply" in [n.op.name for n in graph.nodes]


def test_work_that_may_fail_stays_in_the_loop():
    def f(x, i, n):
        return hml.while_loop(
            lambda k, s: k < n, lambda k, s: (k + 1, s + hml.take(x, i, axis=0)), (0, x[0])
        )[1]

    node, _ = after(f, X, 2, 3)
    assert "take" in [n.op.name for n in node.attrs["body"].nodes]
    out = hml.function(f)(hml.asarray(X), hml.asarray(99), hml.asarray(0))
    np.testing.assert_array_equal(out.numpy(), X[0])


def test_products_of_rows_and_of_results_leave_the_scan():
    def f(xs, w, u, out):
        def step(h, x):
            h = hml.tanh(x @ w + h @ u)
            return h, h @ out

        return hml.scan(step, xs[0], xs)[1]

    xs = np.linspace(-1, 1, 5 * 2 * 3).reshape(5, 2, 3)
    node, graph = after(f, xs, np.eye(3), np.eye(3) / 2, np.ones((3, 4)))
    assert [n.op.name for n in node.attrs["body"].nodes].count("matmul") == 1
    outside = [n.out.shape for n in graph.nodes if n.op.name == "matmul"]
    assert outside == [(10, 3), (10, 4)]
