"""Equal updates of many parameters are one launch on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml.kernels.emit_cuda import horizontal

SIZES = (3, 40, 300)  # columns of the weights: one block, and several


def _training(device: str, optimizer: Any, steps: int = 3) -> tuple[list[float], list[Any]]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 6)).astype("f")
    with hml.device(device):
        weights = [hml.Variable(rng.normal(size=(6, n)).astype("f")) for n in SIZES]
        rule = optimizer()

        def step(x: Any) -> Any:
            with hml.GradientTape() as tape:
                loss = sum(hml.mean((x @ w) ** 2) for w in weights)
            rule.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return loss

        step = hml.function(step) if device == "gpu:0" else step
        losses = [float(step(hml.asarray(x))) for _ in range(steps)]
    return losses, weights


@pytest.mark.parametrize(
    "optimizer",
    [lambda: hml.optim.SGD(0.05, momentum=0.9), lambda: hml.optim.Adam(0.05)],
    ids=["SGD", "Adam"],
)
def test_updates_are_one_launch(gpu: FakeGpu, optimizer: Any) -> None:
    here, at_home = _training("cpu", optimizer)
    there, away = _training("gpu:0", optimizer)
    np.testing.assert_allclose(there, here, rtol=1e-5)
    for a, b in zip(at_home, away, strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-4, atol=1e-6)
    together = {k.name: k for k, _ in gpu.driver._kernels.values() if "end_0" in k.source}
    (kernel,) = together.values()
    assert f"end_{len(SIZES) - 1}" in kernel.source
    first_call = gpu.driver.log[: gpu.driver.log.index("replay")]
    assert first_call.count(f"launch {kernel.name}") == 1
    names = [x.split()[1] for x in first_call if x.startswith("launch")]
    alone = kernel.name.rsplit("_", 1)[0]
    assert [n for n in names if n.rsplit("_", 1)[0] == alone] == [kernel.name], (
        "no parameter has one of its own"
    )


def test_more_sets_than_one_launch_takes(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizontal, "MOST_COPIES", 2)
    here, _ = _training("cpu", lambda: hml.optim.SGD(0.05))
    there, _ = _training("gpu:0", lambda: hml.optim.SGD(0.05))
    np.testing.assert_allclose(there, here, rtol=1e-5)
    (kernel,) = [k for k, _ in gpu.driver._kernels.values() if "end_0" in k.source]
    assert "end_1" in kernel.source
    assert "end_2" not in kernel.source
    first_call = gpu.driver.log[: gpu.driver.log.index("replay")]
    assert first_call.count(f"launch {kernel.name}") == 2, "two sets, and one with a place to spare"
