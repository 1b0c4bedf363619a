"""One process of one library on the GPU: builds a workload of benchmarks/peers and times it. Prints one JSON line a workload.

    python worker.py LIBRARY VARIANT NAME...

A call counts as finished when the device has done it: blocks of calls end with a synchronisation.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "peers"))
SECONDS, ROUNDS = 0.05, 9
LIMIT = 60  # seconds of a workload, compiling included


def prepare(library: str) -> tuple[Any, Any]:
    """The library's module for the GPU, and a function that waits for the device."""
    if library == "torch":
        import torch

        torch.set_default_device("cuda")  # the workloads' tensors are made with torch.tensor
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32, as in the others
        torch.backends.cudnn.allow_tf32 = False
        return importlib.import_module("lib_torch"), torch.cuda.synchronize
    if library == "jax":
        import jax

        jax.config.update("jax_default_matmul_precision", "highest")
        module = importlib.import_module("lib_jax")
        return module, lambda: None  # it waits for what a call returns
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

    out: Any = None

    def block(n: int) -> tuple[float, float]:
        nonlocal out
        begin = time.perf_counter()
        for _ in range(n):
            out = call()
        issued = time.perf_counter() - begin
        if library == "jax":
            finish(out)
        else:
            wait()
        return (time.perf_counter() - begin) / n, issued / n

    first, _ = block(1)
    losses = [_loss(out, library)]
    block(9)
    losses.append(_loss(out, library))
    for _ in range(5):
        block(3)
    n = max(1, int(SECONDS / block(3)[0]))
    found = sorted(block(n) for _ in range(ROUNDS))
    return {
        "seconds": found[len(found) // 2][0],
        "fastest": found[0][0],
        "issued": sorted(i for _, i in found)[len(found) // 2],
        "first_call": first,
        "losses": losses,
    }


def _loss(out: Any, library: str) -> float | None:
    """The first element of the first result: after one call, and after ten, the libraries should agree."""
    while isinstance(out, (tuple, list)):
        out = out[0]
    try:
        flat = out.detach().cpu() if library == "torch" else out.numpy() if library == "hybridml" else out
        return float(flat.reshape(-1)[0])
    except Exception:
        return None


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


def main(library: str, variant: str, *names: str) -> int:
    """Measure each workload. Ends after one that fails, since the GPU may be lost to this process: exit code 9."""
    signal.signal(signal.SIGALRM, _too_slow)
    for name in names:
        sys.stdout.write(json.dumps({"begin": name}) + "\n")
        sys.stdout.flush()
        signal.alarm(LIMIT)
        try:
            found = measure(library, variant, name)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:600]}
        finally:
            signal.alarm(0)
        sys.stdout.write(
            json.dumps({"library": library, "variant": variant, "workload": name, **found}) + "\n"
        )
        sys.stdout.flush()
        if "error" in found:
            return 9
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
