"""The workloads in TensorFlow: variables, a tape and Keras optimisers; eager, `tf.function`, and the same with XLA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from workloads import ADAM_EPSILON, HEADS, LAYER_NORM_EPSILON, RATES, Problem, Workload

VARIANTS = ("eager", "tf.function", "tf.function XLA")
PACKAGES = ("tensorflow-cpu", "keras", "numpy")
tf.config.threading.set_intra_op_parallelism_threads(2)
tf.config.threading.set_inter_op_parallelism_threads(2)


def build(workload: Workload, problem: Problem, variant: str) -> Callable[[], Any] | None:
    w = {name: tf.Variable(a, name=name) for name, a in problem.weights.items()}
    inputs = [tf.constant(a) for a in problem.inputs]
    f = FUNCTIONS[workload.kind]
    if workload.kind == "add":
        x, y = inputs
        return (lambda: x + y) if variant == "eager" else None
    if variant == "eager":
        compiled: Callable[..., Any] = lambda f: f  # noqa: E731  # one of several, all short
    else:
        compiled = tf.function(jit_compile=variant.endswith("XLA"))
    if workload.kind == "gru":
        recurrent(w, inputs)
    if not workload.optimizer:
        traced = compiled(lambda *args: f(w, *args))
        return lambda: traced(*inputs)
    optimizer = optimizer_of(workload.optimizer)
    variables = [v for a in w.values() for v in (a.trainable_variables if hasattr(a, "call") else [a])]
    optimizer.build(variables)

    def step(*args: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = f(w, *args)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    traced = compiled(step)
    return lambda: traced(*inputs)


def optimizer_of(name: str) -> Any:
    if name == "sgd":
        return tf.keras.optimizers.SGD(RATES[name])
    return tf.keras.optimizers.Adam(RATES[name], epsilon=ADAM_EPSILON)


def forward(w: Any, x: Any, _: Any) -> Any:
    return tf.nn.relu(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]


def regression(w: Any, x: Any, y: Any) -> Any:
    return tf.reduce_mean(tf.math.squared_difference(forward(w, x, y), y))


def convolutional(w: Any, x: Any, labels: Any) -> Any:
    a = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, w["wk"], 1, "VALID"), w["bk"]))
    a = tf.reshape(tf.nn.max_pool2d(a, 2, 2, "VALID"), (x.shape[0], -1))
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, forward(w, a, None)))


def recurrent(w: dict[str, Any], inputs: list[Any]) -> None:
    """Replace the weights by Keras's layer, whose gates come as update, reset, new, and put the batch first."""
    hidden = w["wh"].shape[0]

    def reorder(a: Any) -> Any:
        r, z, new = tf.split(a, 3, axis=-1)
        return tf.concat([z, r, new], -1)

    layer = tf.keras.layers.GRU(hidden, return_sequences=True)
    inputs[:] = [tf.constant(tf.einsum("tn...->nt...", a)) for a in inputs]
    layer.build(inputs[0].shape)
    biases = tf.stack([reorder(w.pop("bi")), reorder(w.pop("bh"))])
    layer.set_weights([reorder(w.pop("wi")), reorder(w.pop("wh")), biases])
    w["gru"] = layer


def gru(w: Any, x: Any, labels: Any) -> Any:
    y = tf.reshape(w["gru"](x), (-1, w["wo"].shape[0])) @ w["wo"] + w["bo"]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(labels, [-1]), y)
    return tf.reduce_mean(losses)


def normalize(x: Any, scale: Any, offset: Any) -> Any:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, offset, scale, LAYER_NORM_EPSILON)


def transformer(w: Any, x: Any, target: Any) -> Any:
    n, t, d = x.shape
    flat = tf.reshape(normalize(x, w["g1"], w["c1"]), (n * t, d)) @ w["wqkv"] + w["bqkv"]
    q, k, v = tf.unstack(tf.transpose(tf.reshape(flat, (n, t, 3, HEADS, d // HEADS)), (2, 0, 3, 1, 4)))
    allowed = tf.linalg.band_part(tf.ones((t, t), tf.bool), -1, 0)
    scores = tf.where(allowed, tf.matmul(q, k, transpose_b=True) * (d // HEADS) ** -0.5, float("-inf"))
    mixed = tf.reshape(tf.transpose(tf.nn.softmax(scores) @ v, (0, 2, 1, 3)), (n * t, d))
    x = tf.reshape(x, (n * t, d)) + mixed @ w["wo"] + w["bo"]
    b = normalize(x, w["g2"], w["c2"])
    x = x + tf.nn.gelu(b @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    return tf.reduce_mean(tf.math.squared_difference(x, tf.reshape(target, (n * t, d))))


def chain(_: Any, x: Any, y: Any) -> Any:
    return tf.nn.gelu(x * y + 1.5) * tf.sigmoid(x) - y


def cross_entropy(_: Any, x: Any, labels: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x))
    return loss, tape.gradient(loss, x)


def layer_norm(_: Any, x: Any, scale: Any, offset: Any, g: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch((x, scale, offset))
        y = normalize(x, scale, offset)
    return y, *tape.gradient(y, [x, scale, offset], output_gradients=g)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "forward": forward, "regression": regression, "convolutional": convolutional, "gru": gru, "transformer": transformer, "chain": chain,
    "cross_entropy": cross_entropy, "layer_norm": layer_norm, "add": lambda x, y: x + y,
}  # fmt: skip
wait = None  # a call has finished when it returns


def arrays(out: Any) -> list[Any]:
    return [a.numpy() for a in tf.nest.flatten(out)]
