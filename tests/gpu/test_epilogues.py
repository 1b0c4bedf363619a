"""What matrix products of a GPU program take as their epilogue, what they leave, and that results stay what the interpreter gives."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import config
from hybridml.kernels.cuda.absorb import absorb
from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.epilogue import PRODUCT, Epilogue
from hybridml.kernels.cuda.items import Eager
from hybridml.kernels.cuda.lt import CuBlasLt, epilogue_number, kept_row
from hybridml.kernels.cuda.steps import LibraryStep
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

RNG = np.random.default_rng(7)

NEAR = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}
if not hasattr(hml, "bfloat16"):
    del NEAR["bfloat16"]


@pytest.fixture(autouse=True)
def relu_is_taken() -> Iterator[None]:
    """Which loses NaN in the library, though not in the one that stands in for it here."""
    with config.scope(fast_math=True):
        yield


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


def experts() -> list[Any]:
    return [
        floats(2, 6, 7),
        floats(2, 6, 3),
        floats(2, 7, 16),
        floats(2, 1, 16),
        floats(2, 16, 3),
        floats(2, 1, 3),
    ]


def residual_block(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch([x, w1, b1, w2, b2])
        h = x * 2
        loss = hml.sum((h + (hml.nn.relu(h @ w1 + b1) @ w2 + b2)) ** 2)
    return loss, tape.gradient(loss, [x, w1, b1, w2, b2])


def shared_weights(x: Any, y: Any, g: Any, w: Any) -> Any:
    """The two products of a gradient of a weight that is used twice, and the sum of one's second operand."""
    return x.T @ g + y.T @ (g * w), hml.sum(g, axis=0)


def crosswise(x: Any, g: Any, h: Any) -> Any:
    """Either sum can be made by its product, and not both: each product reads the other's."""
    s, t = hml.sum(g, axis=0), hml.sum(h, axis=0)
    return (x * t).T @ g, (x * s).T @ h, s, t


