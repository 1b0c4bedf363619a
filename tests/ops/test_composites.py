"""Functions without rows: against formulas in float64, stable at the ends, with gradients of two orders."""

import math

import numpy as np
import pytest
from scipy import special

import hybridml as hml
from hybridml.testing import check_grads

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 5)) * 2


def norm(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


CASES = {
    "relu": (hml.nn.relu, lambda x: np.maximum(x, 0)),
    "leaky_relu": (hml.nn.leaky_relu, lambda x: np.where(x > 0, x, 0.2 * x)),
    "elu": (hml.nn.elu, lambda x: np.where(x > 0, x, np.expm1(x))),
    "softplus": (hml.nn.softplus, lambda x: np.log1p(np.exp(-abs(x))) + np.maximum(x, 0)),
    "silu": (hml.nn.silu, lambda x: x * special.expit(x)),
    "gelu": (hml.nn.gelu, lambda x: x * special.ndtr(x)),
    "gelu_tanh": (
        lambda x: hml.nn.gelu(x, approximate=True),
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "softmax": (hml.nn.softmax, lambda x: special.softmax(x, -1)),
    "softmax_0": (lambda x: hml.nn.softmax(x, axis=0), lambda x: special.softmax(x, 0)),
    "log_softmax": (hml.nn.log_softmax, lambda x: special.log_softmax(x, -1)),
    "layer_norm": (hml.nn.layer_norm, norm),
    "clip": (lambda x: hml.clip(x, -1.0, 1.5), lambda x: np.clip(x, -1, 1.5)),
    "clip_below": (lambda x: hml.clip(x, min=-1.0), lambda x: np.maximum(x, -1)),
    "mean": (lambda x: hml.mean(x, axis=1), lambda x: x.mean(1)),
    "var": (lambda x: hml.var(x, axis=0, correction=1), lambda x: x.var(0, ddof=1)),
    "std": (lambda x: hml.std(x, axis=(0, 1), keepdims=True), lambda x: x.std(keepdims=True)),
    "reciprocal": (hml.reciprocal, lambda x: 1 / x),
    "vector_norm": (lambda x: hml.linalg.vector_norm(x, axis=1), lambda x: np.linalg.norm(x, axis=1)),
    "vector_norm_3": (lambda x: hml.linalg.vector_norm(x, ord=3), lambda x: np.linalg.norm(x.ravel(), 3)),
    "vector_norm_inf": (lambda x: hml.linalg.vector_norm(x, axis=0, ord=math.inf), lambda x: abs(x).max(0)),
    "expand_dims": (lambda x: hml.expand_dims(x, axis=1), lambda x: x[:, None]),
    "squeeze": (lambda x: hml.squeeze(x[None, :, None]), lambda x: x),
    "flip": (lambda x: hml.flip(x, axis=0), lambda x: x[::-1]),
    "flip_all": (hml.flip, lambda x: x[::-1, ::-1]),
    "moveaxis": (lambda x: hml.moveaxis(x[None], (0, 1), (-1, 0)), lambda x: np.moveaxis(x[None], (0, 1), (-1, 0))),
    "swapaxes": (lambda x: hml.swapaxes(x, 0, 1), lambda x: x.T),
    "stack": (lambda x: hml.stack([x, 2 * x], axis=1), lambda x: np.stack([x, 2 * x], 1)),
    "unstack": (lambda x: hml.unstack(x, axis=1)[2], lambda x: x[:, 2]),
    "split": (lambda x: hml.split(x, [1, 3, 1], axis=1)[1], lambda x: x[:, 1:4]),
    "tile": (lambda x: hml.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3))),
    "repeat": (lambda x: hml.repeat(x, 2, axis=1), lambda x: np.repeat(x, 2, 1)),
    "repeat_each": (lambda x: hml.repeat(x, [2, 0, 1], axis=0), lambda x: np.repeat(x, [2, 0, 1], 0)),
    "diagonal": (lambda x: hml.diagonal(x, offset=1), lambda x: np.diagonal(x, 1)),
    "diagonal_below": (lambda x: hml.diagonal(x, offset=-2), lambda x: np.diagonal(x, -2)),
    "trace": (hml.linalg.trace, np.trace),
    "tril": (lambda x: hml.tril(x, k=-1), lambda x: np.tril(x, -1)),
    "triu": (lambda x: hml.triu(x, k=1), lambda x: np.triu(x, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(name):
    f, reference = CASES[name]
    got = f(hml.asarray(X))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got.numpy(), reference(X), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        f(hml.asarray(X, dtype=hml.float32)).numpy(), reference(X), rtol=3e-5, atol=1e-6
    )
    check_grads(f, (X,), order=2, rtol=1e-4, atol=1e-5)


EXTREME = np.array([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4], np.float32)
STABLE = [hml.nn.relu, hml.nn.leaky_relu, hml.nn.elu, hml.nn.softplus, hml.nn.silu, hml.nn.gelu, hml.nn.softmax,
          hml.nn.log_softmax, hml.nn.layer_norm, hml.logsumexp, hml.sigmoid, hml.tanh]  # fmt: skip


@pytest.mark.parametrize("f", STABLE, ids=lambda f: f.__name__)
def test_finite_at_the_ends_with_finite_gradients_of_two_orders(f):
    x = hml.asarray(EXTREME)
    value, first = hml.value_and_grad(lambda x: f(x).sum())(x)
    second = hml.grad(
        lambda x: hml.grad(lambda x: (f(x) * hml.arange(7.0)).sum() if f(x).ndim else f(x))(x)[3]
    )(x)
    for t in (f(x), value, first, second):
        assert np.isfinite(t.numpy()).all()


def test_gradients_at_zero():
    zero = hml.asarray(0.0)
    assert [
        float(hml.grad(f)(zero)) for f in (hml.nn.relu, hml.nn.elu, hml.nn.silu, hml.nn.softplus, abs)
    ] == [0, 1, 0.5, 0.5, 0]
    assert float(hml.grad(lambda x: x**2)(zero)) == float(hml.grad(lambda x: x**0)(zero)) == 0
    assert float(hml.grad(lambda x: x ** hml.asarray(0.0))(zero)) == 0
    assert float(hml.grad(lambda y: hml.asarray(0.0) ** y)(hml.asarray(2.0))) == 0
    inside = [
        float(hml.grad(lambda x: hml.clip(x, -1, 1))(hml.asarray(v))) for v in (-2.0, -1.0, 0.0, 1.0, 2.0)
    ]
    assert inside == [0, 1, 1, 1, 0]


def test_ties_share_the_gradient():
    x = hml.asarray([1.0, 2.0, 2.0])
    assert hml.grad(hml.max)(x).tolist() == [0, 0.5, 0.5]
    assert [float(g) for g in hml.grad(hml.maximum, argnums=(0, 1))(x[0], x[0] * 1)] == [0.5, 0.5]


def test_nan_stays_nan():
    nan = hml.asarray(float("nan"))
    for f in (
        hml.nn.relu,
        hml.nn.gelu,
        hml.nn.softplus,
        hml.sigmoid,
        lambda x: hml.clip(x, 0, 1),
        hml.logsumexp,
    ):
        assert np.isnan(float(f(nan)))


def test_clip_with_crossed_bounds_gives_the_upper():
    assert hml.clip([0.0, 5.0], 3, 1).tolist() == np.clip([0.0, 5.0], 3, 1).tolist() == [1, 1]


# cross-entropies

LABELS = np.array([4, 0, 2])


@pytest.mark.parametrize(
    "labels", [LABELS, LABELS.astype(np.uint8), np.eye(5)[LABELS]], ids=["int64", "uint8", "dense"]
)
def test_softmax_cross_entropy(labels):
    want = -special.log_softmax(X, -1)[np.arange(3), LABELS]
    np.testing.assert_allclose(hml.nn.softmax_cross_entropy(X, labels).numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(hml.nn.softmax_cross_entropy(X.T, labels.T, axis=0).numpy(), want, rtol=1e-12)
    check_grads(lambda x: hml.nn.softmax_cross_entropy(x, hml.asarray(labels)), (hml.asarray(X),), order=2)
    g = hml.grad(lambda x: hml.nn.softmax_cross_entropy(x, labels).sum())(X)
    np.testing.assert_allclose(g.numpy(), special.softmax(X, -1) - np.eye(5)[LABELS], rtol=1e-10, atol=1e-12)


def test_cross_entropies_of_huge_and_masked_logits():
    logits = hml.asarray([[1e4, 0.0, -1e4], [3e38, 0.0, 0.0], [0.0, -np.inf, 0.0]])
    value, g = hml.value_and_grad(lambda x: hml.nn.softmax_cross_entropy(x, [0, 0, 2])[0:3].sum())(logits)
    np.testing.assert_allclose(float(value), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(g.numpy(), [[0, 0, 0], [0, 0, 0], [0.5, 0, -0.5]], atol=1e-6)
    value, g = hml.value_and_grad(
        lambda x: hml.nn.binary_cross_entropy_with_logits(x, [1.0, 0.0, 1.0]).sum()
    )(hml.asarray([1e4, 1e4, -1e4]))
    assert float(value) == 2e4
    assert g.tolist() == [0, 1, -1]


def test_softmax_gradient_is_precise_for_large_logits():
    """exp(x - logsumexp(x)) in float32 would be wrong in the fourth digit."""
    x = np.array([10000.0, 10001.0, 10002.5], np.float32)
    want = special.softmax(x.astype(np.float64))
    np.testing.assert_allclose(hml.grad(hml.logsumexp)(x).numpy(), want, rtol=1e-6)
    np.testing.assert_allclose(
        hml.grad(lambda x: hml.nn.log_softmax(x)[0])(x).numpy(), [1, 0, 0] - want, rtol=1e-6
    )


def test_binary_cross_entropy():
    x, z = X.ravel(), RNG.uniform(size=15)
    want = -z * np.log(special.expit(x)) - (1 - z) * np.log(special.expit(-x))
    np.testing.assert_allclose(hml.nn.binary_cross_entropy_with_logits(x, z).numpy(), want, rtol=1e-9)
    check_grads(hml.nn.binary_cross_entropy_with_logits, (x, z), order=2)


def test_layer_norm_with_scale_and_bias():
    s, b = RNG.normal(size=5), RNG.normal(size=5)
    np.testing.assert_allclose(hml.nn.layer_norm(X, s, b).numpy(), norm(X) * s + b, rtol=1e-10)
    check_grads(hml.nn.layer_norm, (X, s, b), order=2, rtol=1e-4)


def test_half_precision_does_not_overflow_on_the_way():
    x = hml.asarray(np.full((100_000,), 3.0), dtype=hml.float16)
    assert float(hml.mean(x)) == 3.0
    big = hml.asarray(np.array([300.0, -300.0]), dtype=hml.float16)
    assert float(hml.var(big)) == np.inf  # 90000 is beyond half precision
    assert float(hml.std(big * 0.5)) == 150.0
    np.testing.assert_allclose(hml.nn.layer_norm(big).numpy(), [1, -1])


# contractions

EINSUMS = [
    ("ij,jk->ik", (2, 3), (3, 4)), ("ij,jk,kl", (2, 3), (3, 4), (4, 2)), ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("...ij,...jk", (5, 2, 3), (1, 3, 4)), ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij->j", (2, 3)), ("ijk->kji", (2, 3, 4)),
    ("i,j->ij", (2,), (3,)), ("bqhd,bkhd->bhqk", (2, 3, 4, 5), (2, 6, 4, 5)), ("iij,jk->ik", (3, 3, 2), (2, 4)),
    ("a,a,a->", (3,), (3,), (3,)), ("ij,kj->", (2, 3), (4, 3)), ("i...->...", (2, 3, 4)), ("ij , jk", (2, 3), (3, 2)),
    ("i,ij,j", (2,), (2, 3), (3,)), ("ab,bc,cd,de->ae", (2, 3), (3, 4), (4, 2), (2, 3)), ("iji->j", (2, 3, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EINSUMS], ids=[e for e, *_ in EINSUMS])
def test_einsum(equation, shapes):
    xs = [RNG.normal(size=s) for s in shapes]
    np.testing.assert_allclose(
        hml.einsum(equation, *xs).numpy(), np.einsum(equation, *xs), rtol=1e-11, atol=1e-12
    )
    check_grads(lambda *xs: hml.einsum(equation, *xs), xs, order=2)


def test_einsum_of_integers():
    a = np.arange(6).reshape(2, 3)
    got = hml.einsum("ij,kj->ik", a, a)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got.numpy(), a @ a.T)


@pytest.mark.parametrize("axes", [0, 1, 2, ((1, 2), (0, 1)), ((-1,), (-1,)), ((), ())], ids=str)
def test_tensordot(axes):
    shapes = {1: ((2, 3, 4), (4, 2)), ((-1,), (-1,)): ((2, 3, 4), (5, 4))}.get(axes, ((2, 3, 4), (3, 4, 2)))
    a, b = (RNG.normal(size=s) for s in shapes)
    np.testing.assert_allclose(hml.tensordot(a, b, axes=axes).numpy(), np.tensordot(a, b, axes), rtol=1e-11)
    check_grads(lambda a, b: hml.tensordot(a, b, axes=axes), (a, b), order=2)


def test_products_of_vectors():
    a, b = RNG.normal(size=(2, 3)), RNG.normal(size=3)
    np.testing.assert_allclose(hml.vecdot(a, b).numpy(), a @ b)
    np.testing.assert_array_equal(hml.outer(a[0], b).numpy(), np.outer(a[0], b))
    check_grads(hml.vecdot, (a, b), order=2)


def test_one_hot():
    got = hml.one_hot([[0, 2], [-1, 3]], 3)
    assert got.shape == (2, 2, 3) and got.dtype == np.float32
    np.testing.assert_array_equal(got.numpy()[0], np.eye(3)[[0, 2]])
    assert got.numpy()[1].sum() == 0
    np.testing.assert_array_equal(
        hml.one_hot([0, 2], 3, axis=0, dtype=hml.int8).numpy(), np.eye(3, dtype=np.int8)[[0, 2]].T
    )
