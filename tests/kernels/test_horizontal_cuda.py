"""One CUDA kernel over several sets of operands: its text, its arguments, its machine code and its launches."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cuda_assembly import ARCHITECTURES, compiles, kernels, only_kernel, ptxas
from cuda_cases import floats, traced
from hypothesis import given
from hypothesis import strategies as st

import hybridml as hml
from hybridml.kernels import emit_cuda
from hybridml.kernels.emit_cuda.horizontal import PARAMETER_BYTES
from hybridml.kernels.launch import BLOCKS, Shape, shape_together, shares
from hybridml.kernels.lower import Lowered
from hybridml.kernels.ptx import compile_ptx


def adam() -> Lowered:
    """What Adam does to one parameter."""
    args = [floats(36) for _ in range(4)]

    def update(w, m, v, g):  # type: ignore[no-untyped-def]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        return w - 0.01 * m / (hml.sqrt(v) + 1e-7), m, v

    (low,) = kernels(traced(update, *args)[0])
    return low


def test_the_text_of_a_kernel_over_two_sets() -> None:
    low = only_kernel(lambda x: x * 2, floats(9))
    name, source = emit_cuda.emit_horizontal(low.spec, Shape(256, 1, 32), 2)
    assert (
        source[source.index(f"def {name}") :]
        == f"""def {name}(o0_of_0, x0_of_0, n_i_of_0, c0_of_0, o0_of_1, x0_of_1, n_i_of_1, c0_of_1, end_0, end_1):
    block = ix(cuda.blockIdx.x)
    if block < end_0:
        first, blocks = ix(0), end_0
        o0 = o0_of_0
        x0 = x0_of_0
        n_i = n_i_of_0
        c0 = c0_of_0
    else:
        first, blocks = end_0, ix(end_1 - end_0)
        o0 = o0_of_1
        x0 = x0_of_1
        n_i = n_i_of_1
        c0 = c0_of_1
    row = ix((block - first) * cuda.blockDim.x + cuda.threadIdx.x)
    step = ix(blocks * cuda.blockDim.x)
    rows = n_i
    while row < rows:
        i = row
        v0 = x0[i]
        v1 = v0 * c0  # multiply
        o0[i] = v1
        row = ix(row + step)
"""
    )
    names = [p.name for p in emit_cuda.horizontal_parameters(low.spec, Shape(256, 1, 32), 2)]
    assert f"({', '.join(names)})" in source


def test_only_plain_kernels_go_over_several_sets() -> None:
    for f in (hml.nn.softmax, lambda x: x.T + 1):
        low = only_kernel(f, floats(40, 40))
        turn = emit_cuda.turn(low.spec, low.words)
        with pytest.raises(ValueError, match="plain MAP kernels"):
            emit_cuda.emit_horizontal(low.spec, Shape(256, turn=turn), 2)


def test_arguments_limit_the_number_of_sets() -> None:
    many = [floats(5, 8) for _ in range(20)]
    low = only_kernel(lambda *xs: sum(x[:, ::-1] for x in xs), *many)
    alone = len(emit_cuda.parameters(low.spec, Shape(256)))
    copies = emit_cuda.most_copies(low.spec, Shape(256))
    assert (alone + 1) * 8 * copies <= PARAMETER_BYTES < (alone + 1) * 8 * (copies + 1)


@compiles
def test_as_many_sets_as_one_launch_has_assemble(tmp_path: Path) -> None:
    low, shape = adam(), Shape(256, 1, 32, vector=4)
    copies = emit_cuda.most_copies(low.spec, shape)
    found = emit_cuda.horizontal_parameters(low.spec, shape, copies)
    assert copies == 16
    assert 8 * len(found) <= PARAMETER_BYTES
    name, source = emit_cuda.emit_horizontal(low.spec, shape, copies)
    _, text = compile_ptx(name, source, found, (8, 0))
    assert len(re.findall(r"\bld.global.v4.f32\b", text)) == 4, (
        "one for each input, whatever the number of sets"
    )
    path = tmp_path / "kernel.ptx"
    path.write_text(text)
    for architecture in ARCHITECTURES:
        command = [str(ptxas()), "-v", "-arch", architecture, "-o", "/dev/null", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        (registers,) = re.findall(r"Used (\d+) registers", done.stderr)
        assert int(registers) <= 128
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", done.stderr) == ["0"] * 3


@given(st.lists(st.integers(1, 10**7), min_size=2, max_size=40), st.integers(1, 200))
def test_sets_share_the_device_by_their_sizes(kept: list[int], multiprocessors: int) -> None:
    vector = shape_together(kept, kept, 4, multiprocessors).vector
    assert vector == (4 if sum(kept) >= 4 * multiprocessors * 256 else 1), "small sets together may be large"
    blocks = shares(kept, vector, multiprocessors)
    tiles = [-(-n // (256 * vector)) for n in kept]
    assert all(1 <= b <= t for b, t in zip(blocks, tiles, strict=True)), "no block is idle"
    assert sum(blocks) <= multiprocessors * BLOCKS + len(kept)
    assert blocks == tiles or sum(tiles) > multiprocessors * BLOCKS, (
        "all blocks that there is work for, if they fit"
    )


def test_sets_past_the_narrow_index() -> None:
    assert shape_together([2**31 - 2**21, 7], [7], 4) == Shape(256, 1, 32, vector=4)
    assert shape_together([2**33, 7], [7], 4) == Shape(256, 1, 64, vector=4)
    assert shape_together([9, 7], [2**31], 4) == Shape(256, 1, 64), "a stride"
    assert shares([2**33, 7], 4) == [132 * BLOCKS - 1, 1]
