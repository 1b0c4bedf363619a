"""Values that are handed on and looked at on the way."""

from __future__ import annotations

import numpy as np

from hybridml import dtypes
from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement.boxes import copy
from hybridml.kernels.movement.frame import Frame, bits
from hybridml.kernels.views import Place
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Node, Value


def check_finite(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """A copy that flags NaN and infinities, by their bits: all of the exponent is set."""
    (x,) = n.values
    whole = Layout.contiguous(n.out.shape)
    if not dtypes.is_float(n.out.dtype):
        return [copy("check_finite", places[x], n.out, whole)]
    base, layout = places[x]
    kind = bits(n.out.dtype)
    frame = Frame("check_finite", n.out.shape)
    source = frame.read(places[x], layout.strides)
    target = frame.write(n.out, whole.strides)
    exponent = frame.scalar(np.asarray(np.inf, n.out.dtype).view(kind).item(), kind)
    value = frame.load(source)
    frame.flag(n, f"({value} & {exponent}) == {exponent}")
    frame.store(target, value)
    in_place = layout.is_contiguous and not layout.offset and base.spec.size == n.out.spec.size
    return [frame.lowered(((base, n.out),) if in_place else ())]


def check_true(n: Node, places: dict[Value, Place]) -> list[Lowered]:
    """A copy that flags what is false."""
    (x,) = n.values
    whole = Layout.contiguous(n.out.shape)
    base, layout = places[x]
    frame = Frame("check_true", n.out.shape)
    source = frame.read(places[x], layout.strides)
    target = frame.write(n.out, whole.strides)
    value = frame.load(source)
    frame.flag(n, f"{value} == {frame.scalar(0, bits(n.out.dtype))}")
    frame.store(target, value)
    in_place = layout.is_contiguous and not layout.offset and base.spec.size == n.out.spec.size
    return [frame.lowered(((base, n.out),) if in_place else ())]
