"""Kernels printed for CUDA under `config.fast_math`: the hardware's approximations, where they are meant and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_assembly import ARCHITECTURES, assemble, compiles, kernels, only_kernel
from cuda_cases import build, floats, planned, traced

import hybridml as hml
from hybridml.kernels import emit_cuda
from hybridml.kernels.lower import Lowered
from hybridml.kernels.ptx import compile_ptx

INSTRUCTIONS = {
    "exp": "ex2.approx.f32",
    "exp2": "ex2.approx.f32",
    "log": "lg2.approx.f32",
    "log2": "lg2.approx.f32",
    "log10": "lg2.approx.f32",
    "sin": "sin.approx.f32",
    "cos": "cos.approx.f32",
    "tanh": "tanh.approx.f32",
    "sqrt": "sqrt.approx.f32",
    "rsqrt": "rsqrt.approx.f32",
    "sigmoid": "ex2.approx.f32 rcp.approx.f32",
    "divide": "div.full.f32",
}


def approximate(low: Lowered, fast: bool) -> set[str]:
    """The approximate instructions of a kernel's PTX."""
    shape = planned(low).shape
    name, source = emit_cuda.emit(low.spec, shape, fast=fast)
    _, text = compile_ptx(name, source, emit_cuda.parameters(low.spec, shape), (8, 0))
    return set(re.findall(r"\w+\.(?:approx|full)\.[\w.]+", text))


@compiles
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_a_function_is_the_hardware_s_where_that_is_asked_for(name: str) -> None:
    arguments = [floats(9)] * (2 if name == "divide" else 1)
    low = only_kernel(getattr(hml, name), *arguments)
    assert approximate(low, fast=True) == set(INSTRUCTIONS[name].split())
    assert approximate(low, fast=False) == set()


@compiles
@pytest.mark.parametrize("name", ["expm1", "log1p", "erf", "atan", "sinh"])
def test_other_functions_stay_as_they_are(name: str) -> None:
    assert approximate(only_kernel(getattr(hml, name), floats(9)), fast=True) == set()


@compiles
def test_double_precision_stays_as_it_is() -> None:
    x = floats(9, dtype=np.float64)
    assert approximate(only_kernel(lambda x, y: hml.exp(x) / y, x, x), fast=True) == set()


@compiles
def test_random_numbers_keep_their_bits() -> None:
    normal = [low for low in kernels(build("random")[0]) if "normal" in low.spec.title]
    assert normal
    assert all(approximate(low, fast=True) == set() for low in normal)


@compiles
def test_half_precision_is_computed_in_single_and_so_approximately() -> None:
    half = floats(9, dtype=np.float16)
    found = approximate(only_kernel(lambda x, y: hml.tanh(x) / y, half, half), fast=True)
    assert found == {"tanh.approx.f32", "div.full.f32"}


@compiles
def test_a_softmax_assembles_for_every_architecture(tmp_path: Path) -> None:
    low = only_kernel(hml.nn.softmax, floats(8, 1024))
    text = assemble(low, planned(low).shape, "whole", tmp_path, ARCHITECTURES, fast=True)
    assert {"ex2.approx.f32", "div.full.f32"} <= set(re.findall(r"\w+\.(?:approx|full)\.[\w.]+", text))


def test_texts_differ_so_that_both_kernels_are_kept() -> None:
    (graph, *_) = traced(lambda x, y: hml.exp(x) / y, floats(9), floats(9))
    (low,) = kernels(graph)
    texts: list[Any] = [emit_cuda.emit(low.spec, planned(low).shape, fast=fast) for fast in (False, True)]
    (precise, exactly), (fast, roughly) = texts
    assert precise != fast
    assert 'scalar_functions("cuda")' in exactly
    assert 'scalar_functions("cuda_fast")' in roughly
    assert "v1 / v2" in exactly
    assert "m_divide_f32(v1, v2)" in roughly
