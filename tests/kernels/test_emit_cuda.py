"""Kernels printed for CUDA: their text, their results in CUDA's simulator, and their machine code. No GPU is needed for any of it."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_cases import (
    CASES,
    PHASES,
    build,
    extents,
    floats,
    lowerings,
    planned,
    scratch,
    shapes,
    traced,
)

import hybridml as hml
from hybridml.errors import DTypeError
from hybridml.kernels import emit_cuda, launch
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.emit_cuda.turns import row_length, tile_bytes
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import Lowered
from hybridml.kernels.ptx import compile_ptx
from hybridml.kernels.spec import Mode
from hybridml.ops.registry import OPS, Op
from hybridml.testing import public_functions, recast, samples_of

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def kernels(graph: Any) -> list[Lowered]:
    return [low for _, lows in lowerings(graph) for low in lows]


def only_kernel(f: Any, *args: Any) -> Lowered:
    (low,) = kernels(traced(f, *args)[0])
    return low


# text


def test_the_text_of_a_softmax() -> None:
    low = only_kernel(hml.nn.softmax, floats(100, 10))
    name, source = emit_cuda.emit(low.spec, planned(low).shape)
    assert (
        source
        == f"""import numpy as np
from numba import cuda

from hybridml.kernels.block import shuffle_xor
from hybridml.kernels.targets import scalar_functions
from hybridml.kernels.wide import aligned_2, load_2, store_2

m = scalar_functions("cuda")
m_exp_f32 = m.m_exp_f32
m_maximum_f32 = m.m_maximum_f32
ix, ux = np.int32, np.uint32  # of sizes, strides and loop variables


@m.device
def at_element_0(a0, v0):
    a0 = m_maximum_f32(a0, v0)
    return a0


@m.device
def at_element_1(v1, a0, a1):
    v2 = v1 - a0  # subtract
    v3 = m_exp_f32(v2)  # exp
    a1 = a1 + v3
    return v3, a1


@m.device
def at_element_2(v4, a1):
    v5 = v4 / a1  # divide
    return v5


def {name}(o0, x0, n_i, n_j, o0_i, x0_i, c0, c1):
    lane = ix(cuda.threadIdx.x)
    rows = n_i
    wide = aligned_2(x0) and aligned_2(o0)
    tile = ix(cuda.blockIdx.x * 32)
    while tile < rows:
        row = ix(tile + cuda.threadIdx.y)
        own = row < rows
        row = row if own else ix(rows - 1)
        i = row
        a0 = c0
        j_0 = ix(lane * 2)
        inside = j_0 < n_j
        x0_0, x0_1 = load_2(x0, i * x0_i + j_0, wide, inside)
        if inside:
            a0 = at_element_0(a0, x0_0)
            a0 = at_element_0(a0, x0_1)
        a0 = m_maximum_f32(a0, shuffle_xor(a0, 4))
        a0 = m_maximum_f32(a0, shuffle_xor(a0, 2))
        a0 = m_maximum_f32(a0, shuffle_xor(a0, 1))
        a1 = c1
        if inside:
            o0_0, a1 = at_element_1(x0_0, a0, a1)
            o0_1, a1 = at_element_1(x0_1, a0, a1)
        a1 = a1 + shuffle_xor(a1, 4)
        a1 = a1 + shuffle_xor(a1, 2)
        a1 = a1 + shuffle_xor(a1, 1)
        if inside:
            o0_0 = at_element_2(o0_0, a1)
            o0_1 = at_element_2(o0_1, a1)
            if own:
                store_2(o0, i * o0_i + j_0, (o0_0, o0_1), wide)
        tile = ix(tile + cuda.gridDim.x * 32)
