"""Native steps of the rows that slide windows over images, by the name in the row's `provider`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hybridml.kernels import convolution, pooling
from hybridml.kernels.lower import Lowered
from hybridml.kernels.steps import RoutineStep
from hybridml.kernels.views import Place
from hybridml.trace.graph import Node, Value

Generated = tuple[Lowered, tuple[Value, ...], tuple[Value, ...]]  # a kernel, what it reads and what it writes
Provider = Callable[[Node, dict[Value, Place], int], list[RoutineStep | Generated] | None]

ROUTINES: dict[str, Provider] = {  # machine code of the CPU
    "conv": convolution.forward,
    "conv_input": convolution.by_input,
    "conv_filter": convolution.by_filter,
}
GENERATED: dict[str, Provider] = {  # kernels, for any target
    "max_pool": pooling.largest,
    "window_take": pooling.take,
    "window_scatter": pooling.scatter,
}


def lower_windows(
    n: Node,
    places: dict[Value, Place],
    threads: int,
    providers: Mapping[str, Provider] = ROUTINES | GENERATED,
) -> list[RoutineStep | Generated] | None:
    """The steps of a node in their order, or None where its row's eager form has to do."""
    provider = providers.get(n.op.provider or "")
    return None if provider is None else provider(n, places, threads)
