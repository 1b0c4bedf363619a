"""Slices of axes whose size may not be known: what `slice.indices` and `len(range(...))` say, for Dims too."""

from __future__ import annotations

from typing import Any

from hybridml.symbolic.dim import has_dims


def bounds(key: slice, size: Any) -> tuple[Any, Any, Any]:
    """(start, stop, step) of a slice of an axis, as `key.indices(size)` gives them."""
    if not has_dims((key, size)):
        return key.indices(size)
    step = 1 if key.step is None else int(key.step)
    if step == 0:
        raise ValueError("slice step cannot be zero")
    low, high = (0, size) if step > 0 else (-1, size - 1)
    first, last = (low, high) if step > 0 else (high, low)
    start = first if key.start is None else _clamped(key.start, size, low, high)
    stop = last if key.stop is None else _clamped(key.stop, size, low, high)
    return start, stop, step


def _clamped(at: Any, size: Any, low: Any, high: Any) -> Any:
    return max(at + size, low) if at < 0 else min(at, high)


def length(start: Any, stop: Any, step: int) -> Any:
    """How many indices a range has."""
    if not has_dims((start, stop)):
        return len(range(start, stop, step))
    span = (stop - start + step - 1) // step if step > 0 else (start - stop - step - 1) // -step
    return max(span, 0)
