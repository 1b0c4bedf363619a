"""Windows that slide over images: sizes, strides, padding and dilation, shared by convolution and pooling.

Images are [examples, height, width, channels]. Everything that says something of both spatial axes is a pair of pairs or of ints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridml.errors import ShapeError
from hybridml.ops.spec import Shape
from hybridml.symbolic import dim

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]


@dataclass(frozen=True)
class Windows:
    """Windows over an image of `size`. Padding is (before, after) for each axis; a dilated window skips elements between its own."""

    size: Pair
    window: Pair
    strides: Pair
    padding: Padding
    dilation: Pair = (1, 1)

    @property
    def reach(self) -> Pair:
        """How many elements a window spans, those it skips included."""
        return _pair((k - 1) * d + 1 for k, d in zip(self.window, self.dilation, strict=True))

    @property
    def count(self) -> Pair:
        """How many windows there are along each axis.

        Raises:
            ShapeError: not one window fits.
        """
        found = []
        for n, k, s, (lo, hi) in zip(self.size, self.reach, self.strides, self.padding, strict=True):
            c = (n + lo + hi - k) // s + 1
            if c < 1 and n:
                raise ShapeError(
                    f"a window of {self.window} (dilation {self.dilation}) spans {self.reach} elements, which is more than the image's "
                    f'{self.size} with padding {self.padding}; expected a smaller window, or padding="same"'
                )
            found.append(max(c, 0))
        return _pair(found)

    @property
    def disjoint(self) -> bool:
        """True if no two windows share an element."""
        return all(k <= s for k, s in zip(self.reach, self.strides, strict=True))

    @property
    def taps(self) -> list[Pair]:
        """The positions within a window, in row-major order."""
        return list(np.ndindex(*self.window))

    def inside(self, tap: Pair) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """(windows whose element at `tap` is of the image and not of its padding, those elements), or None if there are none."""
        windows, elements = [], []
        for n, c, s, d, (lo, _), t in zip(
            self.size, self.count, self.strides, self.dilation, self.padding, tap, strict=True
        ):
            first = max(0, -(-(lo - t * d) // s))
            last = min(c - 1, (n - 1 + lo - t * d) // s)
            if last < first:
                return None
            start = first * s + t * d - lo
            windows.append(slice(first, last + 1))
            elements.append(slice(start, start + (last - first) * s + 1, s))
        return (windows[0], windows[1]), (elements[0], elements[1])

    def each(self) -> Iterator[tuple[int, Any, Any]]:
        """(number of the tap, index of windows, index of their elements at it), both for arrays [examples, height, width, ...]."""
        every = slice(None)
        for number, tap in enumerate(self.taps):
            found = self.inside(tap)
            if found is not None:
                yield number, (every, *found[0]), (every, *found[1])

    def patches(self, xp: Any, x: Any) -> Any:
        """[examples, *count, *window, channels]: the elements of every window, 0 in the padding; a view where there is no padding."""
        if self.padding != ((0, 0), (0, 0)):
            x = xp.pad(x, ((0, 0), *self.padding, (0, 0)))
        n, h, w, c = x.strides
        (sh, sw), (dh, dw) = self.strides, self.dilation
        return xp.lib.stride_tricks.as_strided(
            x,
            (x.shape[0], *self.count, *self.window, x.shape[3]),
            (n, sh * h, sw * w, dh * h, dw * w, c),
        )


def _pair(values: Any) -> Pair:
    first, second = values
    return dim(first), dim(second)


def as_pair(value: int | Sequence[int], name: str, least: int = 1) -> Pair:
    """An int for both axes, or one int for each.

    Raises:
        ShapeError: it is neither, or less than `least`.
    """
    given = (value, value) if isinstance(value, (int, np.integer)) else tuple(value)
    if len(given) != 2 or any(int(v) != v or v < least for v in given):
        raise ShapeError(f"{name}={value!r}: expected one int, or (height, width), of {least} or more")
    return _pair(given)


def as_padding(padding: str | int | Sequence[Any], size: Pair, reach: Pair, strides: Pair) -> Padding:
    """Pairs (before, after) from what users write.

    padding: "valid" (none), "same" (as many windows as the size over the stride, rounded up; the odd element of padding comes after, as
             in TensorFlow), an int for all sides, (height, width), or ((top, bottom), (left, right)).

    Raises:
        ShapeError: anything else, or a negative number.
    """
    if isinstance(padding, str):
        if padding.lower() == "valid":
            return (0, 0), (0, 0)
        if padding.lower() == "same":
            totals = [
                max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(size, reach, strides, strict=True)
            ]
            first, second = [(t // 2, t - t // 2) for t in totals]
            return first, second
    elif isinstance(padding, (int, np.integer)):
        padding = ((padding, padding), (padding, padding))
    if not isinstance(padding, str) and len(padding) == 2:
        pairs = [(p, p) if isinstance(p, (int, np.integer)) else tuple(p) for p in padding]
        if all(len(p) == 2 and min(p) >= 0 for p in pairs):
            return _pair(pairs[0]), _pair(pairs[1])
    raise ShapeError(
        f'padding={padding!r}: expected "valid", "same", an int, (height, width) or ((top, bottom), (left, right)), none negative'
    )


def reach_of(window: Pair, dilation: Pair) -> Pair:
    """How many elements a dilated window spans."""
    return Windows((0, 0), window, (1, 1), ((0, 0), (0, 0)), dilation).reach


def check_image(shape: Shape, what: str) -> None:
    """Raises ShapeError unless there are examples, height, width and channels."""
    if len(shape) != 4:
        raise ShapeError(
            f"{what} takes images of shape (examples, height, width, channels), got shape {shape}"
            + ("; add an axis for one example: x[None]" if len(shape) == 3 else "")
        )
