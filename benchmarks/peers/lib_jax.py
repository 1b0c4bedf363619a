"""The workloads in JAX: pure functions under `jit`, weights and optimiser state donated, Optax for the updates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from workloads import ADAM_EPSILON, HEADS, LAYER_NORM_EPSILON, RATES, Problem, Workload

VARIANTS = ("jit",)
PACKAGES = ("jax", "jaxlib", "optax", "numpy")


def build(workload: Workload, problem: Problem, variant: str) -> Callable[[], Any]:
    w = {name: jnp.asarray(a) for name, a in problem.weights.items()}
    inputs = [jnp.asarray(a) for a in problem.inputs]
    f = FUNCTIONS[workload.kind]
    if workload.kind == "add":
        x, y = inputs
        return lambda: x + y
    if not workload.optimizer:
        compiled = jax.jit(f)
        return lambda: compiled(w, *inputs)
    optimizer = optimizer_of(workload.optimizer)
    state = optimizer.init(w)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(w: Any, state: Any, *args: Any) -> Any:
        loss, gradients = jax.value_and_grad(f)(w, *args)
        updates, state = optimizer.update(gradients, state, w)
        return optax.apply_updates(w, updates), state, loss

    def call() -> Any:
        nonlocal w, state
        w, state, loss = step(w, state, *inputs)
        return loss

    return call


def optimizer_of(name: str) -> Any:
    return optax.sgd(RATES[name]) if name == "sgd" else optax.adam(RATES[name], eps=ADAM_EPSILON)


def forward(w: Any, x: Any, _: Any) -> Any:
    return jax.nn.relu(x @ w["w0"] + w["b0"]) @ w["w1"] + w["b1"]


def regression(w: Any, x: Any, y: Any) -> Any:
    return jnp.mean((forward(w, x, y) - y) ** 2)


def convolutional(w: Any, x: Any, labels: Any) -> Any:
    layout = ("NHWC", "HWIO", "NHWC")
    a = jax.nn.relu(
        jax.lax.conv_general_dilated(x, w["wk"], (1, 1), "VALID", dimension_numbers=layout) + w["bk"]
    )
    a = jax.lax.reduce_window(a, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    y = forward(w, a.reshape(x.shape[0], -1), None)
    return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()


def gru(w: Any, x: Any, labels: Any) -> Any:
    def cell(h: Any, gi: Any) -> tuple[Any, Any]:
        gh = h @ w["wh"] + w["bh"]
        (ir, iz, inew), (hr, hz, hnew) = jnp.split(gi, 3, axis=-1), jnp.split(gh, 3, axis=-1)
        r, z = jax.nn.sigmoid(ir + hr), jax.nn.sigmoid(iz + hz)
        new = jnp.tanh(inew + r * hnew)
        h = new + z * (h - new)
        return h, h

    _, hs = jax.lax.scan(cell, jnp.zeros((x.shape[1], w["wh"].shape[0])), x @ w["wi"] + w["bi"])
    return optax.softmax_cross_entropy_with_integer_labels(hs @ w["wo"] + w["bo"], labels).mean()


def normalize(x: Any, scale: Any, offset: Any) -> Any:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON) * scale + offset


def transformer(w: Any, x: Any, target: Any) -> Any:
    n, t, d = x.shape
    a = normalize(x, w["g1"], w["c1"]) @ w["wqkv"] + w["bqkv"]
    q, k, v = (part.reshape(n, t, HEADS, d // HEADS) for part in jnp.split(a, 3, axis=-1))
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    x = x + mixed.reshape(n, t, d) @ w["wo"] + w["bo"]
    b = normalize(x, w["g2"], w["c2"])
    x = x + jax.nn.gelu(b @ w["w1"] + w["b1"], approximate=False) @ w["w2"] + w["b2"]
    return jnp.mean((x - target) ** 2)


def chain(_: Any, x: Any, y: Any) -> Any:
    return jax.nn.gelu(x * y + 1.5, approximate=False) * jax.nn.sigmoid(x) - y


def cross_entropy(_: Any, x: Any, labels: Any) -> Any:
    return jax.value_and_grad(lambda x: optax.softmax_cross_entropy_with_integer_labels(x, labels).mean())(x)


def layer_norm(_: Any, x: Any, scale: Any, offset: Any, g: Any) -> Any:
    y, gradients = jax.vjp(normalize, x, scale, offset)
    return y, *gradients(g)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "forward": forward, "regression": regression, "convolutional": convolutional, "gru": gru, "transformer": transformer, "chain": chain,
    "cross_entropy": cross_entropy, "layer_norm": layer_norm, "add": lambda x, y: x + y,
}  # fmt: skip
wait = jax.block_until_ready  # calls run ahead of Python, so a block of calls ends with this


def arrays(out: Any) -> list[Any]:
    return jax.tree.leaves(out)