"""
    )


def test_one_text_serves_every_size_that_launches_alike() -> None:
    texts = {
        emit_cuda.emit(low.spec, planned(low).shape)
        for rows, columns in ((50, 9), (1000, 15), (7, 13))
        for low in [only_kernel(hml.nn.softmax, floats(rows, columns))]
    }
    assert len(texts) == 1


def test_contiguous_operands_are_walked_as_one() -> None:
    low = only_kernel(lambda x, y: hml.tanh(x) + y, floats(3, 4, 5), floats(3, 4, 5))
    assert extents(low) == (60, 1)
    _, source = emit_cuda.emit(low.spec, planned(low).shape)
    assert "//" not in source, "no index is taken apart"


def test_a_reduction_down_the_columns_stays_in_a_register() -> None:
    low = only_kernel(lambda x: hml.sum(x, axis=0), floats(40, 50))
    assert low.spec.mode is Mode.COLUMN
    for shape in shapes(Mode.COLUMN):
        _, source = emit_cuda.emit(low.spec, shape)
        assert source.count("o0[") == 1, "stored once, and never loaded"


def test_steps_that_depend_on_one_another_stay_in_one_thread() -> None:
    lows = kernels(traced(lambda x: hml.cumsum(x, axis=1), floats(4, 9, 5))[0])
    low = lows[-1]
    kept, _ = emit_cuda.space(low.spec)
    assert extents(low) == (20, 1)
    _, source = emit_cuda.emit(low.spec, planned(low).shape)
    (ordered,) = set(low.spec.words) & {w for w in low.spec.words if w.startswith("n_")} - set(kept)
    assert f"in range({ordered}):" in source


def test_only_one_pass_of_reductions_can_be_cut_into_parts() -> None:
    assert emit_cuda.is_splittable(only_kernel(lambda x: hml.sum(x * x, axis=1), floats(5, 9)).spec)
    assert emit_cuda.is_splittable(only_kernel(lambda x: hml.sum(x * x, axis=0), floats(5, 9)).spec)
    loss = only_kernel(lambda x: (hml.sum(x * x), x * 2), floats(5, 9))
    assert emit_cuda.is_splittable(loss.spec), "the first phase stores what elements have"
    for f in (hml.nn.softmax, lambda x: hml.nn.softmax(x, axis=0), hml.tanh):
        spec = only_kernel(f, floats(5, 9)).spec
        assert not emit_cuda.is_splittable(spec)
        with pytest.raises(ValueError, match="it runs in one phase"):
            emit_cuda.emit(spec, Shape(32, 8), "partial")


def test_parameters_are_what_the_text_takes() -> None:
    low = only_kernel(lambda x: hml.any(x > 1.5, axis=1), floats(5, 9))
    for phase in ("whole", *PHASES):
        name, source = emit_cuda.emit(low.spec, Shape(32, 8, 32), phase)
        found = emit_cuda.parameters(low.spec, Shape(32, 8, 32), phase)
        arguments = re.search(rf"def {name}\((.*)\)", source)
        assert arguments is not None
        assert arguments[1].split(", ") == [p.name for p in found]
        assert all(p.dtype == np.int32 for p in found if p.name in (*low.spec.words, "parts"))
        assert all(p.dtype == np.uint8 for p in found if p.name in ("o0", "w0")), "bools are bytes in memory"


# results


def _dealt(hands: int) -> list[list[str]]:
    return [list(CASES)[k::hands] for k in range(hands)]


@pytest.mark.parametrize("names", _dealt(4), ids=lambda names: names[0])
def test_simulated_kernels_equal_the_interpreter(names: list[str], fresh_process: Any) -> None:
    folder = str(Path(__file__).parent)
    program = f"import sys; sys.path.insert(0, {folder!r}); import simulated; simulated.main({names!r})"
    out = fresh_process(program, timeout=300, NUMBA_ENABLE_CUDASIM="1")
    ran = [line.split() for line in out.splitlines()]
    assert {line[0] for line in ran} == set(names)
    assert {line[1] for line in ran} == {"map", "row", "column"}
    assert {line[5] for line in ran} == {"32", "64"}, "both index widths"
    assert {"1", "4"} <= {line[6] for line in ran}, "one element at a time, and four"
    assert len({line[7] for line in ran}) > 2, "rows in registers, in one group and in several, and not"
    assert {line[8] for line in ran} == {"1", "3"}, "whole and in parts"
    assert {line[9] for line in ran} == {"True", "False"}, "in place and not"
    assert {line[10] for line in ran} == {"True", "False"}, "rows in shared memory and not"
    assert {line[5] for line in ran if line[11] == "True"} == {"32", "64"}, "transposed reads, in tiles"


# machine code

ON_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
compiles = pytest.mark.skipif(
    not ON_LINUX, reason="NVIDIA's compilers are packaged for Linux on x86-64 and ARM64"
)


@functools.cache
def ptxas() -> Path:
    files = importlib.metadata.files("nvidia-cuda-nvcc") or []
    (found,) = [f for f in files if f.name == "ptxas"]
    return Path(str(found.locate()))


def assemble(low: Lowered, shape: Shape, phase: Phase, directory: Path, architectures: Any) -> str:
    """The PTX of a kernel, whose machine code needs at most 128 registers and no memory for more."""
    name, source = emit_cuda.emit(low.spec, shape, phase, scratch(low))
    _, text = compile_ptx(name, source, emit_cuda.parameters(low.spec, shape, phase), (8, 0))
    path = directory / "kernel.ptx"
    path.write_text(text)
    for architecture in architectures:
        command = [str(ptxas()), "-v", "-arch", architecture, "-o", "/dev/null", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stderr}\n{source}"
        (registers,) = re.findall(r"Used (\d+) registers", done.stderr)
        assert int(registers) <= 128, source
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", done.stderr) == ["0"] * 3, source
    return text


def widest(low: Lowered) -> list[Shape]:
    """What asks most of the registers: accesses as wide as the operands allow, and as many elements of a row as a thread may hold."""
    width, words = emit_cuda.width(low.spec, low.words), emit_cuda.held_words(low.spec)
    found = [replace(shapes(low.spec.mode)[-1], vector=width)] if width > 1 else []
    for lanes, registers in (launch.HELD[1], launch.HELD[-1]) if words else ():
        held = max(registers // (words * width), 1)
        found.append(Shape(lanes, max(256 // lanes, 1), 64, width, held))
    if emit_cuda.staged_bytes(low.spec):
        found.append(Shape(launch.WIDEST, 1, 32, width, staged=True))
    return found


def variants(low: Lowered) -> Iterator[tuple[Shape, Phase]]:
    """As planned, in every other block with wide indices, and in parts where the kernel allows it."""
    own = planned(low).shape
    yield own, "whole"
    for shape in [*shapes(low.spec.mode), *widest(low)]:
        yield shape, "whole"
    if emit_cuda.is_splittable(low.spec):
        yield from itertools.product([own], PHASES)


@compiles
@pytest.mark.parametrize("case", CASES)
def test_kernels_of_graphs_assemble(case: str, tmp_path: Path) -> None:
    seen = set()
    for low in kernels(build(case)[0]):
        for k, (shape, phase) in enumerate(variants(low)):
            name, _ = emit_cuda.emit(low.spec, shape, phase)
            if name not in seen:
                assemble(low, shape, phase, tmp_path, ARCHITECTURES if k == 0 else ["sm_90"])
                seen.add(name)
    assert seen


def _kernels_of_row(op: Op) -> Iterator[Lowered]:
    """One kernel for each dtype and structure of the row's samples."""
    function = public_functions()[op.name]
    seen = set()
    for dtype in ("float32", "float64", "int32", "bool"):
        for sample in samples_of(op):
            try:
                graph, _, _ = traced(
                    lambda *args, s=sample: function(*args, **s.kwargs), *recast(sample.args, dtype)
                )
            except DTypeError:
                continue
            new = [low for low in kernels(graph) if _structure(low) not in seen]
            seen |= {_structure(low) for low in new}
            yield from new


