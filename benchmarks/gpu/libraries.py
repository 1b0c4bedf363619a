"""Rows of `bandwidth.py`: what the libraries' epilogues and cuDNN gain, each beside the same step without them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any
from unittest import mock

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


def rows(seconds: Callable[..., float]) -> list[dict[str, Any]]:
    """Seconds of each step; `seconds` times a call."""
    random = hml.random.Generator(1)
    found: list[dict[str, Any]] = []

    def add(what: str, f: Any, args: tuple[Any, ...], which: Callable[[Any], bool]) -> None:
        try:
            with refusing(which):
                step = hml.function(f)
                for _ in range(3):
                    step(*args)
            found.append({"what": what, "seconds": seconds(lambda: step(*args), rounds=7, n=5)})
        except Exception as error:
            found.append({"what": what, "error": f"{type(error).__name__}: {error}"[:300]})

    m, d, h = 8192, 1024, 4096
    layers = tuple([random.uniform(s) for s in ((m, d), (d, h), (h,), (h, d), (d,))])
    for name, activation in (("relu", hml.nn.relu), ("gelu", lambda x: hml.nn.gelu(x, approximate=True))):
        what = f"two layers and gradients {m}x{d}x{h}, {name}"
        add(f"{what}: epilogues", dense(activation), layers, lambda plan: False)
        add(
            f"{what}: separate kernels",
            dense(activation),
            layers,
            lambda plan: not isinstance(plan, ConvolutionPlan),
        )
    images = random.uniform((64, 56, 56, 64)), random.uniform((3, 3, 64, 64)), random.uniform((64,))
    if importlib.util.find_spec("cudnn") is not None:
        add("convolution and gradients 64x56x56x64: cuDNN", convolution, images, lambda plan: False)
    products = "convolution and gradients 64x56x56x64: products over patches"
    add(products, convolution, images, lambda plan: isinstance(plan, ConvolutionPlan))
    return found


__all__ = ["rows"]
