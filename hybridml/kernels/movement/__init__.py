"""Native kernels of the rows that move data, by the name in the row's `provider`."""

from __future__ import annotations

from collections.abc import Callable

from hybridml.kernels.lower import Lowered
from hybridml.kernels.movement import boxes, checks, gathers, sums
from hybridml.kernels.views import Place
from hybridml.trace.graph import Node, Value

Provider = Callable[[Node, dict[Value, Place]], list[Lowered] | None]

PROVIDERS: dict[str, Provider] = {
    f.__name__: f
    for f in (
        boxes.concat, boxes.pad, boxes.slice_scatter, gathers.take, gathers.take_along_axis, gathers.ravel_index,
        sums.scatter_add, sums.scatter_add_along_axis, sums.cumsum, checks.check_finite,
        checks.check_true,
    )
}  # fmt: skip


def lower_movement(n: Node, places: dict[Value, Place]) -> list[Lowered] | None:
    """The kernels of a node, in the order in which they run, or None where its row's eager form has to do.

    The node's results have elements; places are those of its operands.
    """
    if len(n.values) != len(n.inputs) or any(v.dtype.itemsize > 8 for v in (*n.values, *n.outputs)):
        return None
    if n.op.reduce is not None and not n.values[0].spec.size:
        return boxes.of_nothing(n)
    provider = PROVIDERS.get(n.op.provider or "")
    return None if provider is None else provider(n, places)
