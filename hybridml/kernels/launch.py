"""How a kernel is spread over a GPU: block, grid, parts of a long reduction, and the width of index arithmetic.

Pure arithmetic on sizes; nothing here needs a GPU, and nothing is allocated.

    MAP      a thread an element, or several neighbouring ones, striding over the grid; a block a tile where operands are transposed
    ROW      `x` threads share a row, `y` rows a block: few threads for short rows, 512 for long ones. A row whose values fit in its
             threads' registers is read once
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
TILE = 32  # elements along both sides of a tile that is turned in shared memory
STAGED_BATCH = 8  # elements of a staged row that a thread takes at a time, or one access of more
MAX_PARTS = 512
PART_STEPS = 16  # elements a thread should have, for a part to be worth a launch
# Threads that may share a row which they hold in registers, and how many registers each of them has for it.
HELD = ((8, 32), (WARP, 32), (128, 32), (256, 32), (WIDEST, 64))
MULTIPROCESSORS = 132  # of an H100; the device says its own


@dataclass(frozen=True)
class Turn:
    """Operands that lie in memory along another axis than the kernel's innermost one, and that axis."""

    axis: str
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """What the text of a kernel depends on.

    x, y    the block's size
    index   32 or 64 bits for sizes, strides and loop variables
    vector  neighbouring elements that a thread loads or stores together
    held    groups of so many elements that a thread of a row keeps in registers: exactly as many as cover the row. 0 where it keeps none
    staged  True if shared memory keeps the row between the passes
    turn    what a MAP kernel reads in tiles, and turns in shared memory
    """

    x: int
    y: int = 1
    index: int = 64
    vector: int = 1
    held: int = 0
    staged: bool = False
    turn: Turn | None = None

    @property
    def threads(self) -> int:
        return self.x * self.y


@dataclass(frozen=True)
class Launch:
    """One kernel's launch: `grid` is (blocks, parts); with more than one part, two kernels run one after the other.

    `shared` is how many bytes of shared memory a block asks for, beside the tables that stand in its text.
    """

    shape: Shape
    grid: tuple[int, int]
    shared: int = 0

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
    vector: int = 1,
    held_words: int = 0,
    staged_bytes: int = 0,
    shared_bytes: int = SHARED_BYTES,
    turn: Turn | None = None,
    tiles: int = 0,
) -> Launch:
    """The launch of a kernel over `kept` rows or columns (MAP: elements) of `reduced` elements each.

    Args:
        words: the sizes and strides that the kernel is given; they decide on the index width.
        splittable: True if the kernel can be printed in two phases.
        accumulators: the item sizes of its reductions, for the shared memory that a COLUMN block needs.
        vector: neighbouring elements that one access may move.
        held_words: registers that an element of a row needs while it is held; 0 if rows cannot be held.
        staged_bytes: shared memory that an element needs where the row is kept there; 0 if nothing is read twice.
        shared_bytes: shared memory that the device grants a block that asks for it.
        turn: what a MAP kernel reads transposed, if anything, and in how many `tiles`.

    >>> plan(Mode.MAP, 1000).grid
    (4, 1)
    >>> plan(Mode.ROW, 1, 2**24, splittable=True).grid
    (1, 264)
    >>> plan(Mode.ROW, 65536, 1024, vector=4, held_words=1).shape == Shape(32, 8, index=32, vector=4, held=8)
    True
    """
    if kept < 1 or reduced < 1:
        raise ValueError(f"a kernel runs over at least one element, got {kept} x {reduced}")
    resident = multiprocessors * BLOCKS * THREADS
    held, shared = 0, 0
    if turn is not None:
        x, y, vector, tile, lanes = TILE, THREADS // TILE, 1, TILE * TILE, 1
    elif mode is Mode.MAP:
        vector = vector if kept >= vector * multiprocessors * THREADS else 1
        x, y, tile, lanes = THREADS, 1, THREADS * vector, 1
    elif mode is Mode.ROW:
        lanes = _row_lanes(kept, reduced, resident)
        splits = splittable and _parts(_rows_of_lanes(kept, lanes)[1], reduced, lanes, multiprocessors) > 1
        if held_words and not splits:
            lanes, held = _held(kept, reduced, vector, held_words, resident) or (lanes, 0)
            tables = len(accumulators) * WIDEST // WARP * 8
            if not held and staged_bytes and reduced * staged_bytes <= shared_bytes - tables:
                lanes, shared = WIDEST, reduced * staged_bytes
        tile, _ = _rows_of_lanes(kept, lanes)
        x, y = lanes, tile
    else:
        vector = 1
        lanes = _column_lanes(kept, reduced, resident, sum(accumulators))
        tile = THREADS // lanes
        x, y = tile, lanes
    tiles = -(-kept // tile) if turn is None else tiles
    blocks = min(tiles, resident // (x * y))
    parts = (
        _parts(tiles, reduced, lanes, multiprocessors)
        if splittable and mode is not Mode.MAP and not held and not shared
        else 1
    )
    # A loop variable passes the end of its range by up to one stride.
    step = parts * lanes * max(vector, STAGED_BATCH * bool(shared)) if mode is not Mode.MAP else 0
    furthest = max(kept + blocks * tile, reduced + step, parts * kept, *map(abs, words), 0)
    return Launch(
        Shape(x, y, 32 if furthest < 2**31 else 64, vector, held, shared > 0, turn), (blocks, parts), shared
    )


def shape_together(
    kept: Sequence[int], words: Sequence[int], vector: int = 1, multiprocessors: int = MULTIPROCESSORS
) -> Shape:
    """The block of a MAP kernel over several sets of operands with so many elements each; `words` are those of all sets.

    >>> shape_together([1000, 10], [1000, 10]).vector
    1
    """
    vector = vector if sum(kept) >= vector * multiprocessors * THREADS else 1
    step = multiprocessors * BLOCKS * THREADS * vector
    furthest = max(max(kept) + step, *map(abs, words), 0)
    return Shape(THREADS, 1, 32 if furthest < 2**31 else 64, vector)


def shares(kept: Sequence[int], vector: int, multiprocessors: int = MULTIPROCESSORS) -> list[int]:
    """How many blocks each set has of those that fill the device: in proportion to its elements, and none that would be idle.

    >>> shares([1000, 10], 1)
    [4, 1]
    """
    tiles = [-(-n // (THREADS * vector)) for n in kept]
    resident, wanted = multiprocessors * BLOCKS, sum(tiles)
    return [max(1, min(t, t * resident // wanted)) for t in tiles]


def _rows_of_lanes(kept: int, lanes: int) -> tuple[int, int]:
    """Rows a block, and blocks that all rows need."""
    tile = max(1, THREADS // lanes) if lanes <= WARP else 1
    return tile, -(-kept // tile)


def _held(kept: int, reduced: int, vector: int, words: int, resident: int) -> tuple[int, int] | None:
    """(threads that share a row, groups each of them holds), or None for a row that is too long: as few threads as can hold it, and more
    where rows are too few to fill the GPU."""
    found = None
    for lanes, registers in HELD:
        groups = -(-reduced // (lanes * vector))
        if groups * vector * words <= registers:
            found = lanes, groups
            if groups == 1 or kept * lanes >= resident // BLOCKS:
                break
    return found


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
