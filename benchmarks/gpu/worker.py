"""One process of one library on the GPU: builds a workload of benchmarks/peers and times it. Prints one JSON line a workload.

    python worker.py LIBRARY VARIANT NAME...

A call counts as finished when the device has done it: blocks of calls end with a synchronisation.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "peers"))
SECONDS, ROUNDS = 0.05, 9


def prepare(library: str) -> tuple[Any, Any]:
    """The library's module for the GPU, and a function that waits for the device."""
    if library == "torch":
        import torch

        torch.set_default_device("cuda")  # the workloads' tensors are made with torch.tensor
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32, as in the others
        return importlib.import_module("lib_torch"), torch.cuda.synchronize
    if library == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        module = importlib.import_module("lib_jax")
        last: list[Any] = []
        return module, lambda: jax.block_until_ready(last)
    import hybridml as hml
    from hybridml import backends

    hml.backends.named("gpu:0")
    return importlib.import_module("lib_hybridml"), backends.named(
        "gpu:0"
    ).xp.cuda.get_current_stream().synchronize  # type: ignore[attr-defined]  # of a GPU


def measure(library: str, variant: str, name: str) -> dict[str, Any]:
    """Seconds a call, its first call, and the launch cost: CPU seconds a call without waiting."""
    from workloads import WORKLOADS

    module, wait = prepare(library)
    workload = WORKLOADS[name]
    call = module.build(workload, workload.make(), variant)
    if call is None:
        return {"absent": True}
    finish = module.wait

    def block(n: int) -> tuple[float, float]:
        begin = time.perf_counter()
        out = None
        for _ in range(n):
            out = call()
        issued = time.perf_counter() - begin
        if library == "jax":
            finish(out)
        else:
            wait()
        return (time.perf_counter() - begin) / n, issued / n

    first, _ = block(1)
    for _ in range(5):
        block(3)
    n = max(1, int(SECONDS / block(3)[0]))
    found = sorted(block(n) for _ in range(ROUNDS))
    return {
        "seconds": found[len(found) // 2][0],
        "fastest": found[0][0],
        "issued": sorted(i for _, i in found)[len(found) // 2],
        "first_call": first,
        "loss": _loss(call(), library),
    }


def _loss(out: Any, library: str) -> float | None:
    """The first element of the first result, to see that the libraries do the same."""
    while isinstance(out, (tuple, list)):
        out = out[0]
    try:
        flat = out.reshape(-1)[0] if library != "hybridml" else out.numpy().reshape(-1)[0]
        return float(flat)
    except Exception:
        return None


def main(library: str, variant: str, *names: str) -> None:
    """Measure each workload; what fails is told and ends nobody else's."""
    for name in names:
        try:
            found = measure(library, variant, name)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:300]}
        sys.stdout.write(
            json.dumps({"library": library, "variant": variant, "workload": name, **found}) + "\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
