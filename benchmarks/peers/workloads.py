"""What every library computes: sizes, initial values and inputs, as NumPy arrays from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
RATES = {"sgd": 0.01, "adam": 0.001}
ADAM_EPSILON = 1e-7
HEADS = 4
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Problem:
    """Weights by name, in the order of the layers, and the inputs of one call. All are float32, except class labels: int64."""

    weights: dict[str, Array] = field(default_factory=dict)
    inputs: tuple[Array, ...] = ()


@dataclass(frozen=True)
class Workload:
    """One row of the table. `kind` names the function in each library's file; `optimizer` is sgd, adam or nothing."""

    name: str
    title: str
    kind: str
    make: Callable[[], Problem]
    optimizer: str = ""


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (rng.normal(size=shape) * scale).astype(np.float32)


def dense(rng: np.random.Generator, k: int | str, m: int, n: int) -> dict[str, Array]:
    """Weight and bias of a dense layer, scaled as He et al. do for ReLU."""
    return {f"w{k}": normal(rng, m, n, scale=(2 / m) ** 0.5), f"b{k}": normal(rng, n, scale=0.1)}


def network(n: int, *sizes: int) -> Problem:
    rng = np.random.default_rng(0)
    weights: dict[str, Array] = {}
    for k in range(len(sizes) - 1):
        weights |= dense(rng, k, sizes[k], sizes[k + 1])
    return Problem(weights, (normal(rng, n, sizes[0]), normal(rng, n, sizes[-1])))


def gru(n: int, steps: int, inputs: int, hidden: int, classes: int) -> Problem:
    """Gates in the order reset, update, new, as in PyTorch. Time is the first axis of inputs and labels."""
    rng = np.random.default_rng(0)
    scale = hidden**-0.5
    weights = {
        "wi": normal(rng, inputs, 3 * hidden, scale=scale),
        "bi": normal(rng, 3 * hidden, scale=scale),
        "wh": normal(rng, hidden, 3 * hidden, scale=scale),
        "bh": normal(rng, 3 * hidden, scale=scale),
        **dense(rng, "o", hidden, classes),
    }
    return Problem(weights, (normal(rng, steps, n, inputs), rng.integers(0, classes, (steps, n))))


def convolutional(n: int, size: int, filters: int, hidden: int, classes: int) -> Problem:
    """Images are channels last, filters [height, width, channels, filters]; the first dense layer reads rows, columns, then filters."""
    rng = np.random.default_rng(0)
    pooled = (size - 2) // 2
    weights = {
        "wk": normal(rng, 3, 3, 1, filters, scale=(2 / 9) ** 0.5),
        "bk": normal(rng, filters, scale=0.1),
    }
    weights |= dense(rng, 0, pooled * pooled * filters, hidden) | dense(rng, 1, hidden, classes)
    return Problem(weights, (normal(rng, n, size, size, 1), rng.integers(0, classes, n)))


def transformer(n: int, steps: int, width: int) -> Problem:
    """Normalisation first, attention with HEADS heads, then four times as wide a layer between two dense ones."""
    rng = np.random.default_rng(0)
    weights = {"g1": np.ones(width, np.float32), "c1": np.zeros(width, np.float32)}
    weights |= dense(rng, "qkv", width, 3 * width) | dense(rng, "o", width, width)
    weights |= {"g2": np.ones(width, np.float32), "c2": np.zeros(width, np.float32)}
    weights |= dense(rng, "1", width, 4 * width) | dense(rng, "2", 4 * width, width)
    return Problem(weights, (normal(rng, n, steps, width), normal(rng, n, steps, width)))


def pair(*shape: int) -> Problem:
    rng = np.random.default_rng(0)
    return Problem({}, (normal(rng, *shape), normal(rng, *shape)))


def logits(n: int, classes: int) -> Problem:
    rng = np.random.default_rng(0)
    return Problem({}, (normal(rng, n, classes), rng.integers(0, classes, n)))


def normalization(n: int, width: int) -> Problem:
    """x, scale, offset and the gradient of the result."""
    rng = np.random.default_rng(0)
    return Problem({}, (normal(rng, n, width), normal(rng, width), normal(rng, width), normal(rng, n, width)))


TWO_LAYERS, TINY = partial(network, 64, 1000, 100, 10), partial(network, 32, 16, 32, 1)
GRU, BLOCK = partial(gru, 32, 64, 64, 128, 10), partial(transformer, 8, 128, 256)

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Workload("two_layer_forward", "two-layer net N=64 1000-100-10, forward", "forward", TWO_LAYERS),
        Workload("two_layer_sgd", "two-layer net, SGD step", "regression", TWO_LAYERS, "sgd"),
        Workload("two_layer_adam", "two-layer net, Adam step", "regression", TWO_LAYERS, "adam"),
        Workload("tiny_sgd", "tiny net N=32 16-32-1, SGD step", "regression", TINY, "sgd"),
        Workload("tiny_adam", "tiny net, Adam step", "regression", TINY, "adam"),
        Workload("wide_sgd", "wide net N=256 1024-1024-1024, SGD step", "regression",
                 partial(network, 256, 1024, 1024, 1024), "sgd"),
        Workload("conv_adam", "conv net N=64 28x28x1, 32 3x3 filters, max-pool, 64, 10, Adam step", "convolutional",
                 partial(convolutional, 64, 28, 32, 64, 10), "adam"),
        Workload("gru_adam", "GRU N=32 T=64 64-128-10, Adam step", "gru", GRU, "adam"),
        Workload("transformer_adam", "transformer block N=8 T=128 d=256, Adam step", "transformer", BLOCK, "adam"),
        Workload("chain_4096", "gelu(x*y+1.5)*sigmoid(x)-y, 4096", "chain", partial(pair, 4096)),
        Workload("chain_1e6", "gelu(x*y+1.5)*sigmoid(x)-y, 1e6", "chain", partial(pair, 1_000_000)),
        Workload("cross_entropy", "softmax cross-entropy 512x1000, value and gradient", "cross_entropy",
                 partial(logits, 512, 1000)),
        Workload("layer_norm", "layer_norm 4096x768, value and 3 gradients", "layer_norm", partial(normalization, 4096, 768)),
        Workload("eager_add", "one eager add of 8 elements", "add", partial(pair, 8)),
    )
}  # fmt: skip
