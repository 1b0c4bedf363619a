"""How often the kernels of traced functions load and store each element, counted where the stand-in for a GPU runs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_driver import Traffic
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml.kernels import emit_cuda, launch
from hybridml.testing import assert_close

RNG = np.random.default_rng(6)
ROWS = 8  # as many as a block has, so that no thread repeats the last one


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def softmax_gradient(y: Any, g: Any) -> Any:
    return y * (g - hml.sum(y * g, axis=1, keepdims=True))


def layer_norm_gradient(x: Any, g: Any, s: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = hml.nn.layer_norm(x, s, s)
    return tape.gradient(y, x, output_gradients=g)


def cross_entropy(x: Any, labels: Any) -> Any:
    return hml.nn.softmax_cross_entropy(x, labels)


def cross_entropy_gradient(x: Any, labels: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch(x)
        loss = hml.sum(cross_entropy(x, labels))
    return tape.gradient(loss, x)


def traffic(gpu: FakeGpu, f: Callable[..., Any], *args: Any) -> list[Traffic]:
    """Of the operands that have a row's every element, in a warmed-up call whose results are right."""
    g = hml.function(f)
    there = [hml.asarray(a).to("gpu:0") for a in args]
    with hml.device("gpu:0"):
        first = g(*there)
        gpu.driver.traffic.clear()
        again = g(*there)
    expected = f(*[hml.asarray(a) for a in args]).numpy()
    for result in (first, again):
        np.testing.assert_allclose(result.to("cpu").numpy(), expected, rtol=2e-5, atol=1e-5)
    return [t for t in gpu.driver.traffic if len(t.loads.keys() | t.stores.keys()) >= args[0].size]


# fmt: off
CASES: dict[str, tuple[Callable[..., Any], Callable[[int], list[Any]], int, int]] = {  # name: f, arguments, inputs, outputs
    "softmax": (hml.nn.softmax, lambda n: [floats(ROWS, n)], 1, 1),
    "log_softmax": (hml.nn.log_softmax, lambda n: [floats(ROWS, n)], 1, 1),
    "softmax_gradient": (softmax_gradient, lambda n: [floats(ROWS, n), floats(ROWS, n)], 2, 1),
    "cross_entropy": (cross_entropy, lambda n: [floats(ROWS, n), RNG.integers(0, n, ROWS)], 1, 0),
    "cross_entropy_gradient": (cross_entropy_gradient, lambda n: [floats(ROWS, n), RNG.integers(0, n, ROWS)], 1, 1),
    "layer_norm_gradient": (layer_norm_gradient, lambda n: [floats(ROWS, n), floats(ROWS, n), floats(n)], 2, 1),
    "layer_norm": (lambda x, s: hml.nn.layer_norm(x, s, s), lambda n: [floats(ROWS, n), floats(n)], 1, 1),
}
# fmt: on


@pytest.mark.parametrize("n", [192, 190, 101], ids=["16 bytes", "8 bytes", "one by one"])
@pytest.mark.parametrize("name", CASES)
def test_each_element_is_read_once_and_written_once(gpu: FakeGpu, name: str, n: int) -> None:
    f, arguments, inputs, outputs = CASES[name]
    found = traffic(gpu, f, *arguments(n))
    assert [t.bytes_per_element for t in found if t.operand[0] == "x"] == [(4.0, 0.0)] * inputs
    assert [t.bytes_per_element for t in found if t.operand[0] == "o"] == [(0.0, 4.0)] * outputs


@pytest.mark.parametrize("n", [804, 603], ids=["16 bytes", "one by one"])
@pytest.mark.parametrize("name", CASES)
def test_rows_beyond_the_registers_are_read_once_too(
    gpu: FakeGpu, name: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HELD", ())
    monkeypatch.setattr(launch, "WIDEST", 64)  # so that each thread has several batches of elements
    f, arguments, inputs, outputs = CASES[name]
    found = traffic(gpu, f, *arguments(n))
    assert [t.bytes_per_element for t in found if t.operand[0] == "x"] == [(4.0, 0.0)] * inputs
    assert [t.bytes_per_element for t in found if t.operand[0] == "o"] == [(0.0, 4.0)] * outputs


def test_one_long_row_is_one_kernel_that_reads_it_once(gpu: FakeGpu) -> None:
    x = floats(1, 33_000)  # more than the registers of a block hold, and 127 KiB
    f = hml.function(hml.nn.softmax)
    with hml.device("gpu:0"):
        y = f(hml.asarray(x).to("gpu:0")).to("cpu").numpy()
    np.testing.assert_allclose(y, hml.nn.softmax(hml.asarray(x)).numpy(), rtol=2e-5, atol=0)
    assert len([entry for entry in gpu.driver.log if entry.startswith("launch")]) == 1
    assert {t.operand: t.bytes_per_element for t in gpu.driver.traffic} == {
        "x0": (4.0, 0.0),
        "o0": (0.0, 4.0),
    }


def test_a_device_with_little_shared_memory_reads_long_rows_again(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HELD", ())
    gpu.driver.shared_bytes = 2048
    found = traffic(gpu, hml.nn.softmax, floats(ROWS, 500))
    assert [t.bytes_per_element for t in found if t.operand[0] == "x"] == [(8.0, 0.0)]


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4])
def test_views_at_any_address_are_right(gpu: FakeGpu, first: int) -> None:
    def f(x: Any) -> Any:
        part = x[first : first + 4096]
        return hml.nn.softmax(part.reshape((64, 64))) * 2 + part.reshape((64, 64))

    (*_,) = traffic(gpu, f, floats(4104))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_])
def test_transposed_reads_are_of_neighbouring_elements(gpu: FakeGpu, dtype: Any) -> None:
    def f(x: Any) -> Any:
        y = hml.permute_dims(x, (0, 2, 1))
        return hml.logical_not(y) if dtype is np.bool_ else y * 2 + 1

    x = (floats(2, 32, 64) * 2).astype(dtype)
    (found, stored) = sorted(traffic(gpu, f, x), key=lambda t: t.operand, reverse=True)
    assert found.bytes_per_element == (x.itemsize, 0.0)
    assert stored.bytes_per_element == (0.0, x.itemsize)
    assert found.sector_bytes_per_element == stored.sector_bytes_per_element == x.itemsize


def test_transposed_reads_that_are_not_turned_move_a_sector_each(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit_cuda, "turn", lambda spec, words: None)
    found = traffic(gpu, lambda x: hml.exp(x.T), floats(256, 16))
    assert [t.sector_bytes_per_element for t in found if t.operand == "x0"] == [32.0]


@pytest.mark.parametrize("half", [hml.float16, hml.bfloat16], ids=str)
def test_half_precision_has_kernels(gpu: FakeGpu, half: np.dtype) -> None:
    x = floats(ROWS, 192).astype(half)
    f = hml.function(lambda x: hml.nn.softmax(x * 2))
    with hml.device("gpu:0"):
        found = f(hml.asarray(x).to("gpu:0")).to("cpu")
    assert found.dtype == half
    assert_close(found.numpy(), hml.nn.softmax(hml.asarray(x) * 2).numpy(), ops=2)
    moved = {t.operand: t.bytes_per_element for t in gpu.driver.traffic if len(t.loads | t.stores) == x.size}
    assert moved == {"x0": (2.0, 0.0), "o0": (0.0, 2.0)}