def summed_in_single(x: Any, g: Any, xs: Any, gs: Any) -> Any:
    def total(g: Any, axis: int) -> Any:
        return hml.astype(hml.sum(hml.astype(g, hml.float32), axis=axis), g.dtype)

    return x.T @ g, total(g, 0), hml.permute_dims(xs, (0, 2, 1)) @ gs, total(gs, 1)


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
    "a matrix added": (lambda x, w, y: y + x @ w, [floats(5, 4), floats(4, 3), floats(5, 3)], ["residual"]),
    "a part of a matrix added": (lambda x, w, y: y[2:7] + x @ w, [floats(5, 4), floats(4, 3), floats(9, 3)], ["residual"]),
    "bias, then a matrix": (lambda x, w, b, y: y + (x @ w + b), [floats(5, 4), floats(4, 3), floats(3), floats(5, 3)], ["residual, bias"]),
    "a matrix, then bias, relu": (lambda x, w, b, y: hml.nn.relu(y + x @ w + b), [floats(5, 4), floats(4, 3), floats(3), floats(5, 3)],
                                  ["residual, bias, relu"]),
    "two products": (lambda x, w, y, v: x @ w + y @ v, [floats(5, 4), floats(4, 3), floats(5, 2), floats(2, 3)], ["residual"]),
    "two products of one row": (lambda x, w, y, v: x @ w + y @ v, [floats(1, 4), floats(4, 3), floats(1, 2), floats(2, 3)], ["bias"]),
    "a gradient in two parts": (shared_weights, [floats(5, 4), floats(5, 4), floats(5, 3), floats(3)], ["residual, bias gradient"]),
    "sums that wait for each other": (crosswise, [floats(5, 4), floats(5, 4), floats(5, 4)], ["bias gradient"]),
    "a gradient summed in float32": (summed_in_single, [floats(5, 4), floats(5, 3), floats(2, 5, 4), floats(2, 5, 3)],
                                     ["bias gradient", "bias gradient"]),
    "training with residual": (residual_block, [floats(6, 8), floats(8, 16), floats(16), floats(16, 8), floats(8)],
                               ["bias, relu, kept", "residual, bias", "relu gradient, bias gradient", "bias gradient", "residual"]),
    "a batch": (lambda x, y: hml.nn.relu(x @ y), [floats(2, 5, 4), floats(2, 4, 3)], ["relu"]),
    "a bias for a batch": (lambda x, y, b: tanh_gelu(x @ y + b), [floats(2, 5, 4), floats(2, 4, 3), floats(3)], ["bias, gelu"]),
    "a bias for each of a batch": (lambda x, y, b: x @ y + b[1:], [floats(2, 5, 4), floats(2, 4, 3), floats(3, 1, 3)], ["biases"]),
    "two axes of a batch": (lambda x, y, b: x @ y + b, [floats(2, 3, 5, 4), floats(2, 3, 4, 6), floats(2, 3, 1, 6)], ["biases"]),
    "a batch of rows": (lambda x, y, b: x @ y + b, [floats(2, 1, 4), floats(2, 4, 3), floats(2, 1, 3)], ["biases"]),
    "a residual of a batch": (lambda x, y, r: r + x @ y, [floats(2, 5, 4), floats(2, 4, 3), floats(2, 5, 3)], ["residual"]),
    "a batch and its operand": (lambda x, y: (tanh_gelu(x @ y), x @ y * 2), [floats(2, 5, 4), floats(2, 4, 8)], ["gelu, kept"]),
    "training of experts with relu": (training(hml.nn.relu), experts(),
                                      ["biases, relu, kept", "biases", "relu gradient, bias gradient", "bias gradient"]),
    "training of experts with gelu": (training(tanh_gelu), experts(),
                                      ["biases, gelu, kept", "biases", "gelu gradient, bias gradient", "bias gradient"]),
    "training with erf": (training(hml.nn.gelu), net(6), ["bias", "bias", "bias gradient", "bias gradient"]),
}
LEFT: dict[str, tuple[Any, list[Any], str]] = {
    "a column added": (lambda x, w, y: x @ w + y, [floats(5, 4), floats(4, 3), floats(5, 1)], "neither a vector along the last axis"),
    "a transposed matrix added": (lambda x, w, y: x @ w + y.T, [floats(5, 4), floats(4, 3), floats(3, 5)], "nor a whole matrix"),
    "a bias for one axis of a batch": (lambda x, y, b: x @ y + b, [floats(2, 3, 5, 4), floats(2, 3, 4, 6), floats(3, 1, 6)],
                                       "neither a vector along the last axis"),
    "gelu by erf": (lambda x, w: hml.nn.gelu(x @ w), [floats(5, 4), floats(4, 3)], "by erf"),
    "a batch at several distances": (lambda x, y: hml.nn.relu(hml.permute_dims(x, (0, 2, 1, 3)) @ y),
                                     [floats(2, 5, 3, 4), floats(2, 3, 4, 3)], "a batch at equal distances"),
    "relu's operand read": (lambda x, w: (hml.nn.relu(x @ w), x @ w * 2), [floats(5, 4), floats(4, 3)], "read elsewhere"),
    "odd rows to keep": (lambda x, w: (tanh_gelu(x @ w), x @ w * 2), [floats(5, 4), floats(4, 3)], "multiple of 8"),
}
# fmt: on


def epilogues(graph: Any) -> list[str]:
    return [str(n.attrs["epilogue"]) for n in graph.nodes if n.op is PRODUCT]


