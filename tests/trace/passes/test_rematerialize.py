"""Cheap values are made again on the other side of a matrix product, and nothing else is."""

import numpy as np
from graphs import check_pass, count, trace_of

import hybridml as hml
from hybridml.trace.passes import dce, rematerialize

X, W = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4), np.eye(4, dtype=np.float32) * 0.5


def after(f, *args, variables=()):
    """The graph after the pass, which must keep its meaning, and the one before."""
    graph = trace_of(f, *args)
    return dce(check_pass(rematerialize, graph, list(args), list(variables))), graph


def test_a_scaled_value_is_not_kept_across_a_product():
    new, old = after(lambda x, w: hml.tanh((s := hml.tanh(x) * 2.0) @ w) * hml.exp(s), X, W)
    assert new.nodes == old.nodes  # the product reads it too: it is in memory anyway

    def f(x, w):
        z = hml.tanh(x)
        half = z * 0.5
        return (hml.exp(half) @ w) * half * half

    new, old = after(f, X, W)
    assert count(new, "multiply") == count(old, "multiply") + 1  # once for both its readers
    made = new.producers()
    far = next(n for n in new.nodes if n.op.name == "multiply" and 0.5 in n.inputs and new.nodes.index(n) > 2)
    assert made[far.values[0]].op.name == "tanh"


def test_the_gradient_of_gelu_keeps_two_arrays():
    def step(x, w):
        return hml.value_and_grad(lambda x: hml.sum(hml.tanh(hml.nn.gelu(x @ w) @ w)))(x)

    old = hml.function(step).get_concrete_function(hml.asarray(X), hml.asarray(W)).optimized
    products = [i for i, n in enumerate(old.nodes) if n.op.name == "matmul"]
    before, behind = old.nodes[: products[-2]], old.nodes[products[-2] + 1 :]
    made = {v for n in before for v in n.outputs if v.shape == X.shape}
    kept = {v for n in behind for v in n.values if v in made}
    assert len(kept) == 2  # the product, and 1 + erf


def test_what_costs_more_stays():
    for g in (
        hml.exp,
        hml.tanh,
        lambda z: z + z[:1],
        lambda z: hml.astype(z, "float64"),
        lambda z: hml.where(z > 0, z, 0.0),
    ):

        def f(x, w, g=g):
            y = g(hml.sin(x))
            return (hml.cos(y) @ hml.astype(w, y.dtype)) * y

        new, old = after(f, X, W)
        assert len(new.nodes) == len(old.nodes)


def test_a_variable_is_not_read_later_than_before():
    v = hml.Variable(X)

    def f(x, w):
        half = v * 0.5
        y = (hml.exp(half) @ w) * half
        v.assign(x)
        return y

    graph = trace_of(f, X, W)
    assert rematerialize(graph).nodes == graph.nodes


def test_results_are_made_once():
    def f(x, w):
        half = hml.tanh(x) * 0.5
        return half, (hml.exp(half) @ w) * half

    new, old = after(f, X, W)
    assert new.nodes == old.nodes
