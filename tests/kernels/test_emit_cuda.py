"""Kernels printed for CUDA: their text, their results in CUDA's simulator, and their machine code. No GPU is needed for any of it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_assembly import ARCHITECTURES, assemble, compiles, instructions, kernels, only_kernel
from cuda_cases import (
    CASES,
    PHASES,
    build,
    extents,
    floats,
    planned,
    shapes,
    traced,
)

import hybridml as hml
from hybridml.errors import DTypeError
from hybridml.kernels import emit_cuda, launch
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import Lowered
from hybridml.kernels.ptx import compile_ptx
from hybridml.kernels.spec import Mode
from hybridml.ops.registry import OPS, Op
from hybridml.testing import public_functions, recast, samples_of

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
@pytest.mark.parametrize(
    ("half", "rounding"), [(hml.float16, "cvt.rn.f16.f32"), (hml.bfloat16, "cvt.rn.bf16.f32")], ids=str
)
def test_half_precision_is_rounded_by_one_instruction(half: Any, rounding: str, tmp_path: Path) -> None:
    low = only_kernel(lambda x: x * 2 + 1, floats(64, dtype=half))
    assert emit_cuda.width(low.spec, low.words) == 8, "16 bytes"
    text = assemble(low, Shape(256, 1, 32, 8), "whole", tmp_path, ARCHITECTURES)
    assert instructions(text, rounding) == 2 * (8 + 1), (
        "after each step: of eight elements, and of what is left over"
    )
    assert sum(instructions(text, f"ld.global.v4.{t}") for t in ("b32", "u32", "b16", "u16")) in (1, 2)


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