def not_in_double(name: str) -> bool:
    return "gelu" in str(TAKEN[name][2]) or "float32" in name


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in TAKEN for d in NEAR if not (d == "float64" and not_in_double(n))]
)
def test_products_take_what_follows_them(name: str, dtype: str, gpu: FakeGpu) -> None:
    """The pass against the interpreter, then the whole program, launched, recorded and replayed. Products of 16 bits are held to float32,
    which they are nearer to than what rounds after each step: that may even take another branch of relu."""
    f, args, expected = TAKEN[name]
    args = [a.astype(dtype) for a in args]
    graph = graph_of(f, args)
    found, _ = absorb(graph, lambda plan, aligned: None)
    verify(found)
    assert sorted(epilogues(found)) == sorted(expected)
    wide = (
        [a.astype(np.promote_types(dtype, "f")) for a in args]
        if dtype != "bfloat16"
        else [a.astype("f") for a in args]
    )
    wanted = interpret(graph_of(f, wide), wide)[0]
    near = NEAR[dtype]
    for got, want in zip(interpret(found, args)[0], wanted, strict=True):
        np.testing.assert_allclose(
            got.astype(want.dtype), want, rtol=near, atol=near * max(1, np.abs(want).max())
        )
    with hml.device("gpu:0"):
        traced, tensors = hml.function(f), [hml.asarray(a) for a in args]
        for _ in range(3):
            got = hml.pytree.leaves(traced(*tensors))
            for g, want in zip(got, wanted, strict=True):
                scale = max(1, np.abs(want).max())
                np.testing.assert_allclose(g.numpy().astype(want.dtype), want, rtol=near, atol=near * scale)
        program = traced.get_concrete_function(*tensors).program
    assert sorted(epilogues(program.graph)) == sorted(expected)
    assert not any(isinstance(p, Eager) for p in program.program.parts)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_stays_a_kernel_and_says_why(name: str) -> None:
    f, args, reason = LEFT[name]
    graph = graph_of(f, args)
    found, refusals = absorb(graph, lambda plan, aligned: None)
    assert not epilogues(found)
    assert found is graph
    assert any(reason in r.reason for r in refusals), refusals


def test_gelu_in_double_precision_is_left_alone(gpu: FakeGpu) -> None:
    args = [floats(5, 4).astype("d"), floats(4, 3).astype("d"), floats(3).astype("d")]
    found, refusals = absorb(graph_of(lambda x, w, b: tanh_gelu(x @ w + b), args), gpu.driver.refuse)
    assert epilogues(found) == ["bias"]
    assert any("single precision" in r.reason for r in refusals)


def test_relu_is_left_to_a_kernel_because_the_library_s_loses_nan(gpu: FakeGpu) -> None:
    args = net(6)
    args[0][2, 3] = np.nan
    expected = hml.function(training(hml.nn.relu))(*map(hml.asarray, args))
    with config.scope(fast_math=False), hml.device("gpu:0"):
        traced = hml.function(training(hml.nn.relu))
        check_launched_recorded_and_replayed(traced, args, expected)
        program = traced.get_concrete_function(*map(hml.asarray, args)).program
    assert sorted(epilogues(program.graph)) == ["bias", "bias", "bias gradient", "bias gradient"]
    assert any("makes 0 of NaN" in r.reason and "FAST_MATH" in r.reason for r in program.refusals)


def check_launched_recorded_and_replayed(traced: Any, args: list[Any], expected: Any) -> None:
    """The first three calls: each runs the program in another way."""
    for _ in range(3):
        got = traced(*map(hml.asarray, args))
        for g, e in zip(hml.pytree.leaves(got), hml.pytree.leaves(expected), strict=True):
            np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["training with relu", "training with gelu"])
@pytest.mark.parametrize("word", ["bias", "relu", "gelu", "kept", "gradient", "bias gradient", ""])
def test_what_the_library_refuses_stays_and_results_are_the_same(name: str, word: str, gpu: FakeGpu) -> None:
    f, args, _ = TAKEN[name]
    gpu.driver.refused = lambda plan: f"no {word}" if word in str(plan.epilogue) else None
    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        traced = hml.function(f)
        check_launched_recorded_and_replayed(traced, args, expected)
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


def test_a_residual_is_the_librarys_c_and_may_be_its_d() -> None:
    library = Recorded()
    lt = opened(library)
    lt.product(plan(Epilogue(residual=True, bias=True)), [256, 512, 768, 1024], [2048], 4096, 7)
    lt.product(plan(Epilogue(bias=True)), [256, 512, 1024], [2048], 4096, 7)
    betas, cs = [], []
    for name, args in library.calls:
        if name == "cublasLtMatmul":
            betas.append(args[7]._obj.value)
            cs.append((args[8].value, args[10].value))
    assert betas == [1.0, 0.0]
    assert {type(args[7]._obj) for name, args in library.calls if name == "cublasLtMatmul"} == {
        ctypes.c_float
    }
    lt.product(replace(plan(Epilogue(residual=True)), dtype="float64"), [256, 512, 768], [2048], 4096, 7)
    assert type(library.calls[-1][1][7]._obj) is ctypes.c_double
    assert cs == [(768, 2048), (2048, 2048)]


