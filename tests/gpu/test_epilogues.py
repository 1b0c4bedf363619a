"""What matrix products of a GPU program take as their epilogue, what they leave, and that results stay what the interpreter gives."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml.kernels.cuda.absorb import absorb
from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.epilogue import PRODUCT, Epilogue
from hybridml.kernels.cuda.lt import CuBlasLt, epilogue_number, kept_row
from hybridml.kernels.cuda.region import product_plan
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

RNG = np.random.default_rng(7)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def graph_of(f: Any, args: list[Any]) -> Any:
    return hml.function(f).get_concrete_function(*map(hml.asarray, args)).optimized


def training(activation: Any) -> Any:
    def f(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch([w1, b1, w2, b2])
            loss = hml.mean((activation(x @ w1 + b1) @ w2 + b2 - y) ** 2)
        return loss, tape.gradient(loss, [w1, b1, w2, b2])

    return f


def tanh_gelu(x: Any) -> Any:
    return hml.nn.gelu(x, approximate=True)


def net(*lead: int) -> list[Any]:
    return [floats(*lead, 7), floats(*lead, 3), floats(7, 16), floats(16), floats(16, 3), floats(3)]


def stacked(x: Any, a: Any, b: Any) -> Any:
    return hml.nn.relu(x @ a[0] + b[1]), tanh_gelu(x @ a[1])


# fmt: off
TAKEN: dict[str, tuple[Any, list[Any], list[str]]] = {
    "bias": (lambda x, w, b: x @ w + b, [floats(5, 4), floats(4, 3), floats(3)], ["bias"]),
    "bias first": (lambda x, w, b: b + x @ w, [floats(5, 4), floats(4, 3), floats(1, 3)], ["bias"]),
    "relu": (lambda x, w: hml.nn.relu(x @ w), [floats(5, 4), floats(4, 3)], ["relu"]),
    "transposed operands": (lambda x, w, b: hml.nn.relu(x.T @ w.T + b), [floats(4, 5), floats(3, 4), floats(3)], ["bias, relu"]),
    "gelu": (lambda x, w, b: tanh_gelu(x @ w + b), [floats(5, 4), floats(4, 3), floats(3)], ["bias, gelu"]),
    "an example of a batch": (lambda x, w, b: hml.nn.relu(x @ w + b), [floats(2, 3, 4), floats(4, 5), floats(5)], ["bias, relu"]),
    "parts of stacked weights": (stacked, [floats(5, 4), floats(2, 4, 8), floats(2, 8)], ["bias, relu", "gelu"]),
    "gelu and its operand": (lambda x, w: (tanh_gelu(x @ w), x @ w * 2), [floats(5, 4), floats(4, 8)], ["gelu, kept"]),
    "signs of relu's operand": (lambda x, w: (hml.nn.relu(x @ w), (x @ w <= 0) * 2), [floats(5, 4), floats(4, 3)], ["relu"]),
    "training with relu": (training(hml.nn.relu), net(6),
                           ["bias, relu, kept", "bias", "relu gradient, bias gradient", "bias gradient"]),
    "training with gelu": (training(tanh_gelu), net(6),
                           ["bias, gelu, kept", "bias", "gelu gradient, bias gradient", "bias gradient"]),
    "training on sequences": (training(hml.nn.relu), net(2, 3),
                              ["bias, relu, kept", "bias", "relu gradient, bias gradient", "bias gradient"]),
    "training with erf": (training(hml.nn.gelu), net(6), ["bias", "bias", "bias gradient", "bias gradient"]),
}
LEFT: dict[str, tuple[Any, list[Any], str]] = {
    "a matrix added": (lambda x, w, y: x @ w + y, [floats(5, 4), floats(4, 3), floats(5, 3)], "no vector along the last axis"),
    "gelu by erf": (lambda x, w: hml.nn.gelu(x @ w), [floats(5, 4), floats(4, 3)], "by erf"),
    "a batch": (lambda x, y: hml.nn.relu(x @ y), [floats(2, 5, 4), floats(2, 4, 3)], "not for batches"),
    "relu's operand read": (lambda x, w: (hml.nn.relu(x @ w), x @ w * 2), [floats(5, 4), floats(4, 3)], "read elsewhere"),
    "odd rows to keep": (lambda x, w: (tanh_gelu(x @ w), x @ w * 2), [floats(5, 4), floats(4, 3)], "multiple of 8"),
}
# fmt: on


def epilogues(graph: Any) -> list[str]:
    return [str(n.attrs["epilogue"]) for n in graph.nodes if n.op is PRODUCT]


@pytest.mark.parametrize("name", TAKEN)
def test_products_take_what_follows_them(name: str) -> None:
    f, args, expected = TAKEN[name]
    graph = graph_of(f, args)
    found, _ = absorb(graph, product_plan, lambda plan: None)
    verify(found)
    assert sorted(epilogues(found)) == sorted(expected)
    for got, want in zip(interpret(found, args)[0], interpret(graph, args)[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_stays_a_kernel_and_says_why(name: str) -> None:
    f, args, reason = LEFT[name]
    graph = graph_of(f, args)
    found, refusals = absorb(graph, product_plan, lambda plan: None)
    assert not epilogues(found)
    assert found is graph
    assert any(reason in r.reason for r in refusals), refusals


def test_double_precision_is_left_alone() -> None:
    args = [floats(5, 4).astype("d"), floats(4, 3).astype("d")]
    graph = graph_of(lambda x, w: hml.nn.relu(x @ w), args)
    assert absorb(graph, product_plan, lambda plan: None)[0] is graph


@pytest.mark.parametrize("name", ["training with relu", "training with gelu"])
@pytest.mark.parametrize("word", ["bias", "relu", "gelu", "kept", "gradient", "bias gradient", ""])
def test_what_the_library_refuses_stays_and_results_are_the_same(name: str, word: str, gpu: FakeGpu) -> None:
    f, args, _ = TAKEN[name]
    gpu.driver.refused = lambda plan: f"no {word}" if word in str(plan.epilogue) else None
    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        traced = hml.function(f)
        for _ in range(3):
            got = traced(*map(hml.asarray, args))
            for g, e in zip(hml.pytree.leaves(got), hml.pytree.leaves(expected), strict=True):
                np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-5, atol=2e-5)
        program = traced.get_concrete_function(*map(hml.asarray, args)).program
    assert not any(word and word in str(n.attrs["epilogue"]) for n in program.graph.nodes if n.op is PRODUCT)
    assert any(f"no {word}" == r.reason for r in program.refusals) or word not in str(TAKEN[name][2])


def test_nan_passes_relu_and_its_gradient(gpu: FakeGpu) -> None:
    args = net(6)
    args[0][2, 3] = np.nan
    expected = hml.function(training(hml.nn.relu))(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        got = hml.function(training(hml.nn.relu))(*map(hml.asarray, args))
    for g, e in zip(hml.pytree.leaves(got), hml.pytree.leaves(expected), strict=True):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-5, atol=2e-5)


def test_the_program_says_what_its_products_do(gpu: FakeGpu) -> None:
    f, args, _ = TAKEN["training with relu"]
    with hml.device("gpu:0"):
        tensors = [hml.asarray(a) for a in args]
        traced = hml.function(f)
        traced(*tensors)
        calls = [line for line in gpu.driver.log if line.startswith("library")]
        assert calls == [
            "library 6 x 7 x 16 in float32, then bias, relu, kept", "library 6 x 16 x 3 in float32, then bias",
            "library 6 x 3 x 16 in float32, then relu gradient, bias gradient", "library 16 x 6 x 3 in float32, then bias gradient",
            "library 7 x 6 x 16 in float32",
        ]  # fmt: skip
        text = str(traced.explain(*tensors))
    assert "matmul_epilogue: 6 x 7 x 16 in float32, then bias, relu, kept" in text


# the library's own numbers


def test_the_numbers_of_cublaslt() -> None:
    numbers = {  # from cublasLt.h
        Epilogue(): 1, Epilogue(function="relu"): 2, Epilogue(function="relu", keeps=True): 130, Epilogue(bias=True): 4,
        Epilogue(bias=True, function="relu"): 6, Epilogue(bias=True, function="relu", keeps=True): 134, Epilogue(derivative="relu"): 136,
        Epilogue(derivative="relu", sums="rows"): 152, Epilogue(function="gelu"): 32, Epilogue(function="gelu", keeps=True): 160,
        Epilogue(bias=True, function="gelu"): 36, Epilogue(bias=True, function="gelu", keeps=True): 164, Epilogue(derivative="gelu"): 192,
        Epilogue(derivative="gelu", sums="rows"): 208, Epilogue(sums="second"): 256,
    }  # fmt: skip
    for epilogue, number in numbers.items():
        assert epilogue_number(epilogue) == number, epilogue
    assert [kept_row(Epilogue(function="relu"), n) for n in (1, 128, 129)] == [128, 128, 256]
    assert kept_row(Epilogue(derivative="gelu"), 24) == 24


class Recorded:
    """A library whose functions note their arguments and succeed."""

    def __init__(self, found: int = 1) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.found = found

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            self.calls.append((name, args))
            if name == "cublasLtMatmulAlgoGetHeuristic":
                args[-1]._obj.value = self.found
            return 0

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def plan(epilogue: Epilogue) -> ProductPlan:
    return ProductPlan(64, 128, 32, "float32", False, True, 1, 32, 32, (0, 0, 0), "tf32", epilogue=epilogue)


def opened(library: Any) -> CuBlasLt:
    lt = CuBlasLt(lambda: "", 1 << 20)
    lt._library = library
    return lt


def test_an_algorithm_is_chosen_once_for_each_plan_and_alignment() -> None:
    library = Recorded()
    lt, p = opened(library), plan(Epilogue(bias=True))
    for _ in range(3):
        lt.product(p, [256, 512, 1024], [2048], 4096, 7)
    lt.product(p, [256 + 4, 512, 1024], [2048], 4096, 7)
    assert library.names().count("cublasLtMatmulAlgoGetHeuristic") == 2
    matmuls = [args for name, args in library.calls if name == "cublasLtMatmul"]
    assert len(matmuls) == 4
    assert [a.value for a in matmuls[0] if isinstance(a, ctypes.c_void_p) and a.value] == [
        512,
        256,
        2048,
        2048,
        4096,
        7,
    ]


def test_a_product_that_the_library_has_not_is_refused_with_its_epilogue() -> None:
    assert opened(Recorded()).refuse(plan(Epilogue(bias=True))) is None
    assert "bias, relu" in str(opened(Recorded(found=0)).refuse(plan(Epilogue(bias=True, function="relu"))))


@pytest.mark.parametrize(
    "epilogue", [Epilogue(bias=True, function="relu", keeps=True), Epilogue(derivative="gelu", sums="rows")]
)
def test_the_real_library_takes_our_descriptors(epilogue: Epilogue) -> None:
    """Descriptors need no GPU: where the wheel is installed, it is asked what it understood."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        path = pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path
    except Exception as error:  # its own class
        pytest.skip(f"no cuBLASLt here: {error}")
    lt = opened(ctypes.CDLL(path))
    found = lt._descriptors(plan(epilogue), [256] * 6)
    attributes = {0: 77, 1: 0, 3: 1, 4: 0, 7: epilogue_number(epilogue), 12: 128}
    for attribute, expected in attributes.items():
        value, written = ctypes.c_uint64(), ctypes.c_size_t()
        for size in (4, 8):
            if not lt._library.cublasLtMatmulDescGetAttribute(
                found.product, attribute, ctypes.byref(value), ctypes.c_size_t(size), ctypes.byref(written)
            ):
                break
        assert value.value == expected
