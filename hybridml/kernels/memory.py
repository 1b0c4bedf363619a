"""The memory plan: every intermediate at a fixed place in one arena, by first and last use.

Places are chosen best fit, largest first within the order of time, in 64-byte blocks (a cache line, an AVX-512 vector). Which buffer lies
above which is then good for any sizes: what lives at once stays apart if each begins where those below it end.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    born, dies, start, end = np.zeros((4, len(intervals)), np.int64)  # of those that are placed, by offset
    offsets: dict[Hashable, int] = {}
    size = 0
    for n, b in enumerate(sorted(intervals, key=lambda b: (-b.nbytes, b.born))):
        need = _whole_lines(b.nbytes)
        beside = (born[:n] <= b.dies) & (dies[:n] >= b.born)
        tops = np.maximum.accumulate(np.append(0, end[:n][beside]))  # below each of them, and above all
        gaps = start[:n][beside] - tops[:-1]
        fitting = np.flatnonzero(gaps >= need)
        offset = int(tops[fitting[np.argmin(gaps[fitting])]] if fitting.size else tops[-1])
        at = int(np.searchsorted(start[:n], offset))
        for column, x in zip((born, dies, start, end), (b.born, b.dies, offset, offset + need), strict=True):
            column[at + 1 : n + 1] = column[at:n]
            column[at] = x
        offsets[b.key] = offset
        size = max(size, offset + need)
    return offsets, size


def _whole_lines(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGN) * ALIGN


@dataclass(frozen=True)
class Stack:
    """Buffers from the bottom up, and for each the numbers of those below it that live when it does (but for those that lie below
    another one of them anyway)."""

    keys: tuple[Hashable, ...]
    below: tuple[tuple[int, ...], ...]

    def at(self, nbytes: Sequence[int]) -> tuple[list[int], int]:
        """Byte offsets for buffers of these sizes, in the order of the keys, and the arena's size."""
        offsets: list[int] = []
        ends: list[int] = []
        for n, below in zip(nbytes, self.below, strict=True):
            start = max([ends[k] for k in below], default=0)
            offsets.append(start)
            ends.append(start + _whole_lines(n))
        return offsets, max(ends, default=0)


def stacked(intervals: list[Interval], offsets: Mapping[Hashable, int]) -> Stack:
    """A plan's order, for other sizes of the same buffers. For the plan's own sizes the arena is not larger than the plan's.

    >>> a, b, c = Interval("a", 100, 0, 1), Interval("b", 100, 1, 2), Interval("c", 100, 2, 3)
    >>> stack = stacked([a, b, c], plan([a, b, c])[0])
    >>> stack.keys, stack.at([500, 10, 64])
    (('a', 'c', 'b'), ([0, 0, 512], 576))
    """
    order = sorted(intervals, key=lambda b: offsets[b.key])
    below: list[tuple[int, ...]] = []
    under: list[int] = []  # as bits: all that lies below, at any distance
    for i, b in enumerate(order):
        kept: list[int] = []
        covered = 0
        for k in reversed(range(i)):
            if not covered >> k & 1 and order[k].born <= b.dies and b.born <= order[k].dies:
                kept.append(k)
                covered |= under[k] | 1 << k
        below.append(tuple(kept))
        under.append(covered)
    return Stack(tuple([b.key for b in order]), tuple(below))