def read_back(f: Any, descriptor: Any, attribute: int, size: int) -> int:
    value, written = ctypes.c_int64(), ctypes.c_size_t()
    status = f(descriptor, attribute, ctypes.byref(value), ctypes.c_size_t(size), ctypes.byref(written))
    assert (status, written.value) == (0, size), attribute
    return value.value


@pytest.fixture(scope="module")
def real() -> CuBlasLt:
    """The library itself: descriptors need no GPU. Algorithms do, so there are none."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        path = pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path
    except Exception as error:  # its own class
        pytest.skip(f"no cuBLASLt here: {error}")
    return opened(ctypes.CDLL(path))


REAL = {  # epilogue, batch: bytes of the bias's distance and of what is kept
    "single": (Epilogue(bias=True, function="relu", keeps=True), 1, 0, 128),
    "backward": (Epilogue(derivative="gelu", sums="rows"), 1, 128, 128),
    "batch": (Epilogue(residual=True, bias=True, function="gelu", keeps=True), 5, 0, 128),
    "biases": (Epilogue(bias=True, each=True, function="relu", keeps=True), 5, 128, 128),
    "batch backward": (Epilogue(derivative="relu", sums="rows"), 5, 128, 128),
    "second": (Epilogue(sums="second"), 5, 128, 0),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", REAL)
def test_the_real_library_takes_our_descriptors(name: str, dtype: str, real: CuBlasLt) -> None:
    """It is asked what it understood."""
    epilogue, batch, step, row = REAL[name]
    p = replace(plan(epilogue), dtype=dtype, batch=batch, strides=(64 * 32, 0, 64 * 128))
    found = real._descriptors(p, [256] * 6)
    product = real._library.cublasLtMatmulDescGetAttribute
    compute = {"float64": 70, "float32": 77}.get(dtype, 68)
    sizes = {0: 4, 1: 4, 3: 4, 4: 4, 7: 4, 10: 8, 12: 8, 13: 8}
    said = {a: read_back(product, found.product, a, size) for a, size in sizes.items()}
    number = epilogue_number(epilogue)
    assert said == {
        0: compute,
        1: int(dtype == "float64"),
        3: 1,
        4: 0,
        7: number,
        10: step,
        12: row,
        13: row * 64,
    }
    kind = {"float64": 1, "float32": 0, "float16": 2, "bfloat16": 14}[dtype]
    layout = real._library.cublasLtMatrixLayoutGetAttribute
    shapes = {"a": (32, 128, 32, 0), "b": (32, 64, 32, 64 * 32), "d": (128, 64, 128, 64 * 128)}
    for which, (rows, columns, ld, distance) in shapes.items():
        descriptor = getattr(found, which)
        sizes = {0: 4, 2: 8, 3: 8, 4: 8, 5: 4, 6: 8}
        said = {a: read_back(layout, descriptor, a, size) for a, size in sizes.items()}
        distance = distance if batch > 1 else 0
        assert said == {0: kind, 2: rows, 3: columns, 4: ld, 5: batch, 6: distance}, which


def test_sums_of_16_bit_products_are_added_up_in_float32(real: CuBlasLt) -> None:
    """What is asked of the heuristics, by the library's own reading."""
    preference, known = ctypes.c_void_p(), []
    f = real._library.cublasLtMatmulPreferenceSetAttribute
    for dtype in ("float32", "float16", "bfloat16"):
        library = Recorded()
        opened(library)._descriptors(replace(plan(Epilogue(bias=True)), dtype=dtype), [256] * 6)
        assert not real._library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference))
        for name, args in library.calls:
            if name == "cublasLtMatmulPreferenceSetAttribute":
                assert f(preference, *args[1:]) == 0
        get = real._library.cublasLtMatmulPreferenceGetAttribute
        known.append([read_back(get, preference, a, size) for a, size in ((1, 8), (3, 4), (5, 4), (8, 4))])
    assert known == [[1 << 20, 7, 256, 256], [1 << 20, 2, 256, 256], [1 << 20, 2, 256, 256]]


# where buffers lie


