"""Fused kernels against a device copy measured in the same run, launch cost, and eager overhead beside CuPy. Prints JSON lines."""

from __future__ import annotations

import importlib.util
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from libraries import cases as library_cases

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


class Approximate:
    """A function, traced and compiled under `fast_math`."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self._traced = hml.function(f)

    def __call__(self, *args: Any) -> Any:
        with config.scope(fast_math=True):
            return self._traced(*args)


def softmax_gradient(x: Any, g: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = hml.nn.softmax(x)
    return y, tape.gradient(y, x, output_gradients=g)


Case = tuple[str, Callable[[], dict[str, Any]]]


def values(*shape: int) -> Any:
    """A tensor of numbers in [0, 1), the same ones again and again: what they are does not matter, and they cost little to make."""
    size = math.prod(shape)
    return hml.asarray(
        np.resize(np.random.default_rng(0).random(min(size, MIB), np.float32), size).reshape(shape)
    )


def kernels(copy: float) -> list[Case]:
    """Traced functions, and the least bytes that they have to move. Inputs are made when a case is measured, and given back after it."""
    n = 256 * MIB // 4

    def chain(x: Any, y: Any) -> Any:
        return hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y

    def case(name: str, f: Any, make: Callable[[], tuple[Any, ...]], least: int) -> Case:
        def measure() -> dict[str, Any]:
            args, traced = make(), f if isinstance(f, Approximate) else hml.function(f)
            t = seconds(lambda: traced(*args), rounds=7, n=5)
            return {"seconds": t, "bytes_per_second": least / t, "of_copy": least / t / copy}

        return name, measure

    found = [
        case("x + 1", lambda x: x + 1, lambda: (values(n),), 8 * n),
        case(
            "x[1:] + 1: addresses are no multiples of 16",
            lambda x: x[1:] + 1,
            lambda: (values(n),),
            8 * (n - 1),
        ),
        case("x + 1 in float16", lambda x: x + 1, lambda: (values(n).astype(hml.float16),), 4 * n),
        case("gelu(x*y+1.5)*sigmoid(x)-y", chain, lambda: (values(n), values(n)), 12 * n),
        case("the same with fast_math", Approximate(chain), lambda: (values(n), values(n)), 12 * n),
        case("sum of everything", lambda x: hml.sum(x), lambda: (values(n),), 4 * n),
    ]
    for m, d in ((65536, 1024), (16384, 4096), (1_000_000, 64)):
        e = 4 * m * d

        def z(m: int = m, d: int = d) -> tuple[Any, ...]:
            return (values(m, d),)

        def scaled(m: int = m, d: int = d) -> tuple[Any, ...]:
            return values(m, d), hml.ones(d), hml.zeros(d)

        found += [
            case(f"softmax {m}x{d}", hml.nn.softmax, z, 2 * e),
            case(f"softmax {m}x{d} in float16", hml.nn.softmax, lambda z=z: (z()[0].astype(hml.float16),), e),
            case(f"softmax and gradient {m}x{d}", softmax_gradient, lambda z=z: (*z(), *z()), 4 * e),
            case(f"layer_norm {m}x{d}", lambda x, s, o: hml.nn.layer_norm(x, s, o), scaled, 2 * e),
            case(
                f"layer_norm and 3 gradients {m}x{d}",
                layer_norm_gradient,
                lambda z=z, s=scaled: (*s(), *z()),
                4 * e,
            ),
            case(f"sum over rows {m}x{d}", lambda x: hml.sum(x, axis=1), z, e),
            case(f"sum over columns {m}x{d}", lambda x: hml.sum(x, axis=0), z, e),
            case(f"transposed copy {m}x{d}", lambda x: hml.copy(x.T), z, 2 * e),
        ]
    long = 8 * 4096 * 40_000
    return [*found, case("softmax 4096x40000", hml.nn.softmax, lambda: (values(4096, 40_000),), long)]


def copy_rate() -> float:
    """Bytes a second that a copy within the device reads and writes: what the others are held against."""
    n = 256 * MIB // 4
    a, b = CUPY.empty(n, CUPY.float32), CUPY.zeros(n, CUPY.float32)
    return 8 * n / seconds(lambda: CUPY.copyto(a, b))


def small() -> list[Case]:
    """What a call costs the CPU."""

    def traced() -> dict[str, Any]:
        f, one = hml.function(lambda x: x + 1), hml.ones(8)
        return {"seconds": issue_seconds(lambda: f(one))}

    def eager() -> dict[str, Any]:
        one, p = hml.ones(8), CUPY.ones(8, CUPY.float32)
        ours, theirs = issue_seconds(lambda: one + one), issue_seconds(lambda: p + p)
        return {"seconds": ours, "beside CuPy": ours / theirs}

    return [("CPU seconds of a traced small op", traced), ("eager add of 8, CPU seconds", eager)]


def main(skip: int = 0) -> int:
    """Measure everything but the first cases; a JSON line each, as it comes. Ends after a failure, since the GPU may be lost to this
    process: exit code 9."""
    copy = copy_rate()
    copied: Case = ("copy of 256 MiB", lambda: {"bytes_per_second": copy, "of_copy": 1.0})
    with hml.device("gpu:0"):
        for what, measure in [copied, *small(), *kernels(copy), *library_cases(seconds), *triton(copy)][
            skip:
        ]:
            sys.stdout.write(json.dumps({"begin": what}) + "\n")
            sys.stdout.flush()
            failed = False
            try:
                row = measure()
            except Exception as error:
                traceback.print_exc()
                row, failed = {"error": f"{type(error).__name__}: {error}"[:600]}, True
            sys.stdout.write(json.dumps({"what": what, **row}) + "\n")
            sys.stdout.flush()
            if failed:
                return 9
    return 0


def triton(copy: float) -> list[Case]:
    """Triton's fused softmax on the same sizes, where Triton and PyTorch are installed."""
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
        return []

    def case(m: int, d: int) -> Case:
        def measure() -> dict[str, Any]:
            import torch

            compiled = torch.compile(
                lambda x: torch.softmax(x, -1), mode="max-autotune-no-cudagraphs", dynamic=False
            )
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
            return {"seconds": t, "bytes_per_second": rate, "of_copy": rate / copy}

        return f"softmax {m}x{d}, Triton's code by torch.compile", measure

    return [case(m, d) for m, d in ((65536, 1024), (16384, 4096))]


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
