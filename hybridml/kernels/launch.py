"""How a kernel is spread over a GPU: block, grid, parts of a long reduction, and the width of index arithmetic.

Pure arithmetic on sizes; nothing here needs a GPU, and nothing is allocated.

    MAP      a thread an element, striding over the grid
    ROW      `x` threads share a row, `y` rows a block: few threads for short rows, 512 for long ones
    COLUMN   `x` neighbouring columns (their loads are one memory transaction), `y` threads down each of them

A reduction of few, long rows (or columns) would leave most of the GPU idle, so where the kernel allows it the reduced axis is cut
into parts: one launch reduces each part, a second one combines them, always in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybridml.kernels.spec import Mode

THREADS = 256  # of a block, where nothing else decides; 256 x 8 blocks fill a multiprocessor
WIDEST = 512  # threads that share one long row: each may still have 128 registers
WARP = 32
BLOCKS = 8  # of THREADS threads that a multiprocessor holds at once
SHARED_BYTES = 48 * 1024  # what every device grants a block without asking
MAX_PARTS = 512
PART_STEPS = 16  # elements a thread should have, for a part to be worth a launch
MULTIPROCESSORS = 132  # of an H100; the device says its own


@dataclass(frozen=True)
class Shape:
    """What the text of a kernel depends on: the block's size, and 32 or 64 bits for sizes, strides and loop variables."""

    x: int
    y: int = 1
    index: int = 64

    @property
    def threads(self) -> int:
        return self.x * self.y


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: `grid` is (blocks, parts); with more than one part, two kernels run one after the other."""

    shape: Shape
    grid: tuple[int, int]

    @property
    def parts(self) -> int:
        return self.grid[1]

    @property
    def block(self) -> tuple[int, int]:
        return self.shape.x, self.shape.y

    @property
    def finish(self) -> tuple[int, int]:
        """The grid of the second kernel of a reduction in parts."""
        return self.grid[0], 1


def plan(
    mode: Mode,
    kept: int,
    reduced: int = 1,
    words: Sequence[int] = (),
    *,
    splittable: bool = False,
    accumulators: Sequence[int] = (),
    multiprocessors: int = MULTIPROCESSORS,
) -> Launch:
    """The launch of a kernel over `kept` rows or columns (MAP: elements) of `reduced` elements each.

    Args:
        words: the sizes and strides that the kernel is given; they decide on the index width.
        splittable: True if the kernel can be printed in two phases.
        accumulators: the item sizes of its reductions, for the shared memory that a COLUMN block needs.

    >>> plan(Mode.MAP, 1000).grid
    (4, 1)
    >>> plan(Mode.ROW, 1, 2**24, splittable=True).grid
    (1, 264)
    """
    if kept < 1 or reduced < 1:
        raise ValueError(f"a kernel runs over at least one element, got {kept} x {reduced}")
    resident = multiprocessors * BLOCKS * THREADS
    if mode is Mode.MAP:
        x, y, tile, lanes = THREADS, 1, THREADS, 1
    elif mode is Mode.ROW:
        lanes = _row_lanes(kept, reduced, resident)
        tile = max(1, THREADS // lanes) if lanes <= WARP else 1
        x, y = lanes, tile
    else:
        lanes = _column_lanes(kept, reduced, resident, sum(accumulators))
        tile = THREADS // lanes
        x, y = tile, lanes
    tiles = -(-kept // tile)
    blocks = min(tiles, resident // (x * y))
    parts = _parts(tiles, reduced, lanes, multiprocessors) if splittable and mode is not Mode.MAP else 1
    # A loop variable passes the end of its range by up to one stride.
    furthest = max(kept + blocks * tile, reduced + parts * lanes, parts * kept, *map(abs, words), 0)
    return Launch(Shape(x, y, 32 if furthest < 2**31 else 64), (blocks, parts))


def _row_lanes(kept: int, reduced: int, resident: int) -> int:
    """Threads that share a row: a warp at most while there are rows enough to fill the GPU."""
    if reduced <= WARP:
        return 8
    if reduced < THREADS or (reduced <= 1024 and kept * WARP >= resident // BLOCKS):
        return WARP
    return THREADS if reduced <= 8192 or kept * THREADS >= resident else WIDEST


def _column_lanes(kept: int, reduced: int, resident: int, itemsizes: int) -> int:
    """Threads that share a column: one if there are columns enough, or little to share."""
    lanes = THREADS // WARP
    if reduced <= lanes or kept >= resident or THREADS * itemsizes > SHARED_BYTES:
        return 1
    return lanes


def _parts(tiles: int, reduced: int, lanes: int, multiprocessors: int) -> int:
    """Parts of the reduced axis, enough for two blocks a multiprocessor; 1 if the parts would be too small."""
    wanted = 2 * multiprocessors // tiles
    return max(1, min(wanted, reduced // (lanes * PART_STEPS), MAX_PARTS))


def sizes(axes: Sequence[str], names: Sequence[str], words: Sequence[int]) -> int:
    """The product of the sizes called `axes` among a kernel's words."""
    value = dict(zip(names, words, strict=True))
    return math.prod(value[a] for a in axes)
