"""What single mechanisms of the compiler buy here: `python benchmarks/mechanisms.py`.

Each workload is timed as it is, in turns with itself traced without the mechanism; below 1 it is faster with.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from turns import in_turns, median, ratio

import hybridml as hml
from hybridml.kernels import crossing, region, streaming
from hybridml.trace import passes

sys.path.insert(0, str(Path(__file__).with_name("peers")))
from lib_hybridml import traced_function
from workloads import WORKLOADS

WITHOUT: dict[str, Any] = {
    "epilogues in registers": mock.patch.object(region, "tile_way", lambda spec: None),
    "products cut along the summed axis": mock.patch.object(region, "cut_depth", lambda graph: graph),
    "long sums cut into blocks": mock.patch.object(crossing, "cut_long", lambda graph: graph),
    "stores past the caches": mock.patch.object(streaming, "worthwhile", lambda low, kept: ()),
    "joined where they are turned": mock.patch.object(
        passes, "PASSES", tuple([p for p in passes.PASSES if p is not passes.joins])
    ),
}
PEERS = {
    "epilogues in registers": ("two_layer_forward", "two_layer_sgd", "wide_sgd", "transformer_adam"),
    "products cut along the summed axis": ("two_layer_sgd", "two_layer_adam", "conv_adam"),
    "long sums cut into blocks": ("gru_adam", "transformer_adam"),
    "stores past the caches": ("layer_norm",),
    "joined where they are turned": ("transformer_adam",),
}
SUMS = ((256, 256), (256, 1024), (1024, 256), (4096, 256), (1024, 1024))
ROUNDS = 15


def workload(name: str) -> Callable[[], object]:
    w = WORKLOADS[name]
    return warm(*traced_function(w, w.make()))


def column_sum(*shape: int) -> Callable[[], object]:
    x = hml.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    return warm(hml.function(lambda x: hml.sum(x, axis=0)), [x])


def warm(f: Any, args: list[Any]) -> Callable[[], object]:
    for _ in range(3):
        f(*args)
    return lambda: f(*args)


def main() -> None:
    print(f"{'mechanism':38}{'workload':22}{'without':>12}{'with':>12}{'ratio':>8}")
    for mechanism, patch in WITHOUT.items():
        makers = {name: functools.partial(workload, name) for name in PEERS[mechanism]}
        if mechanism == "long sums cut into blocks":
            makers |= {f"sum of {m} x {n}": functools.partial(column_sum, m, n) for m, n in SUMS}
        for name, make in makers.items():
            with patch:
                without = make()
            before, after = in_turns(without, make(), rounds=ROUNDS)
            times = f"{median(before) * 1e6:9.1f} us{median(after) * 1e6:9.1f} us"
            print(f"{mechanism:38}{name:22}{times}{ratio(after, before):8.2f}", flush=True)


if __name__ == "__main__":
    main()
