"""Launch plans: every element is visited once, limits of the hardware are kept, and no 32-bit loop variable overflows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridml.kernels import launch
from hybridml.kernels.launch import Launch, plan
from hybridml.kernels.spec import Mode

SIZES = st.one_of(st.integers(1, 3000), st.integers(1, 2**40))
MODES = [Mode.MAP, Mode.ROW, Mode.COLUMN]


def lanes_and_tile(mode: Mode, found: Launch) -> tuple[int, int]:
    """Threads that share a row, and rows a block."""
    x, y = found.block
    return {Mode.MAP: (1, x * found.shape.vector), Mode.ROW: (x, y), Mode.COLUMN: (y, x)}[mode]


@given(st.sampled_from(MODES), SIZES, SIZES, st.integers(1, 200), st.booleans())
def test_limits_of_the_hardware(mode: Mode, kept: int, reduced: int, sms: int, splittable: bool) -> None:
    found = plan(mode, kept, reduced, splittable=splittable, accumulators=(8, 8), multiprocessors=sms)
    assert 32 <= found.shape.threads <= 512
    assert found.shape.threads % 32 == 0
    assert 1 <= found.grid[0] < 2**31
    assert 1 <= found.grid[1] <= 65535
    assert found.parts == 1 or splittable
    lanes, _ = lanes_and_tile(mode, found)
    assert lanes & (lanes - 1) == 0, "lanes are combined by halves"
    assert found.parts * lanes <= max(reduced, lanes), "no part is empty"


@given(
    st.sampled_from(MODES), SIZES, SIZES, st.lists(st.integers(-(2**33), 2**33), max_size=3), st.booleans()
)
def test_narrow_loop_variables_do_not_overflow(
    mode: Mode, kept: int, reduced: int, words: list[int], splittable: bool
) -> None:
    found = plan(mode, kept, reduced, words, splittable=splittable)
    lanes, tile = lanes_and_tile(mode, found)
    stride = found.grid[0] * tile
    after_the_last_row = max(-(-(kept - first) // stride) * stride + first for first in (0, stride - 1))
    step = found.parts * lanes
    after_the_last_element = max(-(-(reduced - first) // step) * step + first for first in (0, step - 1))
    fits = max(after_the_last_row, after_the_last_element, found.parts * kept, *map(abs, words), 0) < 2**31
    assert fits or found.shape.index == 64
    if max(kept, reduced, found.parts * kept, *map(abs, words), 0) < 2**30:
        assert found.shape.index == 32


@pytest.mark.parametrize(
    ("kept", "index"), [(2**31 - 2**20, 32), (2**31 - 1, 64), (2**31, 64), (2**33 + 1, 64), (2**45, 64)]
)
def test_sizes_past_the_narrow_index(kept: int, index: int) -> None:
    """Nothing of this size is allocated: a plan is arithmetic."""
    found = plan(Mode.MAP, kept)
    assert found.shape.index == index
    assert found.grid == (132 * 8, 1), "the grid fills the device, and its threads stride over the rest"


def test_tiles_of_any_size() -> None:
    turn = launch.Turn("i", ("x0",))
    found = plan(Mode.MAP, 100 * 50, words=(100, 50), vector=4, turn=turn, tiles=4 * 2)
    assert found == Launch(launch.Shape(32, 8, 32, turn=turn), (8, 1)), "a block a tile, an element a thread"
    rows, columns = 2**20 + 1, 2**13
    tiles = (2**15 + 1) * 2**8
    found = plan(Mode.MAP, rows * columns, words=(rows, columns), turn=turn, tiles=tiles)
    assert found == Launch(launch.Shape(32, 8, 64, turn=turn), (132 * 8, 1)), "blocks stride over the tiles"


def test_a_wide_stride_needs_a_wide_index() -> None:
    assert plan(Mode.ROW, 4, 100, words=(4, 100, 2**31)).shape.index == 64
    assert plan(Mode.ROW, 4, 100, words=(4, 100, -(2**31))).shape.index == 64
    assert plan(Mode.ROW, 4, 100, words=(4, 100, 2**30)).shape.index == 32


@given(st.sampled_from(MODES), st.integers(1, 300), st.integers(1, 9000), st.integers(1, 4), st.booleans())
def test_every_element_is_visited_once(
    mode: Mode, kept: int, reduced: int, sms: int, splittable: bool
) -> None:
    found = plan(mode, kept, reduced, splittable=splittable, multiprocessors=sms)
    lanes, tile = lanes_and_tile(mode, found)
    blocks = range(found.grid[0])
    rows = [t + k for b in blocks for t in range(b * tile, kept, found.grid[0] * tile) for k in range(tile)]
    assert sorted(r for r in rows if r < kept) == list(range(kept))
    threads = itertools.product(range(found.parts), range(lanes))
    elements = [q for p, k in threads for q in range(p * lanes + k, reduced, found.parts * lanes)]
    assert sorted(elements) == list(range(reduced))


def test_rows_get_threads_by_their_length() -> None:
    many = 10**6
    assert plan(Mode.ROW, many, 10).block == (8, 32)
    assert plan(Mode.ROW, many, 1000).block == (32, 8)
    assert plan(Mode.ROW, 64, 1000).block == (256, 1), "few rows: more threads for each"
    assert plan(Mode.ROW, many, 10**5).block == (256, 1)
    assert plan(Mode.ROW, 3, 10**6).block == (512, 1)
    assert plan(Mode.COLUMN, 1000, 4096).block == (32, 8)
    assert plan(Mode.COLUMN, many, 4096).block == (256, 1), "columns enough for every thread"


def test_a_long_reduction_is_cut_into_parts() -> None:
    whole = plan(Mode.ROW, 1, 2**24)
    assert whole.grid == (1, 1)
    cut = plan(Mode.ROW, 1, 2**24, splittable=True)
    assert cut.grid == (1, 264)
    assert cut.finish == (1, 1)
    assert plan(Mode.ROW, 1, 4000, splittable=True).parts == 1, "too little to be worth a second launch"
    assert plan(Mode.COLUMN, 64, 2**20, splittable=True).parts == 132
    assert plan(Mode.ROW, 10**5, 2**12, splittable=True).parts == 1, "rows fill the device already"


def test_rows_too_long_for_registers_wait_in_shared_memory_where_it_holds_them() -> None:
    def staged(reduced: int, kept: int = 10**4, **options: Any) -> Launch:
        return plan(Mode.ROW, kept, reduced, vector=4, held_words=1, staged_bytes=4, **options)

    h100 = {"shared_bytes": 227 * 1024}
    assert staged(32_768, **h100).shape.held == 16, "registers hold it"
    found = staged(32_772, **h100)
    assert found.shape == launch.Shape(512, 1, 32, vector=4, staged=True)
    assert found.shared == 4 * 32_772
    assert staged(58_112, **h100).shared == 227 * 1024
    assert staged(58_113, **h100).shared == 0
    assert not staged(58_113, **h100).shape.staged
    assert staged(58_112, accumulators=[4, 4], **h100).shared == 0, "their tables are in shared memory too"
    assert staged(40_000).shared == 0, "48 KiB are too few"
    assert staged(40_000, kept=1, **h100).grid == (1, 1)
    assert plan(Mode.ROW, 9, 40_000, held_words=1, splittable=True, **h100).shared == 0, (
        "nothing is read twice"
    )


def test_a_staged_row_at_the_end_of_narrow_indices() -> None:
    options: Any = {"vector": 4, "held_words": 1, "staged_bytes": 4, "shared_bytes": 227 * 1024}
    assert plan(Mode.ROW, 2**31 - 2**20, 40_000, **options).shape.index == 32
    found = plan(Mode.ROW, 2**31, 40_000, **options)
    assert found.shape == launch.Shape(512, 1, 64, vector=4, staged=True)
    assert found.shared == 160_000


def test_shared_memory_decides_on_column_blocks() -> None:
    assert plan(Mode.COLUMN, 1000, 4096, accumulators=[8] * 24).block == (32, 8)
    found = plan(Mode.COLUMN, 1000, 4096, accumulators=[8] * 25)
    assert found.block == (256, 1)
    assert 256 * 8 * 24 <= launch.SHARED_BYTES < 256 * 8 * 25


def test_nothing_cannot_be_launched() -> None:
    with pytest.raises(ValueError, match="at least one element, got 0 x 5"):
        plan(Mode.ROW, 0, 5)
