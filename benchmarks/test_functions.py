"""What calls of traced functions cost as arguments, loop steps and signatures grow."""

from __future__ import annotations

import gc
import time
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from record import Record
from turns import in_turns, median

import hybridml as hml

LIMITS = {1: 8e-6, 10: 20e-6, 100: 120e-6}


def _nest(n: int) -> dict[str, Any]:
    """`n` tensors of 8 elements in dicts, lists and tuples."""
    tensors = [hml.full(8, float(i)) for i in range(n)]
    return {"first": tensors[: n // 2], "second": {"a": tuple(tensors[n // 2 : -1]), "b": [tensors[-1]]}}


@pytest.mark.parametrize("n", LIMITS)
def test_nested_arguments(benchmark: Any, record: Record, n: int) -> None:
    """Every argument is read, so that none of the work can be left out."""

    def total(nest: dict[str, Any]) -> Any:
        out = nest["second"]["b"][0]
        for t in (*nest["first"], *nest["second"]["a"]):
            out = out + t
        return out

    f, nest = hml.function(total), _nest(n)
    assert f(nest).tolist() == [float(sum(range(n)))] * 8
    (ours,) = in_turns(lambda: f(nest))
    record.add(f"traced sum of {n} tensors in a nest", median(ours), at_most=LIMITS[n], unit="s")
    benchmark(f, nest)


def test_recurrent_loop(benchmark: Any, record: Record) -> None:
    """64 steps of a plain Python loop over a tensor range; a step may cost 2 us above one that is a function of its own."""

    def step(h: Any, w: Any) -> Any:
        return hml.tanh(h @ w)

    @hml.function
    def loop(h: Any, w: Any, n: Any) -> Any:
        for _ in range(n):
            h = step(h, w)
        return h

    h, w, n = hml.ones((32, 16)), hml.full((16, 16), 0.05), hml.asarray(64)
    one = hml.function(step)
    empty = hml.function(lambda h, w: h + 0.0)
    whole, single, call = in_turns(lambda: loop(h, w, n), lambda: one(h, w), lambda: empty(h, w))
    kernels = max(median(single) - median(call), 0.0)
    record.add(
        "one step of a 64-step loop", (median(whole) - median(call)) / 64, at_most=kernels + 2e-6, unit="s"
    )
    benchmark(loop, h, w, n)


def test_memory_of_many_signatures(benchmark: Any, record: Record) -> None:
    """Traces are bounded: what 1,000 signatures hold beyond what 200 hold, in MB."""

    @hml.function(reduce_retracing=False)
    def f(x: Any) -> Any:
        return hml.tanh(x) * 2.0

    def call(first: int, last: int) -> int:
        for n in range(first, last):
            f(hml.zeros(n))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    with pytest.warns(hml.errors.RetraceWarning):
        before = call(1, 201)
    after = call(201, 1001)
    tracemalloc.stop()
    assert f.cache_info().size <= 64
    record.add("memory of 1,000 signatures above that of 200", (after - before) / 1e6, at_most=1.0, unit="MB")
    benchmark(f, hml.zeros(1000))


def test_new_size(benchmark: Any, record: Record) -> None:
    """A training step at a batch size that has not come before: put into the plan for all sizes, beside a trace of its own."""
    rng = np.random.default_rng(0)
    shapes = (64, 128), (128,), (128, 128), (128,), (128, 10), (10,)
    weights = [hml.Variable(rng.normal(size=s).astype(np.float32) * 0.1) for s in shapes]

    def step(x: Any, labels: Any) -> Any:
        a, b, c, d, e, f = weights
        with hml.GradientTape() as tape:
            hidden = hml.nn.relu(hml.nn.relu(x @ a + b) @ c + d)
            loss = hml.mean(hml.nn.softmax_cross_entropy(hidden @ e + f, labels))
        for w, g in zip(weights, tape.gradient(loss, weights), strict=True):
            w.assign_sub(0.01 * g)
        return loss

    def seconds(f: Any, sizes: range) -> list[float]:
        found = []
        for n in sizes:
            args = hml.ones((n, 64)), hml.zeros(n, dtype=hml.int64)
            begin = time.perf_counter()
            f(*args)
            found.append(time.perf_counter() - begin)
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", hml.errors.RetraceWarning)
        bound, traced = hml.function(step), hml.function(step, reduce_retracing=False)
        seconds(bound, range(32, 64, 4)), seconds(traced, range(32, 64, 4))  # kernels are compiled here
        ours, theirs = seconds(bound, range(64, 192, 4)), seconds(traced, range(64, 192, 4))
    assert bound.cache_info().traces < 4 and bound.cache_info().binds > 30
    record.add("training step at a new batch size, bound", median(ours), at_most=0.02, unit="s")
    record.add(
        "training step at a new batch size",
        median(ours) / median(theirs),
        at_most=0.2,
        unit="x",
        note="a trace of its own",
    )
    benchmark.pedantic(seconds, (bound, range(192, 196, 4)))
