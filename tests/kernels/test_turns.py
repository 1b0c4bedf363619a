"""Transposed reads of CUDA kernels: which operands are turned, and the text of a tile."""

from __future__ import annotations

from typing import Any

import pytest
from cuda_assembly import kernels, only_kernel
from cuda_cases import floats, planned, traced

import hybridml as hml
from hybridml.kernels import emit_cuda, launch
from hybridml.kernels.emit_cuda.turns import row_length, tile_bytes
from hybridml.kernels.launch import Shape


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