def test_what_may_lie_anywhere_is_asked_for_so() -> None:
    """Parts of larger arrays, and in a loop's body whatever comes from outside or goes there: it may be a row of a scan."""

    def f(x: Any, w: Any, b: Any) -> Any:
        return hml.nn.relu(x @ w[1] + b[1])

    def asked(args: list[Any], *outside: Any) -> set[int]:
        found = set()
        absorb(graph_of(f, args), lambda plan, aligned: found.add(aligned), *outside)
        return found

    even, odd = [floats(5, 4), floats(2, 4, 4), floats(2, 4)], [floats(5, 4), floats(2, 4, 3), floats(2, 3)]
    assert asked(even) == {16}
    assert asked(odd) == {4}
    assert asked([a.astype("e") for a in even]) == {8}
    assert asked(even, 4) == {4}  # in a branch that is given part of a larger array
    assert asked(even, 16, True) == {16}  # in a scan over rows of 16 bytes, or of 80
    assert asked([floats(5, 3), floats(2, 3, 4), floats(2, 4)], 16, True) == {4}  # of 60


def branch(x: Any, w: Any, flat: Any, start: int) -> Any:
    b = flat[start : start + 4]
    return hml.cond(hml.sum(x) > 0, lambda: hml.nn.relu(x @ w + b), lambda: x)


def rows(x: Any, w: Any, flat: Any, start: int) -> Any:
    size = len(w)
    xs = hml.reshape(flat[start : start + 2 * size], (2, 1, size))
    return hml.scan(lambda h, x: (h * 0.5, hml.nn.relu((x * hml.sum(h)) @ w + x)), x, xs)


@pytest.mark.parametrize(
    ("f", "size", "start", "expected"),
    [
        (branch, 4, 0, 16),
        (branch, 4, 1, 4),
        (branch, 4, 4, 16),
        (rows, 4, 4, 16),
        (rows, 4, 2, 8),
        (rows, 3, 0, 4),
    ],
)
def test_what_a_branch_or_a_scan_is_given_is_followed(
    f: Any, size: int, start: int, expected: int, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[int] = set()
    monkeypatch.setattr(gpu.driver, "refuse", lambda plan, aligned=16: asked.add(aligned))
    with hml.device("gpu:0"):
        args = [hml.asarray(floats(*s)) for s in ((4, size), (size, size), (40,))]
        hml.function(f).get_concrete_function(*args, start)
    assert asked == {expected}


def test_a_residual_that_nobody_else_reads_gives_its_place(gpu: FakeGpu) -> None:
    def alone(x: Any, w: Any, r: Any) -> Any:
        return hml.exp(hml.tanh(r) + x @ w)

    def operand_too(x: Any, w: Any, r: Any) -> Any:
        h = hml.tanh(r)
        return hml.exp(h + h @ w)

    def read_later(x: Any, w: Any, r: Any) -> Any:
        h = hml.tanh(r)
        return hml.exp(h + x @ w), hml.cumsum(h, axis=0)

    args = [floats(4, 4), floats(4, 4), floats(4, 4)]
    shares = {}
    with hml.device("gpu:0"):
        for f in (alone, operand_too, read_later):
            tensors = [hml.asarray(a) for a in args]
            region = hml.function(f).get_concrete_function(*tensors).program.region
            (step,) = [s for s in region.steps if isinstance(s, LibraryStep)]
            residual = step.operands[2][0]
            shares[f.__name__] = region.offset[residual] == region.offset[step.results[0][0]]
            for _ in range(3):
                got, want = hml.function(f)(*tensors), f(*map(hml.asarray, args))
                for g, e in zip(hml.pytree.leaves(got), hml.pytree.leaves(want), strict=True):
                    np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-5, atol=2e-5)
    assert shares == {"alone": True, "operand_too": False, "read_later": False}


def test_a_loop_adds_to_what_it_carries(gpu: FakeGpu) -> None:
    def f(h: Any, xs: Any, w: Any, b: Any) -> Any:
        def body(c: Any, x: Any) -> Any:
            h, total = c
            return (h + (h @ w + b), total + h @ w.T), x @ w + b

        return hml.scan(body, (h, h * 2), xs)

    args = [floats(3, 3), floats(4, 3, 3), floats(3, 3), floats(3)]
    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        traced = hml.function(f)
        check_launched_recorded_and_replayed(traced, args, expected)
        text = str(traced.explain(*map(hml.asarray, args)))
    assert "then residual, bias" in text
    assert "then residual\n" in text
