"""Iteration spaces: shapes without axes of size 1, refined to common factors and collapsed to as few axes as strides allow."""

from __future__ import annotations

from hybridml.ops.registry import Layout

Space = tuple[int, ...]


def squeeze(shape: tuple[int, ...]) -> Space:
    return tuple([d for d in shape if d != 1])


def refine(a: Space, b: Space) -> Space | None:
    """The coarsest space that splits the axes of both, or None if their factors cross.

    >>> refine((6, 4), (2, 12))
    (2, 3, 4)
    >>> refine((4, 6), (6, 4)) is None
    True
    """
    i, j = len(a) - 1, len(b) - 1
    x, y = 1, 1  # what is left of the axes at i and j
    out: list[int] = []
    while True:
        if x == 1 and i >= 0:
            x, i = a[i], i - 1
        if y == 1 and j >= 0:
            y, j = b[j], j - 1
        if x == 1 and y == 1:
            return tuple(reversed(out))
        step = min(x, y)
        if step == 1 or x % step or y % step:
            return None
        out.append(step)
        x, y = x // step, y // step


def parts(coarse: Space, fine: Space) -> list[list[int]]:
    """For each axis of `coarse`, the axes of `fine` that make it up."""
    found: list[list[int]] = []
    k = 0
    for d in coarse:
        group: list[int] = []
        product = 1
        while product != d:
            product *= fine[k]
            group.append(k)
            k += 1
        found.append(group)
    return found


def canonical(space: Space, axes: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Row-major strides over the given axes of a space (all of them by default), 0 on the others."""
    wanted = set(range(len(space)) if axes is None else axes)
    strides = [0] * len(space)
    step = 1
    for k in reversed(range(len(space))):
        if k in wanted:
            strides[k] = step
            step *= space[k]
    return tuple(strides)


def stretch(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout broadcast to a shape: stride 0 along new and stretched axes."""
    lead = len(shape) - len(layout.shape)
    strides = [0] * lead + [
        0 if d == 1 and n != 1 else s
        for d, s, n in zip(layout.shape, layout.strides, shape[lead:], strict=True)
    ]
    return Layout(tuple(shape), tuple(strides), layout.offset)


def strides_over(layout: Layout, space: Space) -> tuple[int, ...]:
    """The layout's strides on the axes of a space that refines its shape."""
    kept = [(d, s) for d, s in zip(layout.shape, layout.strides, strict=True) if d != 1]
    found = [0] * len(space)
    for (_, stride), axes in zip(kept, parts(tuple([d for d, _ in kept]), space), strict=True):
        step = stride
        for k in reversed(axes):
            found[k] = step
            step *= space[k]
    return tuple(found)


def collapse(space: Space, classes: tuple[int, ...], strides: list[tuple[int, ...]]) -> list[list[int]]:
    """Runs of neighbouring axes that every operand walks as one; axes of different classes stay apart."""
    runs: list[list[int]] = []
    for k in range(len(space)):
        previous = runs[-1][-1] if runs else None
        if (
            previous is not None
            and classes[previous] == classes[k]
            and all(s[previous] == s[k] * space[k] for s in strides)
        ):
            runs[-1].append(k)
        else:
            runs.append([k])
    return runs
