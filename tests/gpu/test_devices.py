"""Devices by name, tensors that move, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import backends, config
from hybridml.errors import DeviceError

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_of_cuda_is_imported_before_a_gpu_is_asked_for() -> None:
    code = """if True:
        import sys
        import hybridml as hml
        x = hml.ones((3, 3))
        hml.function(lambda x: hml.nn.softmax(x @ x))(x)
        hml.random.normal((3,)), hml.Variable(x).assign_add(x), hml.devices()
        print([m for m in sys.modules if m.split('.')[0] in ('cupy', 'cuda', 'cupyx') or m.startswith('numba.cuda')])
    """
    environ = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert run.stdout.strip() == "[]"


def test_tensors_live_on_the_current_device(gpu: FakeGpu) -> None:
    made = (
        lambda: hml.zeros((2, 3)), lambda: hml.ones(3), lambda: hml.full((2,), 7), lambda: hml.arange(4), lambda: hml.eye(3),
        lambda: hml.linspace(0, 1, 5), lambda: hml.asarray([1.0, 2.0]), lambda: hml.asarray(np.arange(3)), lambda: hml.empty(2),
        lambda: hml.random.Generator(1).normal((3,)), lambda: hml.Variable([1.0, 2.0]), lambda: hml.iota((2, 3), 1),
    )  # fmt: skip
    for make in made:
        with hml.device("gpu:0"):
            there = make()
        here = make()
        assert (there.device, here.device) == ("gpu:0", "cpu:0")
        assert there.numpy().dtype == here.numpy().dtype
    with hml.device("gpu"), hml.device("cpu"):
        assert hml.ones(1).device == "cpu:0"
    with config.scope(device="gpu:0"):
        assert hml.ones(1).device == "gpu:0"
    assert hml.zeros_like(hml.ones(2).to("gpu:0")).device == "gpu:0"


def test_a_tensor_moves_and_its_gradient_moves_back(gpu: FakeGpu) -> None:
    x = hml.asarray([1.0, 2.0])
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = x.to("gpu:0")
        z = y * y
    assert (y.device, z.device, x.to("cpu:0") is x, y.to("gpu:0") is y) == ("gpu:0", "gpu:0", True, True)
    g = tape.gradient(z, x)
    assert (g.device, g.tolist()) == ("cpu:0", [2.0, 4.0])


def test_tensors_of_two_devices_are_refused_with_both_names_and_the_cure(gpu: FakeGpu) -> None:
    x, y = hml.ones(3), hml.ones(3).to("gpu:0")
    for call in (
        lambda: x + y,
        lambda: y * x,
        lambda: hml.where(x > 0, y, 0.0),
        lambda: hml.concat([x, y]),
        lambda: y[x > 0],
    ):
        with pytest.raises(
            DeviceError, match=r'cpu:0.*gpu:0.*x\.to\("gpu:0"\)|gpu:0.*cpu:0.*x\.to\("gpu:0"\)'
        ):
            call()
    with pytest.raises(DeviceError, match="two devices"):
        hml.function(lambda x, y: x + y)(x, y)


def test_what_is_no_tensor_yet_comes_to_its_operand(gpu: FakeGpu) -> None:
    x = hml.asarray(np.arange(6.0).reshape(2, 3)).to("gpu:0")
    for y in (x + np.ones(3), 2 * x, hml.take(x, [0, 1], axis=1), x[[0, 1]], hml.where(x > 1, x, [1.0, 2.0, 3.0]),
              x @ np.ones((3, 2)), hml.nn.softmax_cross_entropy(x, [0, 2]), hml.tril(x), hml.argmax(x, axis=1)):  # fmt: skip
        assert y.device == "gpu:0"
    v = hml.Variable(x)
    assert v.assign([[1.0, 2, 3], [4, 5, 6]]).device == "gpu:0"


def test_dlpack(gpu: FakeGpu) -> None:
    a = gpu.put(np.arange(3.0))
    shared, copied = hml.from_dlpack(a), hml.asarray(a)
    assert (shared.device, copied.device) == ("gpu:0", "gpu:0")
    a[0] = 7
    assert (shared.tolist(), copied.tolist()) == ([7.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    assert shared.__dlpack_device__() == (2, 0)
    b = np.arange(3.0)
    assert np.shares_memory(hml.from_dlpack(b).numpy(), b)


def test_reading_a_tensor(gpu: FakeGpu) -> None:
    x = hml.asarray([1.5, 2.5]).to("gpu:0")
    assert repr(x) == repr(x.to("cpu"))
    assert (float(x[0]), x.tolist(), np.asarray(x).tolist()) == (1.5, [1.5, 2.5], [1.5, 2.5])
    assert not x.numpy().flags.writeable
    assert ["a", "b", "c"][hml.asarray(1).to("gpu:0")] == "b"


def test_a_device_that_is_not_there() -> None:
    for call in (lambda: hml.ones(1).to("tpu:0"), lambda: hml.device("gpu:x").__enter__()):
        with pytest.raises(DeviceError, match="no device"):
            call()
    if backends.default() is backends.CPU:
        with pytest.raises(DeviceError, match="hybridml doctor"):
            hml.ones(1).to("gpu:0")


def test_an_error_of_cuda_is_no_error_of_shapes(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    class CUDARuntimeError(RuntimeError):
        __module__ = "cupy_backends.cuda.api.runtime"

    def lost(*_: Any, **__: Any) -> Any:
        raise CUDARuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setattr(type(gpu.xp), "exp", lost, raising=False)
    with hml.device("gpu:0"), pytest.raises(DeviceError, match="IllegalAddress"):
        hml.exp(hml.ones(3))
