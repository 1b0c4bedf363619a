"""Losses: how far predictions are from targets, one number an example, reduced to one number. Names and arguments are those of Keras.

Each class is a formula over the last axis (`call(y_true, y_pred)`), written so that no finite input overflows, and left to the compiler to
fuse. `hml.losses.get("mse")` finds one by name.

>>> import hybridml as hml
>>> loss = hml.losses.SparseCategoricalCrossentropy(from_logits=True)
>>> round(float(loss([1, 0], [[0.0, 2.0], [3.0, 0.0]])), 4)
0.0878
"""

from __future__ import annotations

import math
import re
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError

REDUCTIONS = ("mean", "sum", "none", None)
ALIASES = {
    "mse": "mean_squared_error", "mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error", "bce": "binary_crossentropy", "kld": "kl_divergence", "logcosh": "log_cosh",
}  # fmt: skip


class Loss:
    """The base: subclasses define `call(y_true, y_pred)`, one loss an example.

    reduction: "mean" over all examples, "sum", or "none" for the losses themselves.
    Called with (y_true, y_pred, sample_weight=None); weights broadcast against the losses, and "mean" still divides by their number.
    """

    def __init__(self, reduction: str | None = "mean", *, name: str | None = None) -> None:
        reduction = "mean" if reduction == "sum_over_batch_size" else reduction
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
        self.reduction, self.name = reduction, name or snake_case(type(self).__name__)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define call(self, y_true, y_pred)")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        losses = hml.traced_form(self.call)(hml.asarray(y_true), hml.asarray(y_pred))
        if sample_weight is not None:
            weight = hml.astype(sample_weight, losses.dtype)
            if weight.ndim == losses.ndim + 1 and weight.shape[-1] == 1:
                weight = hml.squeeze(weight, axis=-1)
            losses = losses * weight
        if self.reduction == "mean":
            return hml.mean(losses)
        return hml.sum(losses) if self.reduction == "sum" else losses

    def __repr__(self) -> str:
        given = ", ".join([f"{k}={v!r}" for k, v in vars(self).items() if k != "name"])
        return f"{type(self).__name__}({given})"


def snake_case(name: str) -> str:
    """
    >>> snake_case("KLDivergence"), snake_case("MeanSquaredError")
    ('kl_divergence', 'mean_squared_error')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def paired(loss: Loss, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Targets in the predictions' dtype and, where one has a last axis of 1 that the other lacks, in their shape."""
    if y_true.ndim + 1 == y_pred.ndim and y_pred.shape[-1] == 1:
        y_true = hml.expand_dims(y_true, axis=-1)
    elif y_pred.ndim + 1 == y_true.ndim and y_true.shape[-1] == 1:
        y_true = hml.squeeze(y_true, axis=-1)
    if y_true.shape != y_pred.shape:
        raise ShapeError(
            f"{loss.name}: targets of shape {y_true.shape} for predictions of shape {y_pred.shape}: they must be equal"
        )
    return hml.astype(y_true, y_pred.dtype), y_pred


def clipped(p: Any) -> Any:
    """Probabilities away from 0 and 1, whose logarithms are infinite."""
    limits = hml.finfo(p.dtype)
    tiny = float(limits.eps) if limits.bits == 16 else 1e-7  # 1 - tiny must be less than 1
    return hml.clip(p, tiny, 1 - tiny)


class _Elementwise(Loss):
    """The mean over the last axis of a function of target and prediction."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        terms = self.term(*paired(self, y_true, y_pred))
        return hml.mean(terms, axis=-1) if terms.ndim else terms

    def term(self, t: Any, p: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define term(self, t, p)")


class MeanSquaredError(_Elementwise):
    """(t - p)**2."""

    def term(self, t: Any, p: Any) -> Any:
        e = p - t
        return e * e


class MeanAbsoluteError(_Elementwise):
    """|t - p|."""

    def term(self, t: Any, p: Any) -> Any:
        return hml.abs(p - t)


class MeanAbsolutePercentageError(_Elementwise):
    """100 |t - p| / |t|."""

    def term(self, t: Any, p: Any) -> Any:
        return 100 * hml.abs(p - t) / hml.maximum(hml.abs(t), 1e-7)


class MeanSquaredLogarithmicError(_Elementwise):
    """(log(1 + t) - log(1 + p))**2; what is negative counts as 0."""

    def term(self, t: Any, p: Any) -> Any:
        e = hml.log1p(hml.maximum(p, 1e-7)) - hml.log1p(hml.maximum(t, 1e-7))
        return e * e


class Huber(_Elementwise):
    """Half the square of a small error, linear beyond `delta` (Huber, 1964)."""

    def __init__(
        self, delta: float = 1.0, reduction: str | None = "mean", *, name: str | None = None
    ) -> None:
        super().__init__(reduction, name=name)
        self.delta = delta

    def term(self, t: Any, p: Any) -> Any:
        size = hml.abs(p - t)
        small = hml.minimum(size, self.delta)
        return small * (size - small / 2)


class LogCosh(_Elementwise):
    """log(cosh(p - t)): the square of a small error, linear in a large one."""

    def term(self, t: Any, p: Any) -> Any:
        e = p - t
        return e + hml.nn.softplus(-2 * e) - math.log(2)


class Poisson(_Elementwise):
    """p - t log(p): the counts t are drawn from Poisson distributions of mean p."""

    def term(self, t: Any, p: Any) -> Any:
        return p - t * hml.log(p + 1e-7)


class Hinge(_Elementwise):
    """max(1 - t p, 0); targets are -1 and 1, or 0 and 1, which are taken for those."""

    def term(self, t: Any, p: Any) -> Any:
        return hml.maximum(1 - _signs(t) * p, 0)


class SquaredHinge(_Elementwise):
    """max(1 - t p, 0)**2; targets as for Hinge."""

    def term(self, t: Any, p: Any) -> Any:
        e = hml.maximum(1 - _signs(t) * p, 0)
        return e * e


def _signs(t: Any) -> Any:
    """Targets of 0 and 1 become -1 and 1, if there are no others."""
    binary = hml.all(hml.logical_or(hml.equal(t, 0), hml.equal(t, 1)))
    return hml.where(binary, 2 * t - 1, t)


class BinaryCrossentropy(_Elementwise):
    """-t log(p) - (1 - t) log(1 - p), of probabilities or, better, logits. label_smoothing moves targets towards one half."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        reduction: str | None = "mean",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name=name)
        self.from_logits, self.label_smoothing = from_logits, _smoothing(label_smoothing)

    def term(self, t: Any, p: Any) -> Any:
        if self.label_smoothing:
            t = t * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.from_logits:
            return hml.nn.binary_cross_entropy_with_logits(p, t)
        p = clipped(p)
        return -(t * hml.log(p) + (1 - t) * hml.log(1 - p))


