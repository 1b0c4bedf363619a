"""The workloads in PyTorch: modules and fused optimisers, eager or with the loss under `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from workloads import ADAM_EPSILON, HEADS, LAYER_NORM_EPSILON, RATES, Problem, Workload

VARIANTS = ("eager", "torch.compile")
PACKAGES = ("torch", "numpy")
torch.set_num_threads(2)


def build(workload: Workload, problem: Problem, variant: str) -> Callable[[], Any] | None:
    w = {name: torch.tensor(a) for name, a in problem.weights.items()}
    inputs = [torch.tensor(a) for a in problem.inputs]
    # Every workload has one shape. Left to itself, the compiler takes the second workload for one of changing sizes.
    fixed = partial(torch.compile, dynamic=False)
    compiled: Callable[..., Any] = {
        "eager": lambda f: f,
        "torch.compile": fixed,
        "torch.compile with CUDA graphs": partial(fixed, mode="reduce-overhead"),  # on a GPU
    }[variant]
    if workload.kind == "add":
        x, y = inputs
        return (lambda: x + y) if variant == "eager" else None
    if workload.kind == "forward":
        predict = compiled(Network(w))

        def forward() -> Any:
            with torch.inference_mode():
                return predict(inputs[0])

        return forward
    if not workload.optimizer:
        f = FUNCTIONS[workload.kind]
        return f(compiled, *inputs)
    model = MODULES[workload.kind](w)
    loss_of = compiled(lambda x, y: model.loss(x, y))
    optimizer = optimizer_of(workload.optimizer, model.parameters())

    def step() -> Any:
        optimizer.zero_grad()
        loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        return loss

    return step


def optimizer_of(name: str, parameters: Any) -> Any:
    if name == "sgd":
        return torch.optim.SGD(parameters, RATES[name], fused=True)
    return torch.optim.Adam(parameters, RATES[name], eps=ADAM_EPSILON, fused=True)


def dense(w: torch.Tensor, b: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(*w.shape)
    layer.weight.data, layer.bias.data = w.T.contiguous(), b
    return layer


class Network(nn.Module):
    def __init__(self, w: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.Sequential(dense(w["w0"], w["b0"]), nn.ReLU(), dense(w["w1"], w["b1"]))

    def forward(self, x: Any) -> Any:
        return self.layers(x)

    def loss(self, x: Any, y: Any) -> Any:
        return F.mse_loss(self(x), y)


class Convolutional(nn.Module):
    """PyTorch puts channels before rows and columns, in images, in filters, and in what the first dense layer reads."""

    def __init__(self, w: dict[str, Any]) -> None:
        super().__init__()
        filters = w["wk"].shape[3]
        self.conv = nn.Conv2d(1, filters, 3)
        self.conv.weight.data, self.conv.bias.data = w["wk"].permute(3, 2, 0, 1).contiguous(), w["bk"]
        side = int((w["w0"].shape[0] // filters) ** 0.5)
        channels_first = w["w0"].reshape(side, side, filters, -1).permute(2, 0, 1, 3).flatten(0, 2)
        self.layers = nn.Sequential(dense(channels_first, w["b0"]), nn.ReLU(), dense(w["w1"], w["b1"]))

    def loss(self, x: Any, labels: Any) -> Any:
        a = F.max_pool2d(F.relu(self.conv(x.permute(0, 3, 1, 2))), 2)
        return F.cross_entropy(self.layers(a.flatten(1)), labels)


class Recurrent(nn.Module):
    def __init__(self, w: dict[str, Any]) -> None:
        super().__init__()
        self.gru = nn.GRU(w["wi"].shape[0], w["wh"].shape[0])
        found = {
            "weight_ih_l0": w["wi"].T,
            "weight_hh_l0": w["wh"].T,
            "bias_ih_l0": w["bi"],
            "bias_hh_l0": w["bh"],
        }
        self.gru.load_state_dict(found)
        self.out = dense(w["wo"], w["bo"])

    def loss(self, x: Any, labels: Any) -> Any:
        return F.cross_entropy(self.out(self.gru(x)[0]).flatten(0, 1), labels.flatten())


class Block(nn.Module):
    def __init__(self, w: dict[str, Any]) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(w["g1"].shape, eps=LAYER_NORM_EPSILON) for _ in range(2))
        self.qkv, self.mix = dense(w["wqkv"], w["bqkv"]), dense(w["wo"], w["bo"])
        self.wide, self.narrow = dense(w["w1"], w["b1"]), dense(w["w2"], w["b2"])

    def forward(self, x: Any) -> Any:
        n, t, d = x.shape
        q, k, v = (a.view(n, t, HEADS, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(mixed.transpose(1, 2).reshape(n, t, d))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))

    def loss(self, x: Any, target: Any) -> Any:
        return F.mse_loss(self(x), target)


def chain(compiled: Any, x: Any, y: Any) -> Callable[[], Any]:
    f = compiled(lambda x, y: F.gelu(x * y + 1.5) * torch.sigmoid(x) - y)
    return lambda: f(x, y)


def cross_entropy(compiled: Any, x: Any, labels: Any) -> Callable[[], Any]:
    f = compiled(F.cross_entropy)
    x.requires_grad_()

    def call() -> Any:
        loss = f(x, labels)
        return loss.detach(), *torch.autograd.grad(loss, x)

    return call


def layer_norm(compiled: Any, x: Any, scale: Any, offset: Any, g: Any) -> Callable[[], Any]:
    f = compiled(lambda x, scale, offset: F.layer_norm(x, scale.shape, scale, offset, LAYER_NORM_EPSILON))
    sources = [a.requires_grad_() for a in (x, scale, offset)]

    def call() -> Any:
        y = f(*sources)
        return y.detach(), *torch.autograd.grad(y, sources, g)

    return call


MODULES: dict[str, Any] = {
    "regression": Network,
    "convolutional": Convolutional,
    "gru": Recurrent,
    "transformer": Block,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "chain": chain, "cross_entropy": cross_entropy, "layer_norm": layer_norm,
}  # fmt: skip
wait = None  # a call has finished when it returns


def arrays(out: Any) -> list[Any]:
    return [a.detach().numpy() for a in (out if isinstance(out, tuple) else (out,))]
