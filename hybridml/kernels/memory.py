"""The memory plan: every intermediate at a fixed place in one arena, by first and last use.

Places are chosen best fit, largest first within the order of time, in 64-byte blocks (a cache line, an AVX-512 vector).
"""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from dataclasses import dataclass

ALIGN = 64


@dataclass(frozen=True)
class Interval:
    """A buffer of `nbytes`, needed from step `born` to step `dies`, both included."""

    key: Hashable
    nbytes: int
    born: int
    dies: int


def plan(intervals: list[Interval]) -> tuple[dict[Hashable, int], int]:
    """Byte offsets for buffers such that no two that live at once overlap, and the arena's size.

    >>> offsets, size = plan([Interval("a", 100, 0, 1), Interval("b", 100, 1, 2), Interval("c", 100, 2, 3)])
    >>> offsets["a"] == offsets["c"], size
    (True, 256)
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, born, dies; in this order
    offsets: dict[Hashable, int] = {}
    size = 0
    for b in sorted(intervals, key=lambda b: (-b.nbytes, b.born)):
        need = -(-max(b.nbytes, 1) // ALIGN) * ALIGN
        best, best_gap, at = None, None, 0
        for o, e, born, dies in placed:
            if born > b.dies or dies < b.born:
                continue
            gap = o - at
            if gap >= need and (best_gap is None or gap < best_gap):
                best, best_gap = at, gap
            at = max(at, e)
        offset = at if best is None else best
        bisect.insort(placed, (offset, offset + need, b.born, b.dies))
        offsets[b.key] = offset
        size = max(size, offset + need)
    return offsets, size
