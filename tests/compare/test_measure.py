"""Measuring: what is counted, what is compared, and that nothing of the user's is changed."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import hybridml as hml
from hybridml.compare import progress
from hybridml.compare.case import Case, Workload
from hybridml.compare.measure import measure
from hybridml.compare.progress import PER_SECOND, Progress
from hybridml.compare.workloads import WORKLOADS


def test_compare_measures_all_there_is_to_know() -> None:
    report = hml.compare(
        lambda x: hml.tanh(x) * x + 1.0, hml.ones((64, 64)), calls=(20, 2), progress=False, rounds=3
    )
    (r,) = report.results
    assert r.calls == (2, 20)
    for run in (r.eager, r.traced, r.warm):
        assert 0 < run.first_call < run.totals[2] < run.totals[20]
        assert run.curve[-1] == (20, run.totals[20])
    assert r.eager.steady.low <= r.eager.steady.median <= r.eager.steady.high
    assert r.largest_difference < 1e-5
    assert r.compiled.trace_seconds > 0
    assert r.eager.peak_bytes >= 64 * 64 * 4, "at least the result itself"
    assert r.eager.losses == []


def test_compare_puts_variables_back_and_starts_every_run_from_them() -> None:
    w = hml.Variable([4.0, -2.0])
    opt = hml.optim.SGD(0.1, momentum=0.5)

    def step(x):
        loss = opt.minimize(lambda: hml.sum((w - x) * (w - x)), [w])
        return loss

    report = hml.compare(step, hml.asarray([1.0, 1.0]), calls=(3, 30), progress=False, rounds=2)
    (r,) = report.results
    assert r.eager.losses[0] == r.traced.losses[0] == 18.0
    assert r.eager.losses[-1] < 1e-2
    assert r.largest_loss_difference < 1e-5
    assert w.numpy().tolist() == [4.0, -2.0]
    assert int(opt.iterations) == 0


def test_compare_unwraps_a_traced_function() -> None:
    ran = []

    @hml.function
    def f(x):
        ran.append(1)
        return x + 1.0

    hml.compare(f, hml.ones(3), calls=(5,), progress=False, rounds=1)
    assert len(ran) > 5, "the Python body runs at each eager call"


@pytest.mark.parametrize("calls", [(), (0,), (-1, 10)])
def test_numbers_of_calls_must_be_positive(calls) -> None:
    with pytest.raises(ValueError, match="positive"):
        hml.compare(lambda x: x + 1.0, hml.ones(3), calls=calls, progress=False)


def test_only_functions_can_be_compared() -> None:
    with pytest.raises(TypeError, match="needs a function"):
        hml.compare(hml.ones(3))


def test_a_wrong_traced_result_would_be_seen() -> None:
    """A function whose trace freezes a Python value differs from eager, and the report says by how much."""
    calls = []

    def build() -> Case:
        calls.clear()

        def f(x):
            calls.append(1)
            return x + float(len(calls))

        return Case(f, lambda i: (hml.ones(2),))

    r = measure(Workload("frozen", "frozen", build), calls=(4,), rounds=1)
    assert r.largest_difference == pytest.approx(3 / 5)  # after four calls: 2 where eager says 5


@pytest.mark.parametrize("name", [n for n in WORKLOADS if n not in ("digits", "elementwise")])
def test_workloads_agree(name: str) -> None:
    r = measure(WORKLOADS[name], calls=(5,), rounds=1)
    assert r.largest_difference < 1e-4
    if r.eager.losses:
        assert np.all(np.diff(r.eager.losses) < 0), "the same batch again and again: the loss falls"


def test_two_builds_start_with_the_same_numbers() -> None:
    a, b = WORKLOADS["tiny_adam"].build(), WORKLOADS["tiny_adam"].build()
    assert all(np.array_equal(x.numpy(), y.numpy()) for x, y in zip(a.variables, b.variables, strict=True))
    assert not any(x is y for x, y in zip(a.variables, b.variables, strict=True))


def test_digits_are_learned_both_ways() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    calls = 300
    workload = replace(WORKLOADS["digits"], required_calls=calls)
    r = measure(workload, calls=(calls,), rounds=1)
    assert len(r.eager.losses) == calls
    assert r.eager.score >= 0.97
    assert r.traced.score >= 0.97
    assert r.largest_loss_difference < 1e-4


def test_progress_writes_plain_lines_at_most_ten_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    out = io.StringIO()
    with Progress(stream=out) as p:
        for k in range(100):
            p.stage(f"stage {k}", 1)
            p.advance()
            now[0] += 0.01  # one second in all
    lines = out.getvalue().splitlines()
    assert lines[0] == "stage 0"
    assert lines[-1] == "stage 99", "the last one is always shown"
    assert len(lines) <= PER_SECOND + 2


def test_progress_can_be_silent() -> None:
    out = io.StringIO()
    with Progress(enabled=False, stream=out) as p:
        p.stage("anything", 1)
        p.advance()
    assert out.getvalue() == ""


def test_progress_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    with Progress(stream=out) as p:
        p.stage("work", 10)
        p.advance(10)
    assert "work" in out.getvalue()
