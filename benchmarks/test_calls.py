"""What one call costs: eager ops, traced functions, traced training steps, each beside its opponent in the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy_twins import TrainStep
from record import Record
from threadpoolctl import threadpool_limits
from turns import in_turns, median, ratio

import hybridml as hml
from hybridml.compare.workloads import TINY, TWO_LAYERS, chain, regression_step


def test_eager_add(benchmark: Any, record: Record) -> None:
    a, b = np.arange(8, dtype=np.float32), np.ones(8, np.float32)
    x, y = hml.asarray(a), hml.asarray(b)
    ours, numpys = in_turns(lambda: x + y, lambda: a + b)
    record.add("eager x + y, 8 float32", median(ours), at_most=2.5e-6, unit="s")
    record.add("eager x + y, 8 float32", ratio(ours, numpys), at_most=5.0, unit="x", note="NumPy a + b")
    benchmark(lambda: x + y)


SMALL = {
    "one small op": (lambda x: x + 1.0, [lambda f, x: f(x)]),
    "one small op, called by name": (lambda x, scale=True: x + 1.0, [lambda f, x: f(x, scale=True)]),
    "one small op, two calls that need two traces": (
        lambda x, twice: x * 2.0 if twice else x + 1.0,
        [lambda f, x: (f(x, True), f(x, False))],
    ),
    "one small op and a number that varies": (
        lambda x, y: x + y,
        [lambda f, x: f(x, 0.5), lambda f, x: f(x, 1.5)],
    ),
    "three results": (lambda x: {"all": (x + 1.0, x + 2.0), "last": x + 3.0}, [lambda f, x: f(x)]),
    "a nest of ten tensors": (
        lambda nest: sum(nest["many"], start=nest["one"]),
        [lambda f, x: f({"one": x, "many": [x] * 9})],
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_traced_small_op(name: str, benchmark: Any, record: Record) -> None:
    """What there is to a call besides its kernels; the last of these calls is timed."""
    python, calls = SMALL[name]
    f, x = hml.function(python), hml.ones(8)
    for call in calls:
        call(f, x)
    (ours,) = in_turns(lambda: calls[-1](f, x))
    record.add(f"traced function of {name}", median(ours), at_most=8e-6, unit="s")
    benchmark(calls[-1], f, x)


def _step_and_twin(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Our traced SGD step and NumPy's, from the same weights; checked to take the same steps."""
    rate = 0.01
    case = regression_step(lambda: hml.optim.SGD(rate), *sizes)
    x, y = case.args(0)
    a, b = x.numpy(), y.numpy()
    step = hml.function(case.f)
    twin = TrainStep([w.numpy() for w in case.variables], sizes[0], rate)
    for _ in range(3):
        np.testing.assert_allclose(float(step(x, y)), twin(a, b), rtol=1e-4)
    for w, expected in zip(case.variables, (twin.w1, twin.b1, twin.w2, twin.b2), strict=True):
        np.testing.assert_allclose(w.numpy(), expected, rtol=1e-3, atol=1e-5)
    return (lambda: step(x, y)), (lambda: twin(a, b))


def _against_the_best_numpy(step: Any, twin: Any) -> tuple[float, float]:
    """Seconds of our step, and its ratio to NumPy's with as many BLAS threads as serve NumPy best: one, or all.

    Ours takes turns with NumPy on one thread. With all, NumPy runs by itself: its second BLAS thread goes on spinning long after
    its products, and would take half of the processors from whoever comes next.
    """
    with threadpool_limits(1, user_api="blas"):
        ours, one_thread = in_turns(step, twin)
    (all_threads,) = in_turns(twin)
    return median(ours), median(ours) / min(median(one_thread), median(all_threads))


def test_tiny_training_step(benchmark: Any, record: Record) -> None:
    step, twin = _step_and_twin(TINY)
    ours, against = _against_the_best_numpy(step, twin)
    record.add("traced tiny SGD step (N=32, 16-32-1)", ours, at_most=15e-6, unit="s")
    record.add("traced tiny SGD step", against, at_most=0.5, unit="x", note="NumPy, preallocated")
    benchmark(step)


def test_two_layer_training_step(benchmark: Any, record: Record) -> None:
    step, twin = _step_and_twin(TWO_LAYERS)
    _, against = _against_the_best_numpy(step, twin)
    what = "traced two-layer SGD step (N=64, 1000-100-10)"
    record.add(what, against, at_most=0.85, unit="x", note="NumPy, preallocated")
    benchmark(step)


def test_elementwise_chain(benchmark: Any, record: Record) -> None:
    case = chain(1_000_000)
    args, traced = case.args(0), hml.function(case.f)
    np.testing.assert_allclose(traced(*args).numpy(), case.f(*args).numpy(), rtol=1e-5, atol=1e-5)
    ours, eager = in_turns(lambda: traced(*args), lambda: case.f(*args))
    what = "traced gelu(x*y+1.5)*sigmoid(x)-y, 1e6 float32"
    record.add(what, ratio(ours, eager), at_most=0.25, unit="x", note="the same, eager")
    benchmark(traced, *args)
