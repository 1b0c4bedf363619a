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
from hybridml.ops.convolving import (
    conv1d,
    conv2d,
    conv2d_filter_gradient,
    conv2d_transpose,
    depthwise_conv2d,
)
from hybridml.ops.pooling import (
    avg_pool2d,
    global_avg_pool2d,
    global_max_pool2d,
    max_pool2d,
    max_pool2d_with_positions,
    window_scatter,
    window_take,
)
from hybridml.ops.structure import one_hot
from hybridml.ops.transcendental import sigmoid, tanh

__all__ = [
    "avg_pool2d",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv2d_filter_gradient",
    "conv2d_transpose",
    "depthwise_conv2d",
    "elu",
    "gelu",
    "global_avg_pool2d",
    "global_max_pool2d",
    "layer_norm",
    "leaky_relu",
    "log_softmax",
    "max_pool2d",
    "max_pool2d_with_positions",
    "one_hot",
    "relu",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_cross_entropy",
    "softplus",
    "tanh",
    "window_scatter",
    "window_take",
]
