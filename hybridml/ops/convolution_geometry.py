"""What a convolution's attributes say about shapes."""

from __future__ import annotations

from typing import Any

from hybridml.errors import ShapeError
from hybridml.ops.spec import Shape
from hybridml.ops.windows import Pair, Windows, as_padding, as_pair, reach_of


def geometry(x: Shape, window: Shape, attrs: dict[str, Any]) -> Windows:
    """The windows of a filter of shape `window` over images of shape `x`."""
    (h, w), (kh, kw) = x[1:3], window[:2]
    return Windows((h, w), (kh, kw), attrs["strides"], attrs["padding"], attrs["dilation"])


def resolved(x: Shape, w: Shape, given: dict[str, Any]) -> dict[str, Any]:
    """A convolution's attributes from what its caller says."""
    strides = as_pair(given.get("strides", 1), "strides")
    dilation = as_pair(given.get("dilation", 1), "dilation")
    groups = given.get("groups", 1)
    if int(groups) != groups or groups < 1:
        raise ShapeError(f"groups={groups!r}: expected an int of 1 or more")
    padding = as_padding(given.get("padding", "valid"), x[1:3], reach_of(w[:2], dilation), strides)  # type: ignore[arg-type]  # of 4
    return {"strides": strides, "padding": padding, "dilation": dilation, "groups": int(groups)}


def transposed_size(g: Shape, w: Shape, given: dict[str, Any]) -> Pair:
    """The size of the image that a transposed convolution makes, as Keras has it."""
    strides = as_pair(given.get("strides", 1), "strides")
    reach = reach_of(w[:2], as_pair(given.get("dilation", 1), "dilation"))  # type: ignore[arg-type]  # shapes of 4
    padding = given.get("padding", "valid")
    name = padding.lower() if isinstance(padding, str) else ""
    found = []
    for axis, (n, s, k) in enumerate(zip(g[1:3], strides, reach, strict=True)):
        if name == "same":
            found.append(n * s)
        elif name == "valid":
            found.append(n * s + max(k - s, 0))
        else:
            found.append((n - 1) * s + k - sum(as_padding(padding, (0, 0), reach, strides)[axis]))
    if min(found) < 0:
        raise ShapeError(
            f"conv2d_transpose: padding={padding!r} leaves a size of {tuple(found)}; expected less padding"
        )
    return found[0], found[1]
