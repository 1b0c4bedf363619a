"""Fused kernels against a device copy measured in the same run, launch cost, and eager overhead beside CuPy. Prints one JSON list."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from libraries import rows as library_rows

import hybridml as hml
from hybridml import backends, config

GPU: Any = backends.named("gpu:0")
CUPY: Any = GPU.xp
MIB = 1 << 20


def seconds(f: Callable[[], Any], rounds: int = 15, n: int = 10) -> float:
    """Device seconds of one call, by events around a block of calls: the median of the rounds."""
    for _ in range(5):
        f()
    found = []
    for _ in range(rounds):
        start, end = CUPY.cuda.Event(), CUPY.cuda.Event()
        start.record()
        for _ in range(n):
            f()
        end.record()
        end.synchronize()
        found.append(CUPY.cuda.get_elapsed_time(start, end) / 1e3 / n)
    return statistics.median(found)


def issue_seconds(f: Callable[[], Any], n: int = 300) -> float:
    """CPU seconds of one call that nobody waits for; the device is idle before."""
    found = []
    for _ in range(9):
        for _ in range(10):
            f()
        CUPY.cuda.get_current_stream().synchronize()
        begin = time.perf_counter()
        for _ in range(n):
            f()
        found.append((time.perf_counter() - begin) / n)
        CUPY.cuda.get_current_stream().synchronize()
    return statistics.median(found)


def layer_norm_gradient(x: Any, scale: Any, offset: Any, g: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch([x, scale, offset])
        y = hml.nn.layer_norm(x, scale, offset)
    return y, *tape.gradient(y, [x, scale, offset], output_gradients=g)


def approximately(f: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced and compiled under `fast_math`."""
    traced = hml.function(f)

    def call(*args: Any) -> Any:
        with config.scope(fast_math=True):
            return traced(*args)

    return call


def softmax_gradient(x: Any, g: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = hml.nn.softmax(x)
    return y, tape.gradient(y, x, output_gradients=g)


def main() -> None:
    """Measure everything."""
    rows: list[dict[str, Any]] = []
    n = 256 * MIB // 4
    a, b = CUPY.empty(n, CUPY.float32), CUPY.zeros(n, CUPY.float32)
    copy = 8 * n / seconds(lambda a=a, b=b: CUPY.copyto(a, b))
    rows.append({"what": "copy of 256 MiB", "bytes_per_second": copy, "of_copy": 1.0})
    del a, b
    with hml.device("gpu:0"):
        random = hml.random.Generator(0)
        x, y = random.uniform((n,)), random.uniform((n,))
        chain = hml.function(lambda x, y: hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y)
        cases: list[tuple[str, Any, tuple[Any, ...], int]] = [
            ("x + 1", hml.function(lambda x: x + 1), (x,), 8 * n),
            (
                "x[1:] + 1: addresses are no multiples of 16",
                hml.function(lambda x: x[1:] + 1),
                (x,),
                8 * (n - 1),
            ),
            ("x + 1 in float16", hml.function(lambda x: x + 1), (x.astype(hml.float16),), 4 * n),
            ("gelu(x*y+1.5)*sigmoid(x)-y", chain, (x, y), 12 * n),
            ("the same with fast_math", approximately(chain.python_function), (x, y), 12 * n),
            ("sum of everything", hml.function(lambda x: hml.sum(x)), (x,), 4 * n),
        ]
        for m, d in ((65536, 1024), (16384, 4096), (1_000_000, 64)):
            z, g, s, o = random.uniform((m, d)), random.uniform((m, d)), hml.ones(d), hml.zeros(d)
            e = 4 * m * d
            cases += [
                (f"softmax {m}x{d}", hml.function(hml.nn.softmax), (z,), 2 * e),
                (f"softmax {m}x{d} in float16", hml.function(hml.nn.softmax), (z.astype(hml.float16),), e),
                (f"softmax and gradient {m}x{d}", hml.function(softmax_gradient), (z, g), 4 * e),
                (
                    f"layer_norm {m}x{d}",
                    hml.function(lambda x, s, o: hml.nn.layer_norm(x, s, o)),
                    (z, s, o),
                    2 * e,
                ),
                (
                    f"layer_norm and 3 gradients {m}x{d}",
                    hml.function(layer_norm_gradient),
                    (z, s, o, g),
                    4 * e,
                ),
                (f"sum over rows {m}x{d}", hml.function(lambda x: hml.sum(x, axis=1)), (z,), e),
                (f"sum over columns {m}x{d}", hml.function(lambda x: hml.sum(x, axis=0)), (z,), e),
                (f"transposed copy {m}x{d}", hml.function(lambda x: hml.copy(x.T)), (z,), 2 * e),
            ]
        long = random.uniform((4096, 40_000))
        cases.append(("softmax 4096x40000", hml.function(hml.nn.softmax), (long,), 8 * 4096 * 40_000))
        for name, f, args, least in cases:
            try:
                t = seconds(lambda f=f, args=args: f(*args), rounds=7, n=5)
            except Exception as error:
                rows.append({"what": name, "error": f"{type(error).__name__}: {error}"[:300]})
                continue
            rows.append(
                {"what": name, "seconds": t, "bytes_per_second": least / t, "of_copy": least / t / copy}
            )
        small, one = hml.function(lambda x: x + 1), hml.ones(8)
        rows.append(
            {"what": "CPU seconds of a traced small op", "seconds": issue_seconds(lambda: small(one))}
        )
        p, q = CUPY.ones(8, CUPY.float32), CUPY.ones(8, CUPY.float32)
        ours, theirs = issue_seconds(lambda: one + one), issue_seconds(lambda: p + q)
        rows.append({"what": "eager add of 8, CPU seconds", "seconds": ours, "beside CuPy": ours / theirs})
        rows += library_rows(seconds)
        rows += triton_rows(copy)
    sys.stdout.write(json.dumps(rows) + "\n")


def triton_rows(copy: float) -> list[dict[str, Any]]:
    """Triton's fused softmax on the same sizes, where Triton and PyTorch are installed."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
        return []
    try:
        import torch

        compiled = torch.compile(lambda x: torch.softmax(x, -1), mode="max-autotune-no-cudagraphs")
        rows = []
        for m, d in ((65536, 1024), (16384, 4096)):
            x = torch.rand(m, d, device="cuda")
            compiled(x)
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            for _ in range(20):
                compiled(x)
            end.record()
            end.synchronize()
            t = start.elapsed_time(end) / 20e3
            rate = 8 * m * d / t
            rows.append({
                "what": f"softmax {m}x{d}, Triton's code by torch.compile", "seconds": t, "bytes_per_second": rate,
                "of_copy": rate / copy,
            })  # fmt: skip
        return rows
    except Exception as error:
        return [{"what": "softmax by Triton", "error": f"{type(error).__name__}: {error}"[:300]}]


if __name__ == "__main__":
    main()
