"""Rows of `bandwidth.py`: what the libraries' epilogues and cuDNN gain, each beside the same step without them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import hybridml as hml
from hybridml import backends
from hybridml.kernels.cuda.cudnn import ConvolutionPlan
from hybridml.kernels.cuda.executable import driver_of


def dense(activation: Callable[[Any], Any]) -> Any:
    """Two layers, forwards and backwards."""

    def f(x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch([a, b, c, d])
            loss = hml.mean((activation(x @ a + b) @ c + d) ** 2)
        return tape.gradient(loss, [a, b, c, d])

    return f


def convolution(x: Any, w: Any, b: Any) -> Any:
    """A convolution, bias and relu, and all three gradients."""
    with hml.GradientTape() as tape:
        tape.watch([x, w, b])
        loss = hml.mean(hml.nn.relu(hml.nn.conv2d(x, w, padding="same") + b) ** 2)
    return tape.gradient(loss, [x, w, b])


def refusing(which: Callable[[Any], bool]) -> Any:
    """A scope in which programs are planned without some of the libraries' calls."""
    driver = driver_of(backends.named("gpu:0"))
    real = driver.refuse
    return mock.patch.object(driver, "refuse", lambda plan: "left out" if which(plan) else real(plan))


def cases(seconds: Callable[..., float]) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Steps, each with what measures it; `seconds` times a call."""
    found: list[tuple[str, Callable[[], dict[str, Any]]]] = []

    def values(*shape: int) -> Any:
        return hml.asarray(np.random.default_rng(1).random(shape, np.float32))

    def add(what: str, f: Any, make: Callable[[], Any], which: Callable[[Any], bool]) -> None:
        def measure() -> dict[str, Any]:
            args = make()
            with refusing(which):
                step = hml.function(f)
                for _ in range(3):
                    step(*args)
            return {"seconds": seconds(lambda: step(*args), rounds=7, n=5)}

        found.append((what, measure))

    m, d, h = 8192, 1024, 4096

    def layers() -> list[Any]:
        return [values(*s) for s in ((m, d), (d, h), (h,), (h, d), (d,))]

    for name, activation in (("relu", hml.nn.relu), ("gelu", lambda x: hml.nn.gelu(x, approximate=True))):
        what = f"two layers and gradients {m}x{d}x{h}, {name}"
        add(f"{what}: epilogues", dense(activation), layers, lambda plan: False)
        separate = f"{what}: separate kernels"
        add(separate, dense(activation), layers, lambda plan: not isinstance(plan, ConvolutionPlan))

    def images() -> list[Any]:
        return [values(64, 56, 56, 64), values(3, 3, 64, 64), values(64)]

    if importlib.util.find_spec("cudnn") is not None:
        add("convolution and gradients 64x56x56x64: cuDNN", convolution, images, lambda plan: False)
    products = "convolution and gradients 64x56x56x64: products over patches"
    add(products, convolution, images, lambda plan: isinstance(plan, ConvolutionPlan))
    return found


__all__ = ["cases"]
