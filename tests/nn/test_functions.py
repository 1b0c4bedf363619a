"""Functions of layers against formulas in float64, stable at the ends, with gradients; eager and traced."""

import numpy as np
import pytest
from scipy import special

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.testing import check_grads, check_traced

nn = hml.nn
RNG = np.random.default_rng(0)
X, W, B = RNG.normal(size=(3, 4)) * 2, RNG.normal(size=4), RNG.normal(size=4)
Q, K, V = RNG.normal(size=(3, 2, 5, 4))


def attend(q, k, v, scale=0.5):
    return special.softmax(q @ np.swapaxes(k, -1, -2) * scale, -1) @ v


CASES = {
    "relu6": (nn.relu6, (X * 3,), lambda x: np.clip(x, 0, 6)),
    "selu": (nn.selu, (X,), lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))),
    "softsign": (nn.softsign, (X,), lambda x: x / (1 + abs(x))),
    "hard_sigmoid": (nn.hard_sigmoid, (X,), lambda x: np.clip(x / 6 + 0.5, 0, 1)),
    "hard_silu": (nn.hard_silu, (X,), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "mish": (nn.mish, (X,), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "batch_norm": (nn.batch_norm, (X, W, B**2, W, B), lambda x, m, v, s, b: (x - m) / np.sqrt(v + 1e-3) * s + b),
    "batch_norm, bare": (nn.batch_norm, (X, W, B**2), lambda x, m, v: (x - m) / np.sqrt(v + 1e-3)),
    "rms_norm": (nn.rms_norm, (X, W), lambda x, s: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * s),
    "dropout, rate 0": (lambda x: nn.dropout(x, 0), (X,), lambda x: x),
    "attention": (nn.scaled_dot_product_attention, (Q, K, V), attend),
    "attention, scaled": (lambda *a: nn.scaled_dot_product_attention(*a, scale=2.0), (Q, K, V), lambda *a: attend(*a, 2.0)),
    "attention, more keys, causal": (
        lambda q, k, v: nn.scaled_dot_product_attention(q[:, 3:], k, v, is_causal=True), (Q, K, V),
        lambda q, k, v: np.stack([attend(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1])[:, 0] for t in (3, 4)], 1)),
    "attention, additive mask": (
        lambda q, k, v, m: nn.scaled_dot_product_attention(q, k, v, m), (Q, K, V, RNG.normal(size=(5, 5))),
        lambda q, k, v, m: special.softmax(q @ np.swapaxes(k, -1, -2) / 2 + m, -1) @ v),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_value_gradients_and_trace(case):
    f, args, reference = CASES[case]
    np.testing.assert_allclose(f(*args), reference(*args), rtol=1e-9, atol=1e-12)
    check_grads(f, args, rtol=1e-4, atol=1e-5)
    check_traced(f, args, ops=50, label=case)
    for x in args:
        assert f(*[hml.asarray(a, dtype=hml.float32) for a in args]).dtype == np.float32, x


@pytest.mark.parametrize(
    "f", [nn.relu6, nn.selu, nn.softsign, nn.hard_sigmoid, nn.hard_silu, nn.mish], ids=lambda f: f.__name__
)  # fmt: skip
def test_activations_are_stable_at_the_ends(f):
    x = hml.asarray(np.array([-1e30, -1e4, -100, 0, 100, 1e4, 1e30], np.float32))
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    assert np.isfinite(y.numpy()).all() and np.isfinite(tape.gradient(y, x).numpy()).all()
    assert np.isnan(f(hml.asarray([np.nan])).numpy()).all()


def test_half_precision_norms_do_not_overflow():
    x = hml.asarray([[300.0, 400.0]], dtype=hml.float16)
    np.testing.assert_allclose(nn.rms_norm(x), [[0.8485, 1.131]], rtol=1e-3)
    assert nn.group_norm(x, 1).dtype == np.float16 and np.isfinite(nn.group_norm(x * 100, 1).numpy()).all()


def test_a_query_that_may_look_nowhere_looks_everywhere_alike():
    mask = np.ones((5, 5), bool)
    mask[2] = False
    out = nn.scaled_dot_product_attention(Q, K, V, mask).numpy()
    np.testing.assert_allclose(out[:, 2], V.mean(1), rtol=1e-9)
    assert np.isfinite(out).all()


def test_dropout_keeps_the_mean_and_its_gradient_is_its_mask():
    x = hml.asarray(np.float32([np.inf, *[1.0] * 9999]))
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = nn.dropout(x, 0.9, generator=hml.random.Generator(0))
    assert not np.isnan(y.numpy()).any() and abs(y.numpy()[1:].mean() - 1) < 0.1
    np.testing.assert_allclose(tape.gradient(y, x).numpy()[1:], y.numpy()[1:], rtol=1e-6)
    again = nn.dropout(x, 0.9, generator=hml.random.Generator(0))
    np.testing.assert_array_equal(again, y)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: nn.dropout(X, 1.1), ValueError, r"in \[0, 1\], got 1.1"),
        (lambda: nn.group_norm(X, 3), ShapeError, r"multiple of 3; got \(3, 4\)"),
        (lambda: nn.group_norm(W, 2), ShapeError, "batch, ..., channels"),
        (
            lambda: nn.scaled_dot_product_attention(Q, K[..., :3], V),
            ShapeError,
            r"got \(2, 5, 4\), \(2, 5, 3\)",
        ),
        (lambda: nn.scaled_dot_product_attention(Q, K, V[:, :3]), ShapeError, "attention takes"),
    ],
)
def test_mistakes_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
