"""The workloads in hybridml."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workloads import ADAM_EPSILON, HEADS, LAYER_NORM_EPSILON, RATES, Problem, Workload

import hybridml as hml

VARIANTS = ("traced",)
PACKAGES = ("hybridml", "numpy", "numba", "scipy")


def build(workload: Workload, problem: Problem, variant: str) -> Callable[[], Any]:
    if workload.kind == "add":
        x, y = map(hml.asarray, problem.inputs)
        return lambda: x + y
    traced, inputs = traced_function(workload, problem)
    return lambda: traced(*inputs)


def traced_function(workload: Workload, problem: Problem) -> tuple[Any, list[Any]]:
    """The workload as an `hml.function`, and its arguments."""
    w = {name: hml.Variable(a, name=name) for name, a in problem.weights.items()}
    f = FUNCTIONS[workload.kind]

    if workload.optimizer:
        optimizer = optimizer_of(workload.optimizer)
        variables = list(w.values())

        def call(*args: Any) -> Any:
            with hml.GradientTape() as tape:
                loss = f(w, *args)
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss
    else:

        def call(*args: Any) -> Any:
            return f(w, *args)

    return hml.function(call), [hml.asarray(a) for a in problem.inputs]


def optimizer_of(name: str) -> Any:
    if name == "sgd":
        return hml.optim.SGD(RATES[name])
    return hml.optim.Adam(RATES[name], epsilon=ADAM_EPSILON)


def forward(w: dict[str, Any], x: Any, _: Any) -> Any:
    return hml.nn.relu(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]


def regression(w: dict[str, Any], x: Any, y: Any) -> Any:
    error = forward(w, x, y) - y
    return hml.mean(error * error)


def convolutional(w: dict[str, Any], x: Any, labels: Any) -> Any:
    a = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w["wk"]) + w["bk"]), 2)
    return hml.mean(hml.nn.softmax_cross_entropy(forward(w, hml.reshape(a, (x.shape[0], -1)), None), labels))


def gru(w: dict[str, Any], x: Any, labels: Any) -> Any:
    hidden = w["wh"].shape[0]

    def cell(h: Any, gi: Any) -> tuple[Any, Any]:
        gh = h @ w["wh"] + w["bh"]
        gates = hml.sigmoid(gi[:, : 2 * hidden] + gh[:, : 2 * hidden])
        r, z = gates[:, :hidden], gates[:, hidden:]
        new = hml.tanh(gi[:, 2 * hidden :] + r * gh[:, 2 * hidden :])
        h = new + z * (h - new)
        return h, h

    _, hs = hml.scan(cell, hml.zeros((x.shape[1], hidden)), x @ w["wi"] + w["bi"])
    return hml.mean(hml.nn.softmax_cross_entropy(hs @ w["wo"] + w["bo"], labels))


def transformer(w: dict[str, Any], x: Any, target: Any) -> Any:
    n, t, d = x.shape
    later = hml.triu(hml.ones((t, t), dtype=hml.bool_), k=1)
    a = hml.nn.layer_norm(x, w["g1"], w["c1"], epsilon=LAYER_NORM_EPSILON) @ w["wqkv"] + w["bqkv"]
    a = hml.permute_dims(hml.reshape(a, (n, t, 3, HEADS, d // HEADS)), (2, 0, 3, 1, 4))
    q, k, v = a[0], a[1], a[2]
    scores = hml.where(later, float("-inf"), (q @ k.mT) * (d // HEADS) ** -0.5)
    mixed = hml.nn.softmax(scores) @ v
    x = x + hml.reshape(hml.permute_dims(mixed, (0, 2, 1, 3)), (n, t, d)) @ w["wo"] + w["bo"]
    b = hml.nn.layer_norm(x, w["g2"], w["c2"], epsilon=LAYER_NORM_EPSILON)
    x = x + hml.nn.gelu(b @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    return hml.mean((x - target) ** 2)


def chain(_: dict[str, Any], x: Any, y: Any) -> Any:
    return hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y


def cross_entropy(_: dict[str, Any], x: Any, labels: Any) -> Any:
    return hml.value_and_grad(lambda x: hml.mean(hml.nn.softmax_cross_entropy(x, labels)))(x)


def layer_norm(_: dict[str, Any], x: Any, scale: Any, offset: Any, g: Any) -> Any:
    with hml.GradientTape() as tape:
        for a in (x, scale, offset):
            tape.watch(a)
        y = hml.nn.layer_norm(x, scale, offset, epsilon=LAYER_NORM_EPSILON)
    return y, *tape.gradient(y, [x, scale, offset], output_gradients=g)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "forward": forward, "regression": regression, "convolutional": convolutional, "gru": gru, "transformer": transformer, "chain": chain,
    "cross_entropy": cross_entropy, "layer_norm": layer_norm, "add": lambda x, y: x + y,
}  # fmt: skip
wait = None  # a call has finished when it returns


def arrays(out: Any) -> list[Any]:
    return [a.numpy() for a in hml.pytree.leaves(out)]
