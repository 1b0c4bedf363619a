"""Samples of the convolution rows, and their definition: every product of the trilinear form, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.ops.convolution_geometry import geometry, resolved, transposed_size
from hybridml.ops.registry import Sample
from hybridml.ops.spec import Shape

_CASES: tuple[tuple[Shape, Shape, dict[str, Any]], ...] = (
    ((2, 5, 6, 3), (3, 2, 3, 4), {}),
    ((2, 6, 5, 1), (3, 3, 1, 2), {"padding": "same"}),
    ((1, 7, 8, 2), (2, 3, 2, 3), {"strides": (2, 3), "padding": ((0, 1), (2, 1))}),
    ((2, 7, 7, 2), (3, 2, 2, 3), {"dilation": (2, 3), "padding": "same"}),
    ((2, 5, 5, 4), (2, 2, 2, 6), {"groups": 2, "strides": 2, "padding": "same"}),
    ((1, 6, 5, 3), (3, 3, 1, 3), {"groups": 3, "padding": 1}),
    ((1, 5, 4, 2), (2, 2, 1, 4), {"groups": 2}),
    ((1, 9, 9, 1), (2, 2, 1, 1), {"strides": 4}),
    ((1, 2, 2, 2), (5, 5, 2, 2), {"padding": "same"}),
    ((1, 3, 3, 17), (1, 1, 17, 33), {}),
    ((0, 4, 4, 2), (3, 3, 2, 2), {}),
)  # fmt: skip


def conv_samples(rng: np.random.Generator) -> Any:
    for x, w, given in _CASES:
        yield Sample((rng.normal(size=x), rng.normal(size=w)), given, label=f"{x} by {w} {given}")


def input_samples(rng: np.random.Generator) -> Any:
    for x, w, given in _CASES:
        g = (x[0], *geometry(x, w, resolved(x, w, given)).count, w[3])
        more = {**given, "size": x[1:3]}
        yield Sample((rng.normal(size=g), rng.normal(size=w)), more, label=f"{g} by {w} {more}")
    yield Sample(
        (rng.normal(size=(2, 3, 3, 2)), rng.normal(size=(3, 3, 4, 2))),
        {"strides": 2, "padding": "same"},
        label="size from the rest",
    )


def filter_samples(rng: np.random.Generator) -> Any:
    for x, w, given in _CASES:
        g = (x[0], *geometry(x, w, resolved(x, w, given)).count, w[3])
        more = {**given, "window": w[:2]}
        yield Sample((rng.normal(size=x), rng.normal(size=g)), more, label=f"{x} by {g} {more}")


def _terms(x: Shape, w: Shape, attrs: dict[str, Any]) -> Any:
    """(index of g, index of x, index of w) of every product in the trilinear form, one by one: the definition."""
    windows, each, many = geometry(x, w, attrs), w[2], w[3] // attrs["groups"]
    (sh, sw), (dh, dw), ((top, _), (left, _)) = windows.strides, windows.dilation, windows.padding
    for n, i, j in np.ndindex(x[0], *windows.count):
        for a, b in windows.taps:
            h, v = i * sh + a * dh - top, j * sw + b * dw - left
            if 0 <= h < x[1] and 0 <= v < x[2]:
                for c, f in np.ndindex(each, w[3]):
                    yield (n, i, j, f), (n, h, v, f // many * each + c), (a, b, c, f)


def reference_conv(x: Any, w: Any, **given: Any) -> Any:
    attrs = resolved(x.shape, w.shape, given)
    out = np.zeros((x.shape[0], *geometry(x.shape, w.shape, attrs).count, w.shape[3]))
    for g, i, f in _terms(x.shape, w.shape, attrs):
        out[g] += float(x[i]) * float(w[f])
    return out


def reference_input(g: Any, w: Any, *, size: Any = None, **given: Any) -> Any:
    size = transposed_size(g.shape, w.shape, given) if size is None else size
    x = (g.shape[0], *size, w.shape[2] * given.get("groups", 1))
    out = np.zeros(x)
    for k, i, f in _terms(x, w.shape, resolved(x, w.shape, given)):
        out[i] += float(g[k]) * float(w[f])
    return out


def reference_filter(x: Any, g: Any, *, window: Any, **given: Any) -> Any:
    w = (*window, x.shape[3] // given.get("groups", 1), g.shape[3])
    out = np.zeros(w)
    for k, i, f in _terms(x.shape, w, resolved(x.shape, w, given)):
        out[f] += float(x[i]) * float(g[k])
    return out
