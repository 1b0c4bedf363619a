"""How a step goes through a buffer while it runs over its extent, and whether pieces of the extent stay apart in it."""

from __future__ import annotations

from dataclasses import dataclass

from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Value

Axes = tuple[tuple[int, int], ...]  # (size, stride in elements), outermost first


@dataclass(frozen=True)
class Walk:
    """One operand of a step: `outer` are the axes that the extent runs over, `inner` what is done at each point of it."""

    value: Value
    written: bool
    outer: Axes
    inner: Axes
    offset: int = 0  # elements

    def at(self, sizes: Sizes) -> Walk:
        """For these sizes."""
        return Walk(
            sizes.value(self.value), self.written, sizes(self.outer), sizes(self.inner), sizes(self.offset)
        )

    def is_local(self, units: int) -> bool:
        """True if of `units` equal pieces of the extent the k-th touches nothing but the k-th of as many equal parts of the buffer.

        >>> from hybridml.ops.spec import spec
        >>> x = Value(spec((6, 4), "float32"))
        >>> rows, columns = Walk(x, False, ((6, 4),), ((4, 1),)), Walk(x, False, ((4, 1),), ((6, 4),))
        >>> rows.is_local(6), rows.is_local(2), rows.is_local(4), columns.is_local(4)
        (True, True, False, False)
        """
        if self.value.spec.size % units:
            return False
        part = self.value.spec.size // units
        within: list[tuple[int, int]] = list(self.inner)
        left = units  # pieces that one step along the axis before holds
        for size, stride in self.outer:
            if size == 1:
                continue
            if left > 1 and left % size == 0:
                left //= size
                if stride != left * part:
                    return False
            elif size % left == 0:
                if left > 1 and stride * (size // left) != part:
                    return False
                within.append((size // left, stride))
                left = 1
            else:
                return False
        if left > 1:
            return False
        low = self.offset + sum(min(0, (size - 1) * stride) for size, stride in within)
        high = self.offset + sum(max(0, (size - 1) * stride) for size, stride in within)
        return 0 <= low and high < part


def pieces(value: Value, written: bool, count: int, size: int, again: int = 1, offset: int = 0) -> Walk:
    """The walk over `count` pieces that lie one behind the other: all `size` elements of one are touched, at `again` steps each.

    >>> from hybridml.ops.spec import spec
    >>> images, rows = Value(spec((4, 6, 5), "float32")), Value(spec((4, 3, 5), "float32"))
    >>> seen, made = pieces(images, False, 4, 30, again=3), pieces(rows, True, 12, 5)
    >>> [seen.is_local(units) and made.is_local(units) for units in (2, 4, 12)], made.is_local(12)
    ([True, True, False], True)
    """
    return Walk(value, written, ((count, size), (again, 0)), ((size, 1),), offset)
