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
