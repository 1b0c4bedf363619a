"""Functions of layers, written in public operations: normalisation, dropout, embedding, attention, and lesser-used activations."""

from __future__ import annotations

import math
from typing import Any

import hybridml as hml
from hybridml.errors import ShapeError

# Activations


def relu6(x: Any, /) -> Any:
    """min(max(x, 0), 6).

    >>> import hybridml as hml
    >>> hml.nn.relu6([-1., 2., 9.]).tolist()
    [0.0, 2.0, 6.0]
    """
    return hml.clip(hml.asarray(x), 0, 6)


def selu(x: Any, /) -> Any:
    """elu scaled so that activations keep mean 0 and variance 1 (Klambauer et al., "Self-Normalizing Neural Networks", 2017).

    >>> import hybridml as hml
    >>> hml.nn.selu([0., 1.]).tolist()
    [0.0, 1.0507010221481323]
    """
    return hml.nn.elu(x, alpha=1.6732632423543772) * 1.0507009873554805


def softsign(x: Any, /) -> Any:
    """x / (1 + |x|).

    >>> import hybridml as hml
    >>> hml.nn.softsign([-1., 3.]).tolist()
    [-0.5, 0.75]
    """
    x = hml.asarray(x)
    return x / (hml.abs(x) + 1)


def hard_sigmoid(x: Any, /) -> Any:
    """min(max(x / 6 + 0.5, 0), 1), a cheap sigmoid.

    >>> import hybridml as hml
    >>> hml.nn.hard_sigmoid([-9., 0., 9.]).tolist()
    [0.0, 0.5, 1.0]
    """
    return hml.clip(hml.divide(x, 6) + 0.5, 0, 1)


def hard_silu(x: Any, /) -> Any:
    """x * hard_sigmoid(x), also called hard swish.

    >>> import hybridml as hml
    >>> hml.nn.hard_silu([-9., 0., 9.]).tolist()
    [-0.0, 0.0, 9.0]
    """
    x = hml.asarray(x)
    return x * hard_sigmoid(x)


def mish(x: Any, /) -> Any:
    """x * tanh(softplus(x)).

    >>> import hybridml as hml
    >>> hml.nn.mish([-1000., 0., 1000.]).tolist()
    [-0.0, 0.0, 1000.0]
    """
    x = hml.asarray(x)
    return x * hml.tanh(hml.nn.softplus(x))


# Normalisation


def batch_norm(
    x: Any,
    mean: Any,
    variance: Any,
    scale: Any = None,
    bias: Any = None,
    /,
    epsilon: float = 1e-3,
) -> Any:
    """(x - mean) / sqrt(variance + epsilon), times `scale` plus `bias`. All broadcast against x, so channels come last.

    >>> import hybridml as hml
    >>> hml.nn.batch_norm([[1., 5.]], [0., 3.], [1., 4.], epsilon=0.0).tolist()
    [[1.0, 1.0]]
    """
    factor = hml.reciprocal(hml.sqrt(hml.add(variance, epsilon)))
    factor = factor if scale is None else factor * scale
    out = hml.subtract(x, mean) * factor
    return out if bias is None else out + bias


