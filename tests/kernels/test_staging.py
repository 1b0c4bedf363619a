"""Long rows of CUDA kernels in shared memory: what lies there, and that memory is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_assembly import ARCHITECTURES, assemble, compiles, instructions, only_kernel
from cuda_cases import floats, planned

import hybridml as hml
from hybridml.kernels import emit_cuda
from hybridml.kernels.launch import Shape


def test_what_shared_memory_holds_of_a_row() -> None:
    def of(f: Any, *args: Any) -> int:
        return emit_cuda.staged_bytes(only_kernel(f, *args).spec)

    x, half = floats(5, 40), floats(5, 40, dtype=np.float16)
    assert of(hml.nn.softmax, x) == 4, "the exponentials take the place of the row"
    assert of(hml.nn.softmax, half) == 2
    assert of(lambda x: hml.nn.layer_norm(x, x[0], x[0]), x) == 4, "what all rows share is none of it"
    assert of(lambda y, g: y * (g - hml.sum(y * g, axis=1, keepdims=True)), x, x) == 8
    assert (
        of(lambda x, b: hml.where(b, x, 0.0) / hml.sum(hml.where(b, x, 0.0), axis=1, keepdims=True), x, x > 0)
        == 5
    )
    assert of(lambda x: hml.sum(x, axis=1), x) == 0, "read once anyway"
    assert of(hml.tanh, x) == 0
    with pytest.raises(ValueError, match="reads some of it twice"):
        emit_cuda.emit(only_kernel(lambda x: hml.sum(x, axis=1), x).spec, Shape(512, staged=True))
    with pytest.raises(ValueError, match="one row a block"):
        emit_cuda.emit(only_kernel(hml.nn.softmax, x).spec, Shape(32, 8, staged=True))


@compiles
def test_a_row_in_shared_memory_is_loaded_16_bytes_at_a_time_and_only_once(tmp_path: Path) -> None:
    low = only_kernel(hml.nn.softmax, floats(65, 40_000))
    shape = planned(low, shared_bytes=227 * 1024).shape
    assert shape == Shape(512, 1, 32, vector=4, staged=True)
    text = assemble(low, shape, "whole", tmp_path, ARCHITECTURES)
    assert text.count(".extern .shared") == 1, "its size is the launch's"
    wide = instructions(text, "ld.global.v4.f32")
    assert wide == 2, "in the first pass alone, two groups at once"
    assert instructions(text, "ld.global.f32") == 4 * wide, "the same elements, one by one"