def _structure(low: Lowered) -> Any:
    return low.spec.mode, low.spec.title, tuple([o.dtype.name for o in low.spec.operands])


@compiles
@pytest.mark.parametrize("op", [op for op in OPS.values() if op.samples is not None], ids=lambda op: op.name)
def test_kernels_of_rows_assemble(op: Op, tmp_path: Path) -> None:
    for low in _kernels_of_row(op):
        shape = planned(low).shape
        if low.spec.mode is Mode.MAP:  # its text has the path of single elements too
            shape = replace(shape, vector=emit_cuda.width(low.spec, low.words))
        assemble(low, shape, "whole", tmp_path, ["sm_90"])


def instructions(text: str, name: str) -> int:
    """How often an instruction stands in a kernel's PTX."""
    return len(re.findall(rf"\b{re.escape(name)}\b", text))


@compiles
@pytest.mark.parametrize(
    ("args", "load", "store"),
    [
        ([floats(64), floats(64)], "ld.global.v4.f32", "st.global.v4.f32"),
        ([floats(64, dtype=np.float64)] * 2, "ld.global.v2.f64", "st.global.v2.f64"),
    ],
    ids=["float32", "float64"],
)
def test_neighbouring_elements_are_moved_16_bytes_at_a_time(
    args: list[Any], load: str, store: str, tmp_path: Path
) -> None:
    low = only_kernel(lambda x, y: x + y, *args)
    width = emit_cuda.width(low.spec, low.words)
    assert width == 16 // args[0].itemsize
    text = assemble(low, Shape(256, 1, 32, width), "whole", tmp_path, ARCHITECTURES)
    assert instructions(text, load) == 2, "one for each input"
    assert instructions(text, store) == 1


