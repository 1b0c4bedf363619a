"""Convolutions of a GPU program: as products over patches, by cuDNN where it is, always as the interpreter has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assembler import assemble
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import config, pytree
from hybridml.kernels.cuda.convolutions import convolutions
from hybridml.kernels.cuda.cudnn import ConvolutionPlan, CuDnn, described, left_out, unsupported
from hybridml.kernels.cuda.epilogue import Epilogue
from hybridml.kernels.cuda.items import Eager
from hybridml.kernels.cuda.steps import LibraryStep
from hybridml.kernels.ptx import compile_ptx
from hybridml.ops.registry import OPS
from hybridml.testing import public_functions, recast, samples_of
from hybridml.trace.graph import verify
from hybridml.trace.interpret import interpret

RNG = np.random.default_rng(3)
NEAR = {"float32": 2e-4, "float16": 3e-2, "bfloat16": 2e-1}
if not hasattr(hml, "bfloat16"):
    del NEAR["bfloat16"]
ROWS = ("conv2d", "conv2d_transpose", "conv2d_filter_gradient")


@pytest.fixture(autouse=True)
def relu_is_taken() -> Iterator[None]:
    """Which loses NaN in the library, though not in the one that stands in for it here."""
    with config.scope(fast_math=True):
        yield


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def graph_of(f: Any, args: list[Any]) -> Any:
    return hml.function(f).get_concrete_function(*map(hml.asarray, args)).optimized


def with_options(f: Any, kwargs: dict[str, Any]) -> Any:
    return lambda *args: f(*args, **kwargs)


def cases() -> list[Any]:
    """The samples of the three rows, and gradients of convolutions in groups, of one pixel, with strides, padding and dilation."""
    found = []
    for name in ROWS:
        for k, s in enumerate(samples_of(OPS[name])):
            f = public_functions()[name]
            found.append(pytest.param(with_options(f, s.kwargs), recast(s.args, "float32"), id=f"{name}-{k}"))

    def gradients(**how: Any) -> Any:
        def f(x: Any, w: Any) -> Any:
            with hml.GradientTape() as tape:
                tape.watch([x, w])
                loss = hml.sum(hml.nn.conv2d(x, w, **how) ** 2)
            return tape.gradient(loss, [x, w])

        return f

    for how, x, w in (
        ({}, (2, 6, 5, 3), (3, 2, 3, 4)), ({"strides": 2, "padding": "same"}, (2, 7, 6, 3), (3, 3, 3, 4)),
        ({"strides": (2, 3), "dilation": (1, 2), "padding": ((1, 0), (2, 1))}, (2, 7, 9, 2), (3, 2, 2, 5)),
        ({}, (2, 4, 4, 3), (1, 1, 3, 5)), ({"strides": 2}, (2, 5, 5, 3), (1, 1, 3, 5)),
        ({"padding": "same"}, (1, 8, 7, 2), (7, 6, 2, 3)), ({"strides": 2}, (1, 9, 9, 2), (9, 9, 2, 2)),
        ({"groups": 2, "padding": "same"}, (2, 5, 5, 4), (3, 3, 2, 6)), ({"groups": 4}, (2, 5, 5, 4), (3, 3, 1, 8)),
    ):  # fmt: skip
        found.append(pytest.param(gradients(**how), [floats(*x), floats(*w)], id=f"gradients {how}"))
    return found


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("f", "args"), cases())
def test_products_over_patches_are_the_convolution(f: Any, args: list[Any], dtype: str, gpu: FakeGpu) -> None:
    """The pass against the interpreter, then the whole program, launched, recorded and replayed, without a step in CuPy."""
    arrays = [a.astype(dtype) for a in args if isinstance(a, np.ndarray)]
    if len(arrays) != len(args):
        pytest.skip("an operand that is no array is not an argument of the graph")
    graph = graph_of(f, arrays)
    found = verify(convolutions(graph, lambda r, n: False))
    expected = interpret(graph, arrays)[0]
    near = NEAR[dtype]
    for got, want in zip(interpret(found, arrays)[0], expected, strict=True):
        np.testing.assert_allclose(got.astype("f"), want.astype("f"), rtol=near, atol=near)
    with hml.device("gpu:0"):
        traced = hml.function(f)
        for _ in range(3):
            got = pytree.leaves(traced(*map(hml.asarray, arrays)))
            for g, want in zip(got, expected, strict=True):
                np.testing.assert_allclose(g.numpy().astype("f"), want.astype("f"), rtol=near, atol=near)
        parts = traced.get_concrete_function(*map(hml.asarray, arrays)).program.program.parts
    if all(v.spec.size for n in graph.nodes for v in (*n.values, *n.outputs)):
        assert not any(isinstance(p, Eager) for p in parts)


def conv_net(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch([w1, b1, w2, b2])
        h = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w1, padding="same") + b1), 2)
        h = hml.reshape(h, (h.shape[0], -1))
        loss = hml.mean(hml.nn.softmax_cross_entropy(h @ w2 + b2, y))
    return loss, tape.gradient(loss, [w1, b1, w2, b2])


def net() -> list[Any]:
    return [floats(2, 6, 6, 1), np.array([1, 2]), floats(3, 3, 1, 4), floats(4), floats(36, 3), floats(3)]


def test_a_convolutional_net_is_one_graph(gpu: FakeGpu) -> None:
    args = net()
    expected = hml.function(conv_net)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        step, tensors = hml.function(conv_net), [hml.asarray(a) for a in args]
        for _ in range(3):
            gpu.driver.log.clear()
            got = step(*tensors)
        assert gpu.driver.log.count("replay") == 1
        assert gpu.driver.log.count("read") == 0, "nothing waits for the device"
        program = step.get_concrete_function(*tensors).program
    assert len(program.program.parts) == 1
    for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-4, atol=2e-5)
    titles = [s.title for s in program.steps if hasattr(s, "title")]
    assert any("then bias" in t for t in titles), titles


def test_patches_are_shared_unless_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridml.kernels.cuda import convolutions as module

    graph = graph_of(conv_net, net())
    assert [n.op.name for n in module.convolutions(graph, lambda r, n: False).nodes].count("im2col") == 1
    monkeypatch.setattr(module, "SHARED_BYTES", 100)
    assert [n.op.name for n in module.convolutions(graph, lambda r, n: False).nodes].count("im2col") == 2


@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (1, 4), (7, 7)], ids=str)
def test_kernels_of_patches_assemble_without_spills(
    shape: tuple[int, int], gpu: FakeGpu, tmp_path: Path
) -> None:
    pytest.importorskip("numba.cuda")
    pytest.importorskip("cuda.bindings")

    def f(x: Any, w: Any) -> Any:
        return hml.nn.conv2d_transpose(hml.nn.conv2d(x, w, strides=2), w, strides=2)

    with hml.device("gpu:0"):
        hml.function(f).get_concrete_function(hml.zeros((2, 9, 9, 3)), hml.zeros((*shape, 3, 3)))
    kernels = [k for k, _ in gpu.driver._kernels.values() if k.name.startswith(("im2col", "col2im"))]
    assert len(kernels) == 1 + -(-np.prod(shape) // 25)
    for k in kernels:
        _, text = compile_ptx(k.name, k.source, k.parameters, (8, 0))
        said = assemble(text.encode(), "sm_90", tmp_path)
        (registers,) = re.findall(r"Used (\d+) registers", said)
        assert int(registers) <= 128
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", said) == ["0"] * 3, k.source


def test_images_of_large_windows_take_several_kernels(gpu: FakeGpu) -> None:
    """Each goes on from what the one before has stored, tap after tap: the bits are those of one loop over the taps."""
    f = lambda g, w: hml.nn.conv2d_transpose(g, w)  # noqa: E731  # one call
    launches = {}
    with hml.device("gpu:0"):
        for k in (5, 6, 8):
            gpu.driver.log.clear()
            tensors = [hml.asarray(floats(1, 4, 4, 2)), hml.asarray(floats(k, k, 3, 2))]
            hml.function(f)(*tensors)
            launches[k] = sum(line.startswith("launch col2im") for line in gpu.driver.log)
    assert launches == {5: 1, 6: 2, 8: 3}


# cuDNN


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_with_cudnn_convolutions_are_its_calls(
    groups: int, dtype: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(gpu.driver), "cudnn", True)
    shapes = (2, 6, 6, 4), (3, 3, 4 // groups, 4), (4,), (36, 3), (3,)
    x, w1, b1, w2, b2 = [floats(*s).astype(dtype) for s in shapes]
    args = [x, np.array([1, 2]), w1, b1, w2, b2]

    def f(x: Any, y: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch([x, w1, b1, w2, b2])
            h = hml.nn.relu(hml.nn.conv2d(x, w1, strides=2, padding="same", groups=groups) + b1)
            logits = hml.reshape(h, (h.shape[0], -1)) @ w2 + b2
            loss = hml.mean(hml.nn.softmax_cross_entropy(logits, y))
        return loss, tape.gradient(loss, [x, w1, b1, w2, b2])

    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        step, tensors = hml.function(f), [hml.asarray(a) for a in args]
        got = step(*tensors)
        calls = [line for line in gpu.driver.log if " of (" in line]
        for _ in range(2):
            gpu.driver.log.clear()
            got = step(*tensors)
        assert gpu.driver.log.count("replay") == 1
    assert sorted(c.split()[1] for c in calls) == ["conv", "conv_filter", "conv_input"]
    assert calls[0].endswith("then bias, relu")
    near = NEAR[dtype]
    for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
        np.testing.assert_allclose(g.numpy().astype("f"), e.numpy().astype("f"), rtol=near, atol=near)


@pytest.mark.parametrize("cudnn", [False, True])
def test_a_residual_block_of_convolutions(cudnn: bool, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added is taken by the second convolution, cuDNN's or the product over patches."""
    monkeypatch.setattr(type(gpu.driver), "cudnn", cudnn)

    def f(x: Any, w: Any, b: Any, v: Any, c: Any) -> Any:
        h = hml.nn.relu(hml.nn.conv2d(x, w, padding="same") + b)
        return hml.nn.relu(x + (hml.nn.conv2d(h, v, padding="same") + c))

    args = [floats(2, 5, 4, 3), floats(3, 3, 3, 6), floats(6), floats(3, 3, 6, 3), floats(3)]
    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        traced = hml.function(f)
        for _ in range(3):
            got = traced(*map(hml.asarray, args))
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=2e-4, atol=2e-5)
        steps = traced.get_concrete_function(*map(hml.asarray, args)).program.steps
    titles = [s.title for s in steps if isinstance(s, LibraryStep)]
    assert [t.split("then ")[1] for t in titles] == ["bias, relu", "residual, bias, relu"]
    assert all(("conv of" in t) == cudnn for t in titles)