def group_norm(x: Any, groups: int, scale: Any = None, bias: Any = None, /, epsilon: float = 1e-3) -> Any:
    """Each example's channels (the last axis) in `groups` groups, each with mean 0 and variance 1, times `scale` plus `bias`.

    x: at least 2 dimensions, the batch first. Raises ShapeError if the channels cannot be divided evenly.

    >>> import hybridml as hml
    >>> hml.nn.group_norm([[1., 3., 10., 30.]], 2, epsilon=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    x = hml.asarray(x)
    if x.ndim < 2 or groups < 1 or x.shape[-1] % groups:
        raise ShapeError(
            f"group_norm with {groups} groups needs (batch, ..., channels), the channels a multiple of {groups}; got {x.shape}"
        )
    split = hml.reshape(x, (*x.shape[:-1], groups, x.shape[-1] // groups))
    axes = (*range(1, x.ndim - 1), x.ndim)
    out = hml.reshape(hml.nn.layer_norm(split, axis=axes, epsilon=epsilon), x.shape)
    out = out if scale is None else out * scale
    return out if bias is None else out + bias


def rms_norm(x: Any, scale: Any = None, /, axis: int = -1, epsilon: float = 1e-6) -> Any:
    """x over the root of its mean square along `axis`, times `scale` (Zhang and Sennrich, 2019).

    >>> import hybridml as hml
    >>> hml.nn.rms_norm([3., 3.], epsilon=0.0).tolist()
    [1.0, 1.0]
    """
    x = hml.asarray(x)
    if hml.isdtype(
        x.dtype, (hml.float16, hml.bfloat16)
    ):  # squares are not for few digits, and in float16 overflow beyond 255
        return hml.astype(rms_norm(hml.astype(x, hml.float32), scale, axis, epsilon), x.dtype)
    out = x * hml.reciprocal(hml.sqrt(hml.mean(x * x, axis=axis, keepdims=True) + epsilon))
    return out if scale is None else out * scale


def dropout(x: Any, /, rate: float = 0.5, *, noise_shape: Any = None, generator: Any = None) -> Any:
    """Each element 0 with probability `rate`, else divided by 1 - rate; other elements at each call, traced or not.

    noise_shape: a shape that broadcasts to x's, for elements that go together. generator: a `hml.random.Generator`, else the
    default one. Raises ValueError unless 0 <= rate <= 1.

    >>> import hybridml as hml
    >>> sorted(set(hml.nn.dropout(hml.ones(100), 0.5).tolist()))
    [0.0, 2.0]
    """
    x = hml.asarray(x)
    if not 0 <= rate <= 1:
        raise ValueError(f"a dropout rate is in [0, 1], got {rate!r}")
    if rate == 0:
        return x
    if rate == 1:
        return hml.where(hml.zeros((), dtype=hml.bool), x, 0)
    draw = generator.uniform if generator is not None else hml.random.uniform
    kept = draw(x.shape if noise_shape is None else noise_shape) >= rate
    return hml.where(kept, x * (1 / (1 - rate)), 0)


def embedding_lookup(table: Any, ids: Any, /) -> Any:
    """Rows of `table` (entries, size) at integer `ids` of any shape: shape (*ids.shape, size).

    >>> import hybridml as hml
    >>> hml.nn.embedding_lookup([[1., 2.], [3., 4.]], [1, 0, 1]).tolist()
    [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]
    """
    return hml.take(table, ids, axis=0)


# Attention


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    /,
    mask: Any = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    dropout_rate: float = 0.0,
    return_weights: bool = False,
) -> Any:
    """softmax(query @ key.T * scale) @ value over the last two axes (Vaswani et al., "Attention Is All You Need", 2017).

    query: (..., T, depth). key: (..., S, depth). value: (..., S, values). mask: broadcasts to (..., T, S); bools, True where a query
    may look, or floats that are added. is_causal: position t sees positions up to t + S - T. scale: 1 / sqrt(depth) unless given.
    A query that may look nowhere looks everywhere alike. Returns (..., T, values), and the weights (..., T, S) if asked for.

    >>> import hybridml as hml
    >>> x = hml.ones((2, 3, 4))
    >>> hml.nn.scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (2, 3, 4)
    """
    query, key, value = hml.asarray(query), hml.asarray(key), hml.asarray(value)
    depth = query.shape[-1]
    if key.shape[-1] != depth or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            "attention takes query (..., T, depth), key (..., S, depth), value (..., S, values); "
            f"got {query.shape}, {key.shape}, {value.shape}"
        )
    scale = 1 / math.sqrt(depth) if scale is None else scale
    scores = hml.matmul(query * scale, hml.matrix_transpose(key))
    least = float(hml.finfo(scores.dtype).min) / 2  # finite, so that a row of nothing else is no NaN
    t, s = scores.shape[-2:]
    if is_causal:
        scores = hml.where(hml.tril(hml.ones((t, s), dtype=hml.bool), k=s - t), scores, least)
    if mask is not None:
        mask = hml.asarray(mask)
        scores = hml.where(mask, scores, least) if mask.dtype == hml.bool else scores + mask
    weights = hml.nn.softmax(scores)
    seen = dropout(weights, dropout_rate) if dropout_rate else weights
    out = hml.matmul(seen, value)
    return (out, weights) if return_weights else out