@compiles
def test_a_held_row_is_loaded_16_bytes_at_a_time_and_only_once(tmp_path: Path) -> None:
    low = only_kernel(hml.nn.softmax, floats(8, 1024))
    shape = planned(low, multiprocessors=1).shape
    assert shape == Shape(32, 8, 32, vector=4, held=8)
    text = assemble(low, shape, "whole", tmp_path, ARCHITECTURES)
    assert instructions(text, "ld.global.v4.f32") == 8
    assert instructions(text, "st.global.v4.f32") == 8
    assert instructions(text, "ld.global.f32") == 32, (
        "the same elements, where addresses forbid wide accesses"
    )


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


def test_the_text_of_a_transposed_read() -> None:
    low = only_kernel(lambda x: hml.exp(x.T), floats(48, 64))
    name, source = emit_cuda.emit(low.spec, planned(low).shape)
    text = source[source.index(f"def {name}") :]
    assert (
        text
        == f"""def {name}(o0, x0, n_i, n_j, o0_i, x0_i, x0_j):
    x0_tile = cuda.shared.array((32, 33), f32)
    tx, ty = ix(cuda.threadIdx.x), ix(cuda.threadIdx.y)
    i_tiles = ix(ux(n_i + 31) // ux(32))
    j_tiles = ix(ux(n_j + 31) // ux(32))
    tiles = ix(i_tiles * j_tiles)
    tile = ix(cuda.blockIdx.x)
    while tile < tiles:
        tile1 = ix(ux(tile) // ux(j_tiles))
        j_tile = ix(tile - tile1 * j_tiles)
        i_tile = tile1
        i_first = ix(i_tile * 32)
        j_first = ix(j_tile * 32)
        i = ix(i_first + tx)
        j_0 = ix(j_first + ty)
        inside_0 = i < n_i and j_0 < n_j
        j_1 = ix(j_first + ty + 8)
        inside_1 = i < n_i and j_1 < n_j
        j_2 = ix(j_first + ty + 16)
        inside_2 = i < n_i and j_2 < n_j
        j_3 = ix(j_first + ty + 24)
        inside_3 = i < n_i and j_3 < n_j
        (x0_0,) = load_1(x0, i * x0_i + j_0 * x0_j, True, inside_0)
        (x0_1,) = load_1(x0, i * x0_i + j_1 * x0_j, True, inside_1)
        (x0_2,) = load_1(x0, i * x0_i + j_2 * x0_j, True, inside_2)
        (x0_3,) = load_1(x0, i * x0_i + j_3 * x0_j, True, inside_3)
        x0_tile[ux(ty), ux(tx)] = x0_0
        x0_tile[ux(ty + 8), ux(tx)] = x0_1
        x0_tile[ux(ty + 16), ux(tx)] = x0_2
        x0_tile[ux(ty + 24), ux(tx)] = x0_3
        cuda.syncthreads()
        j = ix(j_first + tx)
        for k in range(0, 32, 8):
            i = ix(i_first + ty + k)
            if j < n_j and i < n_i:
                v0 = x0_tile[ux(tx), ux(ty + k)]
                v1 = m_exp_f32(v0)  # exp
                o0[i * o0_i + j] = v1
        cuda.syncthreads()
        tile = ix(tile + cuda.gridDim.x)
"""
    )


