"""The workloads of `hybridml compare`, each as a user would write it.

The two-layer network with N=64, D=1000, H=100 and ten outputs is the one of the well-known TensorFlow experiment on eager
execution against `tf.function`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import hybridml as hml
from hybridml.compare.case import Case, Workload


def _weights(rng: np.random.Generator, *sizes: int) -> list[Any]:
    """Weights and biases of dense layers, scaled as He et al. do for ReLU."""
    found = []
    for k, (m, n) in enumerate(itertools.pairwise(sizes)):
        found.append(hml.Variable(rng.normal(0, np.sqrt(2 / m), (m, n)), dtype=hml.float32, name=f"w{k}"))
        found.append(hml.Variable(np.zeros(n), dtype=hml.float32, name=f"b{k}"))
    return found


def _network(x: Any, weights: list[Any], activation: Callable[[Any], Any] | None = None) -> Any:
    """Dense layers with an activation, ReLU if none is given, between them."""
    activation = activation or hml.nn.relu
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        x = x @ w + b
        if b is not weights[-1]:
            x = activation(x)
    return x


def _data(rng: np.random.Generator, n: int, inputs: int, outputs: int) -> tuple[Any, Any]:
    x = hml.asarray(rng.normal(size=(n, inputs)).astype(np.float32))
    y = hml.asarray(rng.normal(size=(n, outputs)).astype(np.float32))
    return x, y


def forward(n: int, *sizes: int) -> Case:
    """The network's output for one batch."""
    rng = np.random.default_rng(0)
    weights, (x, _) = _weights(rng, *sizes), _data(rng, n, sizes[0], sizes[-1])

    def predict(x: Any) -> Any:
        return _network(x, weights)

    return Case(predict, lambda i: (x,), tuple(weights))


def regression_step(make_optimizer: Callable[[], Any], n: int, *sizes: int) -> Case:
    """A full training step: loss, gradients by a tape, update. The loss is the mean squared error."""
    rng = np.random.default_rng(0)
    weights, (x, y) = _weights(rng, *sizes), _data(rng, n, sizes[0], sizes[-1])
    optimizer = make_optimizer()

    def train_step(x: Any, y: Any) -> Any:
        with hml.GradientTape() as tape:
            error = _network(x, weights) - y
            loss = hml.mean(error * error)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    return Case(train_step, lambda i: (x, y), tuple(weights))


def chain(size: int) -> Case:
    """A chain of elementwise operations: eagerly, each one reads and writes all of memory again."""
    rng = np.random.default_rng(0)
    x, y = (hml.asarray(rng.normal(size=size).astype(np.float32)) for _ in range(2))

    def elementwise(x: Any, y: Any) -> Any:
        return hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y

    return Case(elementwise, lambda i: (x, y))


def digits(batch_size: int = 128, hidden: tuple[int, ...] = (128, 64)) -> Case:
    """Handwritten digits (1797 images of 8 x 8 pixels): one Adam step of a mini-batch; scored on the quarter held out.

    Two runs that differ by a rounding error must draw the same loss curve, so the net is smooth: with ReLU the last bit decides
    on which side of the kink a unit lies, and with Adam's usual epsilon it decides the step of pixels that are nearly always 0.
    """
    images, labels = _digits()
    order = np.random.default_rng(0).permutation(len(images))
    cut = len(images) * 3 // 4
    train, test = order[:cut], order[cut:]
    rng = np.random.default_rng(1)
    weights = _weights(rng, images.shape[1], *hidden, 10)
    optimizer = hml.optim.Adam(1e-3, epsilon=1e-4)
    per_epoch = len(train) // batch_size
    shuffled: dict[int, np.ndarray] = {}

    def batch(i: int) -> tuple[Any, Any]:
        epoch, k = divmod(i, per_epoch)
        if epoch not in shuffled:
            shuffled.clear()
            shuffled[epoch] = np.random.default_rng((2, epoch)).permutation(train)
        rows = shuffled[epoch][k * batch_size : (k + 1) * batch_size]
        return hml.asarray(images[rows]), hml.asarray(labels[rows])

    def train_step(x: Any, y: Any) -> Any:
        with hml.GradientTape() as tape:
            loss = hml.mean(hml.nn.softmax_cross_entropy(_network(x, weights, hml.tanh), y))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    def accuracy() -> float:
        guesses = _network(hml.asarray(images[test]), weights, hml.tanh).numpy().argmax(axis=1)
        return float(np.mean(guesses == labels[test]))

    return Case(train_step, batch, tuple(weights), accuracy)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as cause:
        raise ImportError("the digits come with scikit-learn: pip install 'hybridml[demo]'") from cause
    found = load_digits()
    return (found.data / 16.0).astype(np.float32), found.target.astype(np.int64)


def _sgd() -> Any:
    return hml.optim.SGD(0.01)


def _adam() -> Any:
    return hml.optim.Adam(0.001)


TWO_LAYERS, TINY = (64, 1000, 100, 10), (32, 16, 32, 1)

WORKLOADS: dict[str, Workload] = {
    w.name: w
    for w in (
        Workload("two_layer_forward", "two-layer net, forward pass", lambda: forward(*TWO_LAYERS)),
        Workload("two_layer_sgd", "two-layer net, SGD step", lambda: regression_step(_sgd, *TWO_LAYERS)),
        Workload("two_layer_adam", "two-layer net, Adam step", lambda: regression_step(_adam, *TWO_LAYERS)),
        Workload("tiny_sgd", "tiny net, SGD step", lambda: regression_step(_sgd, *TINY)),
        Workload("tiny_adam", "tiny net, Adam step", lambda: regression_step(_adam, *TINY)),
        Workload("elementwise", "gelu(x*y+1.5)*sigmoid(x)-y, 1e6 elements", lambda: chain(1_000_000)),
        Workload("digits", "handwritten digits, Adam step", digits, required_score=0.97),
    )
}
