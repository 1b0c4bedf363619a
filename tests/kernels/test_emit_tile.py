"""Epilogues in registers: what the lanes compute has the bits of one element at a time, and nothing beyond the tile is touched."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from test_translate import ARITHMETIC, FLOATS, MIXED, SCALAR_FUNCTIONS, numbers

import hybridml as hml
from hybridml.kernels import emit_tile, gemm_cost, llvm
from hybridml.kernels.gemm_tile import TILE_ROWS, VECTOR_BYTES
from hybridml.kernels.products import GemmStep
from hybridml.kernels.targets import scalar_functions
from hybridml.kernels.text import SHORT
from hybridml.kernels.translate import Unsupported, translate
from hybridml.kernels.vectors import TILE_VECTORS
from hybridml.testing import kernels

rng = np.random.default_rng(0)
HEADER = """from hybridml.kernels.pointer import *
from hybridml.kernels.targets import scalar_functions

m = scalar_functions("cpu")


"""


def width(dtype: str) -> int:
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def array(*shape: int) -> Any:
    return hml.asarray(rng.normal(size=shape).astype(np.float32))


def text_of(expression: str, inputs: list[str], output: str) -> str:
    """x0 is the tile's element; further inputs and the result are matrices as wide as the tile."""
    read = [f"    p{k} = {d}_in(args, {k}, {k + 1})" for k, d in enumerate(inputs[1:], start=1)]
    loads = [f"    x{k} = p{k}[i * n + j]" for k in range(1, len(inputs))]
    lines = [f"    o0 = {output}_out(args, 0, 1)", *read, f"    n = size(args, {len(inputs)})"]
    return (
        HEADER
        + "def written(args, x0, i, j):\n"
        + "\n".join([*lines, *loads, f"    o0[i * n + j] = {expression}", ""])
    )


def check(expression: str, inputs: list[str], output: str) -> None:
    """The lanes' bits are those of a loop over the elements, but for the bits of a NaN."""
    rows, columns = TILE_ROWS, TILE_VECTORS * width(inputs[0])
    arrays = [np.resize(numbers(d, seed=k), (rows, columns)) for k, d in enumerate(inputs)]
    got = np.zeros((rows, columns), output)
    words = [got.ctypes.data, *[a.ctypes.data for a in arrays[1:]], columns]
    kernels.in_tile(text_of(expression, inputs, output), arrays[0], words)
    want = kernels.apply(expression, *[a.ravel() for a in arrays], out=output).reshape(got.shape)
    is_nan = np.isnan(want) if want.dtype.kind == "f" else np.zeros(want.shape, bool)
    np.testing.assert_array_equal(is_nan, np.isnan(got) if got.dtype.kind == "f" else is_nan, expression)
    assert got[~is_nan].tobytes() == want[~is_nan].tobytes(), expression


@pytest.mark.parametrize("dtype", FLOATS)
def test_arithmetic_in_lanes(dtype: str) -> None:
    for expression, dtypes in ARITHMETIC:
        if dtype in dtypes and "i %" not in expression:
            check(expression, [dtype, dtype], dtype if "." not in expression else "float64")


# A tile holds floats; other types come from other operands.
@pytest.mark.parametrize(
    ("expression", "inputs", "output"),
    [(e.replace("x1", "x2").replace("x0", "x1"), ["float32", *i], o) for e, i, o in MIXED],
)
def test_numbers_of_different_types_in_lanes(expression: str, inputs: list[str], output: str) -> None:
    check(expression, inputs, output)


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32", "uint64"])
def test_integers_in_lanes(dtype: str) -> None:
    for expression, dtypes in ARITHMETIC:
        moved = expression.replace("x1", "x2").replace("x0", "x1")
        if dtype in dtypes and not re.search("//|%", expression):
            check(moved, ["float32", dtype, dtype], dtype if "m." not in expression else "float64")


