"""Losses against formulas in float64, stable at the ends, with gradients, reductions and weights, eager and traced."""

import numpy as np
import pytest
from scipy import special

import hybridml as hml
from hybridml.errors import ShapeError
from hybridml.testing import check_grads, check_traced

L = hml.losses
RNG = np.random.default_rng(0)
T, P = RNG.normal(size=(2, 6, 4)) + 0.3
PROBABILITIES, TARGETS = (special.softmax(RNG.normal(size=(6, 4)), -1) for _ in range(2))
BITS = RNG.integers(0, 2, (6, 4)).astype(float)
ONE_HOT, LABELS = np.eye(4)[RNG.integers(0, 4, 6)], RNG.integers(0, 4, 6)


def cross_entropy(t, p):
    return -(t * np.log(p)).sum(-1)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def smooth(t, a, n):
    return t * (1 - a) + a / n


CASES = {
    "mean_squared_error": (L.MeanSquaredError, {}, T, P, lambda t, p: ((t - p) ** 2).mean(-1)),
    "mean_absolute_error": (L.MeanAbsoluteError, {}, T, P, lambda t, p: abs(t - p).mean(-1)),
    "mean_absolute_percentage_error": (L.MeanAbsolutePercentageError, {}, T, P, lambda t, p: (100 * abs((t - p) / t)).mean(-1)),
    "mean_squared_logarithmic_error": (
        L.MeanSquaredLogarithmicError, {}, abs(T), abs(P), lambda t, p: ((np.log1p(t) - np.log1p(p)) ** 2).mean(-1)),
    "huber": (L.Huber, {"delta": 0.7}, T, P,
              lambda t, p: np.where(abs(t - p) <= 0.7, (t - p) ** 2 / 2, 0.7 * abs(t - p) - 0.7**2 / 2).mean(-1)),
    "log_cosh": (L.LogCosh, {}, T, P, lambda t, p: np.log(np.cosh(t - p)).mean(-1)),
    "poisson": (L.Poisson, {}, BITS * 3, abs(P), lambda t, p: (p - t * np.log(p + 1e-7)).mean(-1)),
    "hinge of 0 and 1": (L.Hinge, {}, BITS, P, lambda t, p: np.maximum(1 - (2 * t - 1) * p, 0).mean(-1)),
    "hinge of -1 and 1": (L.Hinge, {}, 2 * BITS - 1, P, lambda t, p: np.maximum(1 - t * p, 0).mean(-1)),
    "squared_hinge": (L.SquaredHinge, {}, BITS, P, lambda t, p: (np.maximum(1 - (2 * t - 1) * p, 0) ** 2).mean(-1)),
    "binary_crossentropy": (L.BinaryCrossentropy, {}, BITS, PROBABILITIES,
                            lambda t, p: -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)),
    "binary_crossentropy of logits": (
        L.BinaryCrossentropy, {"from_logits": True, "label_smoothing": 0.2}, BITS, P,
        lambda t, p: -(smooth(t, 0.2, 2) * special.log_expit(p) + (1 - smooth(t, 0.2, 2)) * special.log_expit(-p)).mean(-1)),
    "categorical_crossentropy": (L.CategoricalCrossentropy, {}, TARGETS, PROBABILITIES, cross_entropy),
    "categorical_crossentropy, smoothed": (L.CategoricalCrossentropy, {"label_smoothing": 0.1}, ONE_HOT, PROBABILITIES,
                                           lambda t, p: cross_entropy(smooth(t, 0.1, 4), p)),
    "categorical_crossentropy of logits": (L.CategoricalCrossentropy, {"from_logits": True}, TARGETS, P,
                                           lambda t, p: cross_entropy(t, special.softmax(p, -1))),
    "categorical_crossentropy, axis 0": (L.CategoricalCrossentropy, {"from_logits": True, "axis": 0}, TARGETS, P,
                                         lambda t, p: -(t * special.log_softmax(p, 0)).sum(0)),
    "sparse_categorical_crossentropy": (L.SparseCategoricalCrossentropy, {}, LABELS, PROBABILITIES,
                                        lambda t, p: -np.log(p[np.arange(6), t])),
    "sparse_categorical_crossentropy of logits": (
        L.SparseCategoricalCrossentropy, {"from_logits": True}, LABELS, P,
        lambda t, p: -special.log_softmax(p, -1)[np.arange(6), t]),
    "sparse_categorical_crossentropy, ignoring": (
        L.SparseCategoricalCrossentropy, {"from_logits": True, "ignore_class": 2}, LABELS, P,
        lambda t, p: np.where(t == 2, 0, -special.log_softmax(p, -1)[np.arange(6), t])),
    "kl_divergence": (L.KLDivergence, {}, TARGETS, PROBABILITIES, lambda t, p: (t * np.log(t / p)).sum(-1)),
    "cosine_similarity": (L.CosineSimilarity, {}, T, P, lambda t, p: -(unit(t) * unit(p)).sum(-1)),
    "categorical_hinge": (L.CategoricalHinge, {}, ONE_HOT, P,
                          lambda t, p: np.maximum(((1 - t) * p).max(-1) - (t * p).sum(-1) + 1, 0)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_value_reductions_weights_and_gradients(case):
    cls, options, t, p, reference = CASES[case]
    want = reference(t, p)
    weights = np.linspace(0, 2, len(want))
    for reduction, reduce in (("none", lambda x: x), ("sum", np.sum), ("mean", np.mean)):
        loss = cls(**options, reduction=reduction)
        np.testing.assert_allclose(loss(t, p), reduce(want), rtol=1e-9)
        np.testing.assert_allclose(loss(t, p, sample_weight=weights), reduce(want * weights), rtol=1e-9)
        np.testing.assert_allclose(loss(t, p, weights[:, None]), reduce(want * weights), rtol=1e-9)
    check_grads(lambda p: cls(**options)(t, p), (p,), rtol=1e-4)
    p32 = hml.asarray(p, dtype=hml.float32)
    check_traced(
        lambda p: cls(**options)(t.astype(np.float32) if t.dtype.kind == "f" else t, p), (p32,), ops=40
    )


def test_every_class_has_a_case_and_a_name():
    assert {c for c, *_ in CASES.values()} == set(L.CLASSES.values())
    for name, cls in L.CLASSES.items():
        assert type(L.get(name)) is cls and L.get(cls).name == name
    assert type(L.get("mse")) is L.MeanSquaredError and L.get(np.dot) is np.dot
    with pytest.raises(ValueError, match="no loss is called 'mean_square'"):
        L.get("mean_square")
    with pytest.raises(TypeError, match="a loss is a name"):
        L.get(3)


EXTREMES = np.float32([[1e4, -1e4, 0, 3e38], [-3e38, 1e4, 1e4, -50]])


@pytest.mark.parametrize(
    ("loss", "t"),
    [
        (L.BinaryCrossentropy(from_logits=True), np.float32([[1, 0, 1, 1], [0, 0, 1, 0]])),
        (L.CategoricalCrossentropy(from_logits=True), np.float32([[1, 0, 0, 0], [0, 0, 0.5, 0.5]])),
        (L.SparseCategoricalCrossentropy(from_logits=True), np.array([0, 3])),
        (L.LogCosh(), np.float32(np.zeros((2, 4)))),
        (L.Huber(), np.float32(np.zeros((2, 4)))),
    ],
    ids=lambda x: getattr(x, "name", ""),
)  # fmt: skip
def test_no_finite_input_gives_nan(loss, t):
    p = hml.asarray(EXTREMES if "hub" not in loss.name and "cosh" not in loss.name else EXTREMES / 1e3)
    with hml.GradientTape() as tape:
        tape.watch(p)
        value = loss(t, p)
    assert np.isfinite(value.numpy()) and np.isfinite(tape.gradient(value, p).numpy()).all()


@pytest.mark.parametrize(
    "loss", [L.BinaryCrossentropy(), L.CategoricalCrossentropy(), L.KLDivergence(), L.Poisson()], ids=lambda x: x.name
)  # fmt: skip
def test_certain_and_wrong_probabilities_cost_much_but_not_infinitely(loss):
    p, t = hml.asarray([[0.0, 1.0]]), np.float32([[1, 0]])
    with hml.GradientTape() as tape:
        tape.watch(p)
        value = loss(t, p)
    assert 5 < float(value) < 1e3 and np.isfinite(tape.gradient(value, p).numpy()).all()


def test_targets_may_lack_or_have_a_last_axis_of_one():
    p = hml.asarray(P[:, :1])
    want = float(((T[:, 0] - P[:, 0]) ** 2).mean())
    for t in (T[:, 0], T[:, :1]):
        assert float(L.MeanSquaredError()(t, p)) == pytest.approx(want)
    assert float(L.MeanSquaredError()(T[:, :1], P[:, 0])) == pytest.approx(want)
    sparse = L.SparseCategoricalCrossentropy(from_logits=True)
    assert (
        float(sparse(LABELS[:, None], P))
        == float(sparse(LABELS.astype(float), P))
        == float(sparse(LABELS, P))
    )
    with pytest.raises(
        ShapeError, match=r"mean_squared_error: targets of shape \(6, 4\) for predictions of shape \(6, 3\)"
    ):
        L.MeanSquaredError()(T, P[:, :3])


def test_a_users_loss_with_control_flow():
    class Mine(L.Loss):
        def call(self, t, p):
            if hml.max(hml.abs(p)) > 100:
                return hml.abs(p - t)
            return (p - t) ** 2

    loss = Mine(reduction="sum")
    for p in (P, P * 1000):
        check_traced(lambda p: loss(T, p), (hml.asarray(p),), ops=20)
    with pytest.raises(ValueError, match="reduction must be"):
        Mine("average")
