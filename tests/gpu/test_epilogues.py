"""What matrix products of a GPU program take as their epilogue, what they leave, and that results stay what the interpreter gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import config
from hybridml.kernels.cuda.absorb import absorb
from hybridml.kernels.cuda.epilogue import PRODUCT
from hybridml.kernels.cuda.items import Eager
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