NUMBERED = {
    "m.f64(x0) * (i + 1) + j": lambda x, i, j: x.astype(np.float64) * (i + 1) + j,
    "m.f32(j) if x0 > m.f32(0.0) or i == 3 and j != 2 else -x0": lambda x, i, j: np.where(
        (x > 0) | ((i == 3) & (j != 2)), j, -x
    ),
    "x0 if m.f32(-1.0) < x0 < m.f32(2.0) else m.f32(j - 1 - i)": lambda x, i, j: np.where(
        (-1 < x) & (x < 2), x, j - 1 - i
    ),
    "m.f32((j << 2) ^ i)": lambda x, i, j: (j << 2) ^ i,
}


@pytest.mark.parametrize("expression", NUMBERED)
def test_numbers_of_rows_and_columns(expression: str) -> None:
    tile = rng.normal(size=(TILE_ROWS, TILE_VECTORS * width("float32"))).astype(np.float32)
    got = np.zeros((TILE_ROWS + 2, tile.shape[1] + 5), np.float64)
    words = [got.ctypes.data, got.shape[1]]
    kernels.in_tile(text_of(expression, ["float32"], "float64"), tile, words, row=2, column=5)
    i, j = np.indices(got.shape)[:, 2:, 5:]
    np.testing.assert_array_equal(got[2:, 5:], NUMBERED[expression](tile, i, j))


