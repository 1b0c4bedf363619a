"""Functions without rows, indexing and random numbers: traced against eager."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import TraceError
from hybridml.testing import check_traced

X = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)

FUNCTIONS = {
    "softmax": hml.nn.softmax,
    "log_softmax": hml.nn.log_softmax,
    "layer_norm": hml.nn.layer_norm,
    "gelu": hml.nn.gelu,
    "elu": hml.nn.elu,
    "silu": hml.nn.silu,
    "softplus": hml.nn.softplus,
    "cross_entropy": lambda x: hml.nn.softmax_cross_entropy(x, [4, 0, 2]),
    "binary_cross_entropy": lambda x: hml.nn.binary_cross_entropy_with_logits(x, 0.25),
    "std": lambda x: hml.std(x, axis=1),
    "einsum": lambda x: hml.einsum("ij,kj,k->ik", x, x, x[:, 0]),
    "attention": lambda x: hml.nn.softmax(hml.where(hml.tril(hml.ones((3, 3))) > 0, x @ x.T, -np.inf)) @ x,
    "tile_and_flip": lambda x: hml.flip(hml.tile(x, (2, 1)), axis=0) * hml.diagonal(x).sum(),
    "index": lambda x: x[[0, 2], ::-2] * x[1, None, 1:4] + x[:2, [1]],
    "one_hot": lambda x: hml.one_hot(hml.argmax(x, axis=1), 5) - x,
    "top_k": lambda x: hml.top_k(x, 2)[0] + hml.sort(x, axis=1)[:, :2],
    "clip": lambda x: hml.clip(x, -0.5, 0.5) * hml.cumsum(x, axis=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradient(name):
    f = FUNCTIONS[name]

    def both(x):
        return f(x), hml.grad(lambda x: hml.sin(f(x)).sum())(x)

    check_traced(both, (hml.asarray(X),), ops=100)


RANDOM = {
    "uniform": lambda: hml.random.uniform((5, 7)),
    "uniform_f64": lambda: hml.random.uniform((7,), dtype=hml.float64),
    "normal": lambda: hml.random.normal((33,), 1.0, 3.0),
    "truncated_normal": lambda: hml.random.truncated_normal((20,)),
    "randint": lambda: hml.random.randint(-3, 9, (20,)),
    "permutation": lambda: hml.random.permutation(20),
    "bernoulli": lambda: hml.random.bernoulli(0.3, (20,)),
    "categorical": lambda: hml.random.categorical(X, 4),
    "twice": lambda: hml.random.uniform((3,)) - hml.random.uniform((3,)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_gives_the_same_numbers_traced_and_new_ones_at_each_call(name):
    f = RANDOM[name]
    traced = hml.function(f)
    hml.random.seed(11)
    eager = [f().numpy(), f().numpy()]
    after = hml.random.default.state.numpy()
    hml.random.seed(11)
    for want in eager:
        np.testing.assert_allclose(traced().numpy(), want, rtol=1e-5, atol=3e-6)
    np.testing.assert_array_equal(hml.random.default.state.numpy(), after)
    assert not np.array_equal(eager[0], eager[1])


def test_a_mask_that_depends_on_values_cannot_be_traced():
    with pytest.raises(TraceError, match=r"hml\.where(.|\n)*test_traced_composites.py"):
        hml.function(lambda x: x[x > 0])(X)


def test_a_mask_known_while_tracing_can():
    mask = X[:, 0] > 0
    check_traced(lambda x: x[mask], (hml.asarray(X),))


def test_custom_gradient_inside_a_trace():
    @hml.custom_gradient
    def clipped(x):
        return x * 1, lambda g: hml.clip(g, -1, 1)

    check_traced(hml.grad(lambda x: (clipped(x) * 100).sum()), (hml.asarray(X),))