def _smoothing(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {value!r}")
    return value


class CategoricalCrossentropy(Loss):
    """-sum(t log(p)) over the classes on `axis`, targets and predictions being probabilities; or predictions logits."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "mean",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name=name)
        self.from_logits, self.label_smoothing, self.axis = from_logits, _smoothing(label_smoothing), axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        t, p = paired(self, y_true, y_pred)
        if self.label_smoothing:
            t = t * (1 - self.label_smoothing) + self.label_smoothing / p.shape[self.axis]
        if self.from_logits:
            return hml.nn.softmax_cross_entropy(p, t, axis=self.axis)
        p = clipped(p / hml.sum(p, axis=self.axis, keepdims=True))
        return -hml.sum(t * hml.log(p), axis=self.axis)


class SparseCategoricalCrossentropy(Loss):
    """-log(p[label]) for integer labels of the predictions' shape without the class axis (or with 1 in its place).

    ignore_class: a label whose examples count nothing; they count in the mean's number, as in Keras.
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
        reduction: str | None = "mean",
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction, name=name)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if y_true.ndim == y_pred.ndim and y_true.shape[self.axis] == 1:
            y_true = hml.squeeze(y_true, axis=self.axis)
        labels = hml.astype(y_true, hml.int64) if hml.isdtype(y_true.dtype, "real floating") else y_true
        logits = y_pred
        if not self.from_logits:
            logits = hml.log(clipped(y_pred / hml.sum(y_pred, axis=self.axis, keepdims=True)))
        if self.ignore_class is None:
            return self._each(logits, labels)
        ignored = hml.equal(labels, self.ignore_class)
        return hml.where(ignored, 0, self._each(logits, hml.where(ignored, 0, labels)))

    def _each(self, logits: Any, labels: Any) -> Any:
        if self.from_logits:
            return hml.nn.softmax_cross_entropy(logits, labels, axis=self.axis)
        axis = self.axis % logits.ndim
        picked = hml.take_along_axis(logits, hml.expand_dims(labels, axis=axis), axis=axis)
        return -hml.squeeze(picked, axis=axis)


class KLDivergence(Loss):
    """sum(t log(t / p)) over the last axis, both being probabilities (Kullback and Leibler, 1951)."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        t, p = (hml.clip(x, 1e-7, 1) for x in paired(self, y_true, y_pred))
        return hml.sum(t * hml.log(t / p), axis=-1)


class CosineSimilarity(Loss):
    """Minus the cosine of the angle between target and prediction along `axis`: -1 where they point the same way."""

    def __init__(self, axis: int = -1, reduction: str | None = "mean", *, name: str | None = None) -> None:
        super().__init__(reduction, name=name)
        self.axis = axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        t, p = paired(self, y_true, y_pred)
        return -hml.sum(self._unit(t) * self._unit(p), axis=self.axis)

    def _unit(self, x: Any) -> Any:
        square = hml.sum(x * x, axis=self.axis, keepdims=True)
        return x / hml.sqrt(hml.maximum(square, 1e-12))


class CategoricalHinge(Loss):
    """max(1 + the largest wrong prediction - the right one, 0) over the last axis; targets are one-hot."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        t, p = paired(self, y_true, y_pred)
        right = hml.sum(t * p, axis=-1)
        wrong = hml.max((1 - t) * p, axis=-1)
        return hml.maximum(wrong - right + 1, 0)


CLASSES: dict[str, type[Loss]] = {
    snake_case(c.__name__): c
    for c in (
        MeanSquaredError, MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredLogarithmicError, Huber, LogCosh, Poisson, Hinge,
        SquaredHinge, BinaryCrossentropy, CategoricalCrossentropy, SparseCategoricalCrossentropy, KLDivergence, CosineSimilarity,
        CategoricalHinge,
    )
}  # fmt: skip


def get(loss: Any) -> Any:
    """A loss from its name or class; a function of (y_true, y_pred) is itself. Raises ValueError for a name that is none.

    >>> get("mse"), get("sparse_categorical_crossentropy").from_logits
    (MeanSquaredError(reduction='mean'), False)
    """
    if isinstance(loss, str):
        name = ALIASES.get(loss, loss)
        if name not in CLASSES:
            raise ValueError(f"no loss is called {loss!r}; there are {', '.join([*CLASSES, *ALIASES])}")
        return CLASSES[name]()
    if isinstance(loss, type) and issubclass(loss, Loss):
        return loss()
    if not callable(loss):
        raise TypeError(f"a loss is a name, a class or a function of (y_true, y_pred), got {loss!r}")
    return loss
