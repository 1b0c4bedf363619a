"""What a call does, in counts that no machine changes: a change that makes one of them worse must say so here.

`make bench-peers` times the same workloads. Bytes are those that the kernels read and write, each buffer once a kernel.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hybridml.kernels import gemm_cost

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
OBJECTS = 4096  # bytes of Python objects around a call's results: tensors, lists, arrays' headers
PLACING = 4096 + 64  # bytes more for each large result, so that it can begin where kernels are fastest


class Counts(NamedTuple):
    """At most so many, per call."""

    kernels: int
    megabytes: float


# Weights' products and long sums down columns are cut (`kernels.depth`, `crossing.cut_long`): a launch and some small partial results more,
# for threads that keep to their own memory.
MOST = {
    "two_layer_forward": Counts(2, 0.72),
    "two_layer_sgd": Counts(10, 2.0),
    "two_layer_adam": Counts(10, 3.67),
    "tiny_sgd": Counts(8, 0.05),
    "tiny_adam": Counts(7, 0.06),
    "wide_sgd": Counts(10, 44.6),
    "conv_adam": Counts(19, 20.2),
    "gru_adam": Counts(30, 152.8),
    "transformer_adam": Counts(38, 182.6),
    "chain_4096": Counts(1, 0.05),
    "chain_1e6": Counts(1, 12.0),
    "cross_entropy": Counts(3, 4.12),
    "layer_norm": Counts(2, 51.2),
}


@pytest.fixture(scope="module")
def peers() -> Iterator[Any]:
    """The module that writes the workloads in hybridml."""
    sys.path.insert(0, str(PEERS))
    try:
        import lib_hybridml

        yield lib_hybridml
    finally:
        sys.path.remove(str(PEERS))


def test_every_traced_workload_has_its_row(peers: Any) -> None:
    from workloads import WORKLOADS

    assert set(MOST) == {name for name, w in WORKLOADS.items() if w.kind != "add"}


@pytest.mark.parametrize("name", MOST)
def test_counts(peers: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All products in tiles: what else rides in them then does not depend on how good this machine's BLAS is."""
    from workloads import WORKLOADS

    monkeypatch.setattr(gemm_cost, "library", lambda product, machine: float("inf"))

    workload = WORKLOADS[name]
    step, inputs = peers.traced_function(workload, workload.make())
    results = step(*inputs)
    stats = step.get_concrete_function(*inputs).stats
    before = step.cache_info()
    assert stats.python_steps == 0
    assert stats.kernels <= MOST[name].kernels
    assert stats.bytes_traced <= MOST[name].megabytes * 1e6

    size = sum(a.nbytes + PLACING for a in peers.arrays(results))
    del results
    for _ in range(2):  # what a call keeps from the one before
        step(*inputs)
    gc.collect()
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        step(*inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - held <= size + OBJECTS, "a call may allocate its results, and nothing else"

    after = step.cache_info()
    assert (after.traces, after.kernels_compiled, after.kernels_loaded) == (
        before.traces,
        before.kernels_compiled,
        before.kernels_loaded,
    ), "a second call traces, compiles and loads nothing"
