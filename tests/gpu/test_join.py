"""Reductions that were cut in two for the CPU's threads are whole again on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml.kernels.cuda.join import join
from hybridml.trace.graph import Graph
from hybridml.trace.interpret import interpret

RNG = np.random.default_rng(8)


def reductions(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if n.op.reduce is not None]


@pytest.mark.parametrize(
    ("f", "shape", "whole"),
    [
        (hml.sum, (250, 200), ["sum"]),
        (lambda x: hml.max(x, axis=1), (3, 40_000), ["max"]),
        (hml.nn.softmax, (2, 40_000), ["max", "sum"]),
        (lambda x: hml.sum(x, axis=0, keepdims=True), (40_000, 2), ["sum"]),
        (lambda x: hml.sum(hml.sum(x, axis=1, keepdims=True), axis=0), (5, 7), ["sum"]),
        (lambda x: hml.max(hml.sum(x, axis=1, keepdims=True), axis=0), (5, 7), ["sum", "max"]),
        (lambda x: hml.sum(hml.sum(x, axis=1), axis=0), (5, 7), ["sum", "sum"]),
    ],
)
def test_two_steps_are_one(f: Callable[..., Any], shape: tuple[int, ...], whole: list[str]) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    graph = hml.function(f).get_concrete_function(hml.asarray(x)).optimized
    joined = join(graph)
    assert reductions(joined) == whole
    (before,), (after,) = interpret(graph, [x], [])[0], interpret(joined, [x], [])[0]
    np.testing.assert_allclose(after, before, rtol=2e-5, atol=2e-5)


def test_a_program_has_the_joined_graph_s_kernels(gpu: FakeGpu) -> None:
    x = RNG.normal(size=(40_000,)).astype(np.float32)
    f = hml.function(lambda x: hml.sum(x * x))
    with hml.device("gpu:0"):
        found = f(hml.asarray(x).to("gpu:0")).to("cpu").numpy()
    np.testing.assert_allclose(found, np.sum(x.astype(np.float64) ** 2), rtol=1e-5)
    names = {entry.split()[1].rsplit("_", 1)[0] for entry in gpu.driver.log if entry.startswith("launch")}
    assert names == {"multiply_sum"}, "one kernel, in parts: a multiplication and a sum"


@pytest.mark.parametrize("f", [hml.nn.softmax, hml.nn.layer_norm, hml.nn.log_softmax])
def test_rows_beyond_the_cache_are_walked_once_a_kernel_by_many_blocks(
    f: Callable[..., Any], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that a block can keep are one kernel; a few longer ones are two reductions in parts, and what follows them."""
    monkeypatch.setattr(gpu.driver, "multiprocessors", 132, raising=False)
    blocks = {}
    with hml.device("gpu:0"):
        for n in (40_000, 200_000):
            concrete = hml.function(f).get_concrete_function(hml.TensorSpec((4, n), hml.float32))
            blocks[n] = [s.plan.grid for s in concrete.program.region.steps]
    assert blocks[40_000] == [(4, 1)]
    assert blocks[200_000][:2] == [(4, 24), (4, 24)]
    assert len(blocks[200_000]) == 3