HOW: dict[str, Any] = {
    "strides": (2, 1),
    "padding": ((1, 0), (1, 2)),
    "dilation": (1, 1),
    "precision": "float32",
}


@pytest.mark.parametrize(
    "epilogue",
    [
        Epilogue(), Epilogue(bias=True), Epilogue(bias=True, function="gelu"), Epilogue(residual=True, bias=True, function="relu")
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("direction", ["conv", "conv_input", "conv_filter"])
def test_the_real_front_end_takes_our_graphs(
    direction: str, groups: int, dtype: str, epilogue: Epilogue
) -> None:
    """Where nvidia-cudnn-frontend is installed; describing a graph needs no GPU, building one does."""
    cudnn = pytest.importorskip("cudnn")
    plan = ConvolutionPlan(
        direction, (2, 8, 9, 3), (6, 3, 2, 3 // groups), (2, 4, 11, 6), **HOW, dtype=dtype, groups=groups, epilogue=epilogue
    )  # fmt: skip
    graph = described(cudnn, plan)
    (out,) = graph.get_outputs()
    n, h, w, c = plan.shape
    assert (list(out.dim), list(out.stride)) == ([n, c, h, w], [h * w * c, 1, w * c, c])
    kind = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}[dtype]
    assert out.data_type == getattr(cudnn.data_type, kind)
    assert all(t.data_type == out.data_type for t in graph.get_inputs())
    named = {t.uid for t in graph.get_inputs()} - {1, 2, 3}
    assert (
        named == ({5} if epilogue.residual else set()) | ({4} if epilogue.bias else set())
        or direction != "conv"
    )
    context = graph.context
    assert context.compute_data_type == context.intermediate_data_type == cudnn.data_type.FLOAT
    assert set(left_out(cudnn.numerical_note, plan)) <= set(cudnn.numerical_note.__members__.values())


def test_engines_that_round_are_left_out_where_float32_is_asked_for() -> None:
    plan = ConvolutionPlan("conv", (2, 8, 9, 3), (5, 3, 2, 3), (2, 4, 11, 5), **HOW)
    notes = type("Notes", (), {})
    for name in ("NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "TENSOR_CORE", "DOWN_CONVERT_INPUTS"):
        setattr(notes, name, name)
    always = ["NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION"]
    assert left_out(notes, plan) == [*always, "TENSOR_CORE", "DOWN_CONVERT_INPUTS"]
    assert left_out(notes, replace(plan, precision="tf32")) == always
    assert left_out(notes, replace(plan, dtype="float16")) == always


def test_operands_that_may_lie_anywhere_are_not_cudnns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    library = CuDnn(1 << 20)
    plan = ConvolutionPlan("conv", (2, 8, 9, 3), (5, 3, 2, 3), (2, 4, 11, 5), **HOW)
    monkeypatch.setattr(CuDnn, "_graph", lambda self, p: None)
    assert library.refuse(plan) is None
    assert "multiples of 16 bytes" in str(library.refuse(plan, 4))


def test_rows_of_a_scan_are_not_cudnn_s(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 60 bytes begins at a multiple of 4 of them."""
    monkeypatch.setattr(type(gpu.driver), "cudnn", True)

    def f(xs: Any, w: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            return hml.nn.conv2d(h, w, padding="same") + x, hml.nn.conv2d(x, w, padding="same") * h

        return hml.scan(step, xs[0], xs)

    args = [floats(3, 1, 5, 1, 3), floats(1, 2, 3, 3)]
    expected = hml.function(f)(*map(hml.asarray, args))
    with hml.device("gpu:0"):
        traced = hml.function(f)
        for _ in range(2):
            got = traced(*map(hml.asarray, args))
            for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
                np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-4, atol=2e-5)
        text = str(traced.explain(*map(hml.asarray, args)))
    assert "im2col" in text
    assert "conv of" not in text


def test_what_our_graphs_of_cudnn_leave_to_others() -> None:
    plan = ConvolutionPlan("conv", (2, 8, 9, 3), (5, 3, 2, 3), (2, 4, 11, 5), **HOW)
    assert unsupported(plan) is None
    for e in (Epilogue(function="relu", keeps=True), Epilogue(derivative="relu"), Epilogue(sums="rows")):
        assert unsupported(replace(plan, epilogue=e)) is not None
    assert unsupported(replace(plan, direction="conv_input", epilogue=Epilogue(bias=True))) is not None
