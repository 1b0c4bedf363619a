"""Functions of neural networks, written in other ops; the compiler makes them fast by fusing them.

All are stable: no finite input overflows on the way to a finite result, and gradients stay finite.
"""

from __future__ import annotations

import math
from typing import Any

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops.door import beside, lift
from hybridml.ops.elementwise import equal, greater, less_equal, where
from hybridml.ops.halves import computed_in_single
from hybridml.ops.identity import stop_gradient
from hybridml.ops.reductions import max as max_
from hybridml.ops.reductions import sum as sum_
from hybridml.ops.registry import composite
from hybridml.ops.spec import normalize_axis
from hybridml.ops.standardize import standardize
from hybridml.ops.statistics import iota, logsumexp
from hybridml.ops.transcendental import erf, exp, expm1, log, logaddexp, sigmoid, tanh
from hybridml.ops.view import expand_dims

# Activations


@composite(namespace="nn")
def relu(x: Any, /) -> Any:
    """max(x, 0), with gradient 0 at 0; NaN stays NaN.

    >>> import hybridml as hml
    >>> hml.nn.relu([-1., 2.]).tolist()
    [0.0, 2.0]
    """
    x = lift(x)
    return where(less_equal(x, 0), 0, x)


@composite(namespace="nn")
def leaky_relu(x: Any, /, negative_slope: float = 0.2) -> Any:
    """x where positive, else negative_slope * x.

    >>> import hybridml as hml
    >>> hml.nn.leaky_relu([-1., 2.], 0.5).tolist()
    [-0.5, 2.0]
    """
    x = lift(x)
    return where(greater(x, 0), x, x * negative_slope)


@composite(namespace="nn")
def elu(x: Any, /, alpha: float = 1.0) -> Any:
    """x where positive, else alpha * (exp(x) - 1).

    >>> import hybridml as hml
    >>> hml.nn.elu([float("-inf"), 2.]).tolist()
    [-1.0, 2.0]
    """
    x = lift(x)
    positive = greater(x, 0)
    return where(positive, x, expm1(where(positive, 0, x)) * alpha)  # so that no large x meets expm1


@composite(namespace="nn")
def softplus(x: Any, /) -> Any:
    """log(1 + exp(x)), a smooth relu.

    >>> import hybridml as hml
    >>> hml.nn.softplus([-1000., 1000.]).tolist()
    [0.0, 1000.0]
    """
    return logaddexp(x, 0)


@composite(namespace="nn")
def silu(x: Any, /) -> Any:
    """x * sigmoid(x), also called swish.

    >>> import hybridml as hml
    >>> hml.nn.silu([-1000., 0., 1000.]).tolist()
    [-0.0, 0.0, 1000.0]
    """
    x = lift(x)
    return x * sigmoid(x)


@composite(namespace="nn")
def gelu(x: Any, /, approximate: bool = False) -> Any:
    """x * P(Z <= x) for a standard normal Z; `approximate` uses tanh in place of erf.

    >>> import hybridml as hml
    >>> hml.nn.gelu([-1000., 0., 1000.]).tolist()
    [-0.0, 0.0, 1000.0]
    """
    x = lift(x)
    if approximate:
        return x * 0.5 * (tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)
    return x * 0.5 * (erf(x * math.sqrt(0.5)) + 1)


# Normalisations


@composite(namespace="nn")
def softmax(x: Any, /, axis: int | tuple[int, ...] = -1) -> Any:
    """exp(x) / sum(exp(x)) over `axis`.

    >>> import hybridml as hml
    >>> hml.nn.softmax([1e4, 1e4]).tolist()
    [0.5, 0.5]
    """
    x = lift(x)
    e = exp(x - stop_gradient(max_(x, axis=axis, keepdims=True)))
    return e / sum_(e, axis=axis, keepdims=True)


@composite(namespace="nn")
def log_softmax(x: Any, /, axis: int | tuple[int, ...] = -1) -> Any:
    """The logarithm of softmax, precise where softmax is nearly 0.

    >>> import hybridml as hml
    >>> hml.nn.log_softmax([1e4, 0.]).tolist()
    [0.0, -10000.0]
    """
    x = lift(x)
    shifted = x - stop_gradient(max_(x, axis=axis, keepdims=True))
    return shifted - log(sum_(exp(shifted), axis=axis, keepdims=True))


@composite(namespace="nn")
@computed_in_single
def layer_norm(
    x: Any, scale: Any = None, bias: Any = None, /, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-5
) -> Any:
    """x less its mean over `axis`, over its standard deviation, times `scale` plus `bias` (which broadcast against x).

    >>> import hybridml as hml
    >>> hml.nn.layer_norm([1., 3.], epsilon=0.0).tolist()
    [-1.0, 1.0]
    """
    x = lift(x)
    out = standardize(x, axis, epsilon)
    out = out if scale is None else out * scale
    return out if bias is None else out + bias


# Cross-entropies: one loss an example, from logits


@composite(namespace="nn")
def softmax_cross_entropy(logits: Any, labels: Any, /, axis: int = -1) -> Any:
    """-log softmax(logits)[label] for each example, without the class axis.

    labels: integers of the logits' shape without `axis`, or probabilities of the logits' shape. Raises ShapeError otherwise.

    >>> import hybridml as hml
    >>> hml.nn.softmax_cross_entropy([[0., 1e4]], [1]).tolist()
    [0.0]
    """
    logits = lift(logits, labels)
    labels = lift(labels, logits)
    axis = normalize_axis(axis, logits.ndim)
    if dtypes.is_float(labels.dtype):
        if labels.shape != logits.shape:
            raise ShapeError(
                f"probabilities of shape {labels.shape} for logits of shape {logits.shape}: they must be equal"
            )
        return -sum_(labels * log_softmax(logits, axis), axis=axis)
    if labels.shape != (*logits.shape[:axis], *logits.shape[axis + 1 :]):
        raise ShapeError(
            f"integer labels of shape {labels.shape} for logits of shape {logits.shape} with classes on axis {axis}"
        )
    line = tuple([d if i == axis else 1 for i, d in enumerate(logits.shape)])
    with beside(logits):
        classes = iota(line, axis, labels.dtype)
    hit = equal(classes, expand_dims(labels, axis=axis))
    return logsumexp(logits, axis=axis) - sum_(where(hit, logits, 0), axis=axis)


@composite(namespace="nn")
def binary_cross_entropy_with_logits(logits: Any, labels: Any, /) -> Any:
    """-label * log sigmoid(logit) - (1 - label) * log(1 - sigmoid(logit)), elementwise.

    >>> import hybridml as hml
    >>> hml.nn.binary_cross_entropy_with_logits([1e4, 1e4], [1., 0.]).tolist()
    [0.0, 10000.0]
    """
    logits = lift(logits)
    return softplus(logits) - logits * labels