def test_strides_decide_what_is_turned() -> None:
    def turned(f: Any, *args: Any) -> launch.Turn | None:
        low = only_kernel(f, *args)
        return emit_cuda.turn(low.spec, low.words)

    x = floats(40, 40)
    assert turned(lambda x: x.T + 1, x) == launch.Turn("i", ("x0",))
    assert turned(lambda x: x * x.T, x) == launch.Turn("i", ("x1",)), "one buffer, read in two ways"
    assert turned(lambda x: x.T[:, ::-1] + 1, x) == launch.Turn("i", ("x0",)), (
        "backwards is along the axis too"
    )
    assert turned(lambda x: x.T[::2] + 1, x) is None, "every other element is another sector anyway"
    assert turned(lambda x: x + 1, x) is None
    assert turned(lambda x: x[::-1] * x[:, :1], x) is None
    assert turned(lambda x: x.T + 1, floats(15, 400)) is None, "most of a tile would be idle"
    assert turned(lambda x: hml.permute_dims(x, (0, 2, 1, 3)) + 1, floats(2, 20, 20, 20)) is None, (
        "heads of attention"
    )
    channels_first = hml.permute_dims
    assert turned(lambda x: channels_first(x, (0, 3, 1, 2)) + 1, floats(2, 8, 8, 16)) == launch.Turn(
        "i1", ("x0",)
    )
    assert turned(lambda x: channels_first(x, (0, 3, 1, 2)) + 1, floats(2, 8, 8, 3)) is None
    more = [floats(20, 30, 40) for _ in range(13)]
    found = turned(lambda *xs: sum(x.T for x in xs), *more)
    assert found is not None
    assert len(found.operands) == 11, "as many tiles as shared memory holds"
    (*_, cumsum) = kernels(traced(lambda x: hml.cumsum(x.T, axis=1), x)[0])
    assert emit_cuda.turn(cumsum.spec, cumsum.words) is None, "steps in order"
    with pytest.raises(ValueError, match="tiles are of MAP kernels"):
        emit_cuda.emit(only_kernel(hml.nn.softmax, x).spec, Shape(32, 8, turn=launch.Turn("i", ("x0",))))


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8])
def test_columns_of_a_tile_lie_in_different_banks(itemsize: int) -> None:
    length = row_length(itemsize)
    assert tile_bytes(itemsize) == 32 * length * itemsize
    together = 32 if itemsize <= 4 else 16  # threads whose accesses are one transaction
    for column in range(32):
        words = [(row * length + column) * itemsize // 4 for row in range(together)]
        banks = {w + k for w in words for k in range(max(itemsize // 4, 1))}
        assert len({b % 32 for b in banks}) == len(banks)


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


def test_broadcast_operands_are_loaded_once_for_all_elements_of_an_access() -> None:
    low = only_kernel(lambda x, y: x * y, floats(5, 8), floats(5, 1))
    _, source = emit_cuda.emit(low.spec, Shape(256, 1, 32, vector=4))
    wide = source[source.index("while at < done") : source.index("while row < rows")]
    assert wide.count("x1[") == 1
    assert wide.count("load_4(") == 1


def test_how_many_elements_one_access_may_move() -> None:
    def width(f: Any, *args: Any) -> int:
        low = only_kernel(f, *args)
        return emit_cuda.width(low.spec, low.words)

    def double(x: Any) -> Any:
        return x * 2

    assert width(double, floats(99)) == 4, "what is left over goes one by one"
    assert width(double, floats(99, dtype=np.float64)) == 2
    assert width(hml.logical_not, floats(99) > 0) == 16
    assert width(lambda x: x > 0, floats(99)) == 4, "16 bytes of the wider operand"
    assert width(lambda x: x[:, :12] * 2, floats(5, 16)) == 4
    assert width(lambda x: x[:, :12] * 2, floats(5, 14)) == 2, "rows begin at multiples of 8 bytes"
    assert width(lambda x: x[:, :11] * 2, floats(5, 16)) == 1, "an odd length: rows would have a rest"
    (*_, cumsum) = kernels(traced(lambda x: hml.cumsum(x, axis=1), floats(4, 8))[0])
    assert emit_cuda.width(cumsum.spec, cumsum.words) == 1, "steps in order"
    assert width(lambda x: hml.sum(x, axis=0), floats(16, 16)) == 1
    assert width(hml.nn.softmax, floats(16, 16)) == 4


def test_shapes_that_a_kernel_cannot_have() -> None:
    columns = only_kernel(lambda x: hml.sum(x, axis=0), floats(16, 16)).spec
    with pytest.raises(ValueError, match="takes its elements one by one"):
        emit_cuda.emit(columns, Shape(32, 8, 32, vector=4))
    everything = only_kernel(lambda x: hml.sum(x[:, :8]), floats(5, 16)).spec
    with pytest.raises(ValueError, match="no rows that registers could hold"):
        emit_cuda.emit(everything, Shape(32, 8, 32, held=4))


@compiles
def test_products_and_sums_are_rounded_one_by_one(tmp_path: Path) -> None:
    low = only_kernel(lambda x, y: x * y + x, floats(9), floats(9))
    text = assemble(low, planned(low).shape, "whole", tmp_path, ["sm_90"])
    assert "mul.rn.f32" in text
    assert "add.rn.f32" in text
    assert "fma" not in text


@compiles
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_code_is_made_for_the_asked_capability(capability: tuple[int, int]) -> None:
    low = only_kernel(lambda x: hml.exp(x), floats(9))
    shape = replace(planned(low).shape, index=64)
    name, source = emit_cuda.emit(low.spec, shape)
    entry, text = compile_ptx(name, source, emit_cuda.parameters(low.spec, shape), capability)
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert f".visible .entry {entry}(" in text