@pytest.mark.parametrize("name", [n for n in SCALAR_FUNCTIONS if n.endswith(("_f32", "_f64"))])
def test_scalar_functions_in_lanes(name: str) -> None:
    """The ones that `emit_tile` names have the bits of the scalar ones, and are all that there are."""
    stem, dtype = name[2:-4], f"float{name[-2:]}"
    count = getattr(scalar_functions("cpu"), name).function.__code__.co_argcount
    expression = f"m.{name}({', '.join(f'x{k}' for k in range(count))})"
    if stem in SHORT | emit_tile.LONG:
        check(expression, [dtype] * count, dtype)
    elif stem not in ("floor_divide", "remainder"):  # which would call a library for each lane
        with pytest.raises(Unsupported):
            check(expression, [dtype] * count, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_around_the_tile_is_written(dtype: str) -> None:
    most = TILE_VECTORS * width(dtype)
    text = text_of("x0 + x1", [dtype, dtype], dtype)
    for rows in range(1, TILE_ROWS + 1):
        for columns in range(1, most + 1):
            tile, other = [rng.normal(size=(rows, columns)).astype(dtype) for _ in range(2)]
            got = np.full((rows + 2, columns + 3), -7, dtype)
            wide = np.full(got.shape, np.nan, dtype)
            wide[1:-1, 1:-2] = other
            words = [got.ctypes.data, wide.ctypes.data, columns + 3]
            kernels.in_tile(text, tile, words, row=1, column=1)
            np.testing.assert_array_equal(got[1:-1, 1:-2], tile + other)
            got[1:-1, 1:-2] = -7
            assert (got == -7).all()


SUMS = (
    HEADER
    + """def written(args, x0, i, j):
    o0 = float32_out(args, 0, 1)
    o1 = float32_out(args, 1, 2)
    n = size(args, 2)
    last = size(args, 3)
    v = x0 * x0
    o0[i * n + j] = v
    return (v, x0)


def written_sums(args, begin, end, j, s0, s1):
    o0 = float32_out(args, 0, 1)
    o1 = float32_out(args, 1, 2)
    n = size(args, 2)
    last = size(args, 3)
    b0 = m.f32(0.0) if begin == 0 else o1[j]
    b1 = m.f32(100.0) if begin == 0 else o1[j + n]
    o1[j] = b0 + s0
    o1[j + n] = b1 + s1
    if end == last:
        o1[j] = o1[j] * m.f32(0.5)
"""
)


@pytest.mark.parametrize("columns", [1, width("float32"), width("float32") + 3, 2 * width("float32")])
def test_sums_over_rows_go_on_from_tile_to_tile(columns: int) -> None:
    x = rng.integers(-9, 9, size=(3 * TILE_ROWS - 1, columns)).astype(np.float32)  # exact in any order
    squares, sums = np.zeros_like(x), np.full((2, columns), np.nan, np.float32)
    words = [squares.ctypes.data, sums.ctypes.data, columns, len(x)]
    for row in range(0, len(x), TILE_ROWS):
        kernels.in_tile(SUMS, x[row : row + TILE_ROWS], words, row=row, sums=2)
    np.testing.assert_array_equal(squares, x * x)
    np.testing.assert_array_equal(sums, [0.5 * (x * x).sum(0), 100 + x.sum(0)])


REFUSED = {
    "a branch that some lanes take": "if x0 > m.f32(0.0):\n        o0[j] = x0",
    "an element for each lane anywhere": "o0[j] = o0[2 * j]",
    "memory that some lanes must not read": "o0[j] = x0 if x0 > m.f32(0.0) else o0[j]",
    "a library's function": "o0[j] = m.fmod_f32(x0, x0) if False else m.nearest_bf16(x0)",
    "integers that are divided": "o0[j] = m.f32(j // 3)",
    "as many numbers of turns": "for k in range(j):\n        o0[k] = x0",
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_lanes_do_not_have_is_refused(what: str) -> None:
    text = f"{HEADER}def written(args, x0, i, j):\n    o0 = float32_out(args, 0, 1)\n    {REFUSED[what]}\n"
    kind = f"Tile(lanes(float32, {width('float32')}), {TILE_ROWS}, 0)"
    with pytest.raises(Unsupported):
        translate(text, "written", kind, "written", "written.py")


# -- which epilogues ride so -------------------------------------------------------------------------------


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are made of tiles, whatever this machine's BLAS would be better at."""
    monkeypatch.setattr(gemm_cost, "library", lambda p, machine: float("inf"))


def rider(f: Any, *args: Any) -> Any:
    (step,) = [s for s in hml.function(f).get_concrete_function(*args).kernels if isinstance(s, GemmStep)]
    return step.epilogue


IN_TILES = {
    "bias and activation": lambda c, r, b: hml.nn.relu(c + b),
    "bias and GELU": lambda c, r, b: hml.nn.gelu(c + b),
    "an activation's gradient": lambda c, r, b: hml.where(r > 0, c, 0.0),
    "the same and a bias's": lambda c, r, b: (
        hml.where(r > 0, c, 0.0),
        hml.sum(hml.where(r > 0, c, 0.0), axis=0),
    ),
    "residual": lambda c, r, b: c + r,
    "scaling": lambda c, r, b: c * 0.125,
    "what is made and what it is made of": lambda c, r, b: (c, hml.tanh(c)),
    "a mask": lambda c, r, b: (c > 0, c * 2.0),
    "a column beside it": lambda c, r, b: c * r[:, :1],
    "the update of a bias": lambda c, r, b: b - 0.1 * hml.sum(c, axis=0),
    "rows from the last on": lambda c, r, b: c + r[::-1],
}
IN_BLOCKS = {
    "a sine": lambda c, r, b: hml.sin(c),
    "columns from the last on": lambda c, r, b: c + r[:, ::-1],
    "a transpose": lambda c, r, b: c + r.T,
    "the largest of each column": lambda c, r, b: hml.max(c * 2.0, axis=0),
    "many operands": lambda c, r, b: (c * r, c + r, c - r, r - c),
    "another precision": lambda c, r, b: c.astype(hml.float64) * 0.5,
    "long arithmetic": lambda c, r, b: hml.exp(hml.tanh(c)) * hml.log(hml.cosh(c)),
}


@pytest.mark.parametrize(("what", "in_tile"), [(w, True) for w in IN_TILES] + [(w, False) for w in IN_BLOCKS])
@pytest.mark.parametrize("depth", [5, 700])
def test_where_an_epilogue_rides(what: str, in_tile: bool, depth: int, tiles: None) -> None:
    f = (IN_TILES if in_tile else IN_BLOCKS)[what]
    x, w, r, b = array(45, depth), array(depth, 45), array(45, 45), array(45)

    def whole(x: Any, w: Any, r: Any, b: Any) -> Any:
        return f(x @ w, r, b)

    assert rider(whole, x, w, r, b).in_tile is in_tile
    got, want = hml.pytree.leaves(hml.function(whole)(x, w, r, b)), hml.pytree.leaves(whole(x, w, r, b))
    for a, e in zip(got, want, strict=True):
        np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=2e-4, atol=2e-4)


def test_double_precision_rides_so_where_it_is_short(tiles: None) -> None:
    x, w = [hml.asarray(rng.normal(size=(20, 20))) for _ in range(2)]
    assert rider(lambda x, w: hml.nn.relu(x @ w), x, w).in_tile
    assert not rider(lambda x, w: hml.nn.gelu(x @ w), x, w).in_tile


@pytest.mark.skipif(
    not llvm.machine().triple.startswith("x86_64"), reason="other processors pass eight vectors in registers"
)
def test_numbers_stay_in_registers(tiles: None) -> None:
    e = rider(lambda x, w, b: hml.nn.relu(x @ w + b), array(20, 20), array(20, 20), array(20))
    way = emit_tile.tile_way(e.lowered.spec)
    assert way is not None
    translated = translate(e.source, e.kernel.name, way[1], "f", "f.py")
    module = llvm.Module(translated.text, translated.loops)
    module.optimise()
    lines = llvm.machine().emit_assembly(module.parsed).splitlines()
    assert not [line for line in lines if re.search(r"%[xyz]mm\d+.*\(%[er][sb]p", line)]
    assert not [line for line in lines if re.match(r"\s+call", line)]
    stored = [line for line in lines if re.match(r"\s+v?mov[a-z]+\s+%[xyz]mm\d+, \S*\(", line)]
    versions = 1 if VECTOR_BYTES == 64 else 2  # all of a tile's columns, or some
    assert len(stored) == versions * TILE_ROWS * TILE_VECTORS or VECTOR_BYTES == 16


CONVOLUTIONS = {  # images, filters, and how they are put together
    "few channels": ((2, 9, 9, 1), (3, 3, 1, 20), {}),
    "many channels": ((2, 7, 8, 300), (3, 3, 300, 37), {"padding": "SAME"}),
    "groups": ((3, 8, 8, 12), (3, 3, 4, 60), {"groups": 3, "strides": 2}),
}


@pytest.mark.parametrize("what", CONVOLUTIONS)
def test_convolutions_carry_so_too(what: str) -> None:
    images, filters, options = CONVOLUTIONS[what]
    x, w, b = array(*images), array(*filters), array(filters[-1])

    def f(x: Any, w: Any, b: Any) -> Any:
        y = hml.nn.conv2d(x, w, **options) + b
        return y, hml.nn.relu(y) * 2.0

    def alone(x: Any, w: Any, b: Any) -> Any:
        return f(x, w, b)[1]

    for g in (f, alone):
        steps = hml.function(g).get_concrete_function(x, w, b).kernels
        assert [s.epilogue.in_tile for s in steps if getattr(s, "epilogue", None)] == [True]
        got, want = [hml.pytree.leaves(h(x, w, b)) for h in (hml.function(g), g)]
        for a, e in zip(got, want, strict=True):
            np.testing.assert_allclose(a.numpy(), e.numpy(), rtol=1e-4, atol=1e-3)


def test_a_rider_is_made_for_the_sizes_of_a_call(tiles: None) -> None:
    """Open sizes: one kernel for all of them."""
    f = hml.function(lambda x, w, b: hml.nn.relu(x @ w + b))
    w, b = array(30, 40), array(40)
    for rows in (3, 64, 17, 200):
        x = array(rows, 30)
        np.testing.assert_allclose(
            f(x, w, b).numpy(), np.maximum(x.numpy() @ w.numpy() + b.numpy(), 0), rtol=1e-4, atol=1e-4
        )
