"""Functions of neural networks."""

from hybridml.ops.composite import (
    binary_cross_entropy_with_logits,
    elu,
    gelu,
    layer_norm,
    leaky_relu,
    log_softmax,
    relu,
    silu,
    softmax,
    softmax_cross_entropy,
    softplus,
)
from hybridml.ops.standardize import standardize
from hybridml.ops.structure import one_hot
from hybridml.ops.transcendental import sigmoid, tanh

__all__ = [
    "binary_cross_entropy_with_logits",
    "elu",
    "gelu",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "one_hot",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "standardize",
    "tanh",
]
