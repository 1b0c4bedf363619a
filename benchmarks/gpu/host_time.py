"""What the host does for a replayed step, without a GPU: our Python and CUDA's real bindings, on a libcuda that does nothing.

    python benchmarks/gpu/host_time.py

It needs a C compiler, Linux and numba-cuda. What CUDA's driver takes for a launch is not in these figures, nor what CuPy takes for an
array: results here are arrays that are there already.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests" / "gpu"
ROUNDS, CALLS = 9, 2000


def with_stand_in() -> int:
    """This program again, on a libcuda made for it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        print("needs a C compiler and Linux")
        return 3
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        how = ["-O2", "-DQUIET", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(
            [compiler, *how, "-o", str(library), str(TESTS / "stand_in_cuda.c"), "-ldl"], check=True
        )
        path = os.pathsep.join([str(ROOT), str(TESTS), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "LD_LIBRARY_PATH": folder, "PYTHONPATH": path}
        return subprocess.run([sys.executable, __file__, "measure"], env=env).returncode


class Memory:
    """Of CuPy's pool."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = np.zeros(nbytes + 64, np.uint8)
        self.ptr = self.bytes.ctypes.data


def open_gpu(gpu: Any) -> None:
    """Give the fake GPU the real driver, which talks to the stand-in."""
    from hybridml.kernels.cuda.driver import Driver
    from hybridml.kernels.cuda.epilogue import otherwise

    stream = types.SimpleNamespace(ptr=7)
    cuda = types.SimpleNamespace(
        Device=lambda number: contextlib.nullcontext(), runtime=types.SimpleNamespace(free=lambda address: None), alloc=Memory,
        get_current_stream=lambda: stream, alloc_pinned_memory=Memory,
    )  # fmt: skip
    driver: Any = Driver(types.SimpleNamespace(cuda=cuda, asarray=gpu.xp.asarray), 0)
    driver.read = lambda address, nbytes, stream: bytes(nbytes)
    driver.refuse = lambda plan, aligned=16: otherwise(plan.epilogue, plan.dtype)
    driver.library = lambda plan, reads, writes, stream: None
    driver.catch_up = lambda: None
    driver._blas.open = lambda: None
    gpu._driver = driver


def lasting(gpu: Any) -> None:
    """Arrays that know their address, as CuPy's do, and results that are there already, two of each kind in turns."""
    fake_array: Any = importlib.import_module("fake_cupy").FakeArray
    at: dict[int, Any] = {}
    slow, make = fake_array.data, gpu.xp.empty

    def data(array: Any) -> Any:
        if id(array) not in at:
            at[id(array)] = types.SimpleNamespace(ptr=slow.fget(array).ptr)
        return at[id(array)]

    kept: dict[Any, Any] = {}

    def empty(shape: Any, dtype: Any) -> Any:
        key = shape, dtype
        if key not in kept:
            kept[key] = itertools.cycle([make(shape, dtype) for _ in range(2)])
        return next(kept[key])

    fake_array.data = property(data)
    gpu.xp = types.SimpleNamespace(
        **{n: getattr(gpu.xp, n) for n in ("asnumpy", "array", "asarray")}, empty=empty
    )


def steps() -> dict[str, tuple[Callable[..., Any], list[tuple[Any, ...]]]]:
    """Traced functions, each with arguments that come in turns."""
    import hybridml as hml

    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return hml.asarray(rng.normal(size=shape).astype("f"))

    def training(optimizer: Any) -> Any:
        w = [
            hml.Variable(rng.normal(size=s).astype("f") * 0.1)
            for s in ((1000, 100), (100,), (100, 10), (10,))
        ]

        @hml.function
        def step(x: Any, y: Any) -> Any:
            with hml.GradientTape() as tape:
                logits = hml.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3]
                loss = hml.mean(hml.nn.softmax_cross_entropy(logits, y))
            optimizer.apply_gradients(zip(tape.gradient(loss, w), w, strict=True))
            return loss

        return step

    batches = [(floats(64, 1000), hml.asarray(rng.integers(0, 10, 64))) for _ in range(2)]
    return {
        "one small op": (hml.function(lambda x: x * 2 + 1), [(floats(8),)]),
        "two-layer net, SGD step": (training(hml.optim.SGD(0.1)), batches[:1]),
        "two-layer net, SGD step, other arrays each time": (training(hml.optim.SGD(0.1)), batches),
        "two-layer net, Adam step, other arrays each time": (training(hml.optim.Adam(0.01)), batches),
    }


def measure() -> None:
    """Print the microseconds of a call, for each step."""
    import hybridml as hml

    fake: Any = importlib.import_module("fake_gpu")
    with fake.fake_gpu() as gpu, hml.device("gpu:0"):
        open_gpu(gpu)
        table = steps()
        for f, given in table.values():
            for k in range(6):
                f(*given[k % len(given)])
        lasting(gpu)
        for name, (f, given) in table.items():
            turns, times = itertools.cycle(given), []
            for _ in range(ROUNDS):
                started = time.perf_counter()
                for _ in range(CALLS):
                    f(*next(turns))
                times.append((time.perf_counter() - started) / CALLS)
            print(f"{name:50} {statistics.median(times) * 1e6:6.1f} us")


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    else:
        sys.exit(with_stand_in())
