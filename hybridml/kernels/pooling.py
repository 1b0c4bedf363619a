"""Pooling as steps of a program: `window_loops` has the kernels."""

from __future__ import annotations

import functools
import math
from pathlib import Path

from hybridml.kernels import jit
from hybridml.kernels.convolution import Places, Steps
from hybridml.kernels.group import NATIVE
from hybridml.kernels.jit import Kernel
from hybridml.kernels.steps import CHUNK_NANOSECONDS, RoutineStep
from hybridml.kernels.walk import pieces
from hybridml.trace.graph import Node, Value

_NANOSECONDS = 0.15  # for one channel of one tap


def load(entry: str, dtype: str, places: str) -> Kernel:
    """The kernel ``"largest"``, ``"take"`` or ``"scatter"`` for images of one dtype and places of another."""
    return jit.load(_source(dtype, places), entry)


@functools.cache
def _source(dtype: str, places: str) -> str:
    text = Path(__file__).with_name("window_loops.py").read_text(encoding="utf-8")
    return text.replace("uint8", "PLACES").replace("float32", dtype).replace("PLACES", places)


def largest(n: Node, places: Places, threads: int) -> Steps | None:
    """The largest element of each window, and its place."""
    (x,) = n.values
    values, positions = n.outputs
    return _step(
        "largest", n, places, threads, x, values, (x, values, positions), values.shape[0] * values.shape[1]
    )


def take(n: Node, places: Places, threads: int) -> Steps | None:
    """Elements by their place."""
    x, positions = n.values
    return _step("take", n, places, threads, x, n.out, (x, positions, n.out), n.out.shape[0] * n.out.shape[1])


def scatter(n: Node, places: Places, threads: int) -> Steps | None:
    """Elements to their place. Images are shared out whole: windows that overlap add to the same elements."""
    g, positions = n.values
    return _step("scatter", n, places, threads, n.out, g, (g, positions, n.out), n.out.shape[0])


def _step(
    entry: str, n: Node, places: Places, threads: int, image: Value, over: Value, operands: tuple[Value, Value, Value], extent: int
) -> Steps | None:  # fmt: skip
    positions = n.outputs[1] if len(n.outputs) == 2 else n.values[1]
    if image.dtype.char not in NATIVE:
        return None
    attrs = n.attrs
    words = [
        0, 0, 0, *image.shape[1:], *over.shape[1:3], *attrs["window"], *attrs["strides"],
        attrs["padding"][0][0], attrs["padding"][1][0],
    ]  # fmt: skip
    found, walks = [], []
    again = 1 if entry == "scatter" else over.shape[1]  # steps that an image takes
    for word, v in enumerate(operands):
        base, layout = places[v] if v in n.values else (v, None)
        offset = layout.offset if layout is not None else 0
        found.append((base, offset * base.dtype.itemsize, word))
        if v is image or entry == "scatter":
            walks.append(pieces(base, v in n.outputs, v.shape[0], math.prod(v.shape[1:]), again, offset))
        else:
            walks.append(pieces(base, v in n.outputs, extent, math.prod(v.shape[2:]), 1, offset))
    taps = attrs["window"][0] * attrs["window"][1]
    nanoseconds = _NANOSECONDS * over.spec.size * taps
    step = RoutineStep(
        f"{n.op.name}: windows of {attrs['window']}", load(entry, image.dtype.name, positions.dtype.name), words,
        tuple(found), tuple([b for b, _, _ in found if b not in n.outputs]), n.outputs, extent, nanoseconds,
        nanoseconds / CHUNK_NANOSECONDS, threads, own_walks=tuple(walks),
    )  # fmt: skip
    return [step]
