"""Checks of programs that do not wait for the device: what a failed one stops, who is told, when, and with what words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import backends
from hybridml.errors import CheckError, IndexOutOfRangeError, NonFiniteError
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda import region
from hybridml.kernels.cuda.commands import Copy, Guard
from hybridml.kernels.cuda.faults import guarded


@pytest.fixture
def lagging(gpu: FakeGpu) -> Iterator[FakeGpu]:
    """A device that does nothing before the host waits for it, as a busy one."""
    gpu.driver.lags = True
    with hml.device("gpu:0"):
        yield gpu


def embedding() -> tuple[Callable[..., Any], list[Any]]:
    """A traced training step that looks up rows of a table, and its variables."""
    rng = np.random.default_rng(0)
    table = hml.Variable(rng.normal(size=(7, 3)).astype("f"), name="table")
    w = hml.Variable(rng.normal(size=(3, 2)).astype("f"), name="w")
    optimizer = hml.optim.SGD(0.1)

    @hml.function
    def step(ids: Any, y: Any) -> Any:
        with hml.GradientTape() as tape:
            rows = hml.take(table, ids + 0, axis=0)
            loss = hml.mean((rows @ w - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, [table, w]), [table, w], strict=True))
        return loss

    return step, [table, w]


FINE, BAD = np.array([0, 6, 2, 2]), np.array([0, 6, 7, 2])


def targets() -> Any:
    return hml.ones((4, 2))


def test_a_step_with_a_check_is_one_replay_and_takes_the_steps_of_the_cpu(gpu: FakeGpu) -> None:
    here, at_home = embedding()
    losses = [float(here(hml.asarray(FINE), targets())) for _ in range(5)]
    with hml.device("gpu:0"):
        there, away = embedding()
        ids, y = hml.asarray(FINE), targets()
        got = []
        for k in range(5):
            gpu.driver.log.clear()
            got.append(there(ids, y))
            if k > 1:
                assert gpu.driver.log.count("replay") == 1
                assert set(gpu.driver.log) <= {"replay", "copy", "update"}, "nothing waits"
    np.testing.assert_allclose([float(x) for x in got], losses, rtol=1e-5)
    for v, w in zip(at_home, away, strict=True):
        np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-5)


def test_the_call_returns_and_whoever_looks_is_told(lagging: FakeGpu) -> None:
    step, variables = embedding()
    ids, y, bad = hml.asarray(FINE), targets(), hml.asarray(BAD)
    for _ in range(3):
        step(ids, y)
    before = [v.numpy() for v in variables]
    loss = step(bad, y)
    with pytest.raises(
        IndexOutOfRangeError,
        match=r"take: index 7 is out of range(?s:.*)test_faults.py(?s:.*)after the call had returned",
    ):
        loss.numpy()
    for v, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old, err_msg="a failed call changed a variable")
    step(ids, y).numpy()
    assert not np.array_equal(variables[0].numpy(), before[0]), "the program does not go on"


def test_values_of_anything_on_the_device_are_a_look(lagging: FakeGpu) -> None:
    step, _ = embedding()
    ids, y, bad, other = hml.asarray(FINE), targets(), hml.asarray(BAD), hml.ones(3)
    for _ in range(2):
        step(ids, y)
    step(bad, y)
    with pytest.raises(IndexOutOfRangeError, match="index 7"):
        other.tolist()
    assert other.tolist() == [1, 1, 1], "told once"
    assert not lagging.unseen


def test_later_calls_change_nothing_and_say_that_they_are_not_the_one(lagging: FakeGpu) -> None:
    step, variables = embedding()
    ids, y, bad = hml.asarray(FINE), targets(), hml.asarray(BAD)
    for _ in range(3):
        step(ids, y)
    before = [v.numpy() for v in variables]
    kept = [step(bad, y), *[step(ids, y) for _ in range(4)]]
    with pytest.raises(
        CheckError,
        match=r"a check in `step` failed, in a call before the last one(?s:.*)CUDA_LAUNCH_BLOCKING=1",
    ):
        kept[-1].numpy()
    for v, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)


def test_the_next_call_tells_what_the_device_has_found_by_then(lagging: FakeGpu) -> None:
    step, variables = embedding()
    ids, y, bad = hml.asarray(FINE), targets(), hml.asarray(BAD)
    for _ in range(3):
        step(ids, y)
    before = [v.numpy() for v in variables]
    step(bad, y)
    lagging.driver.catch_up()
    with pytest.raises(IndexOutOfRangeError, match="index 7"):
        step(ids, y)
    for v, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(v.numpy(), old)


@pytest.mark.parametrize("how", ["eagerly", "by another program", "with a tape around"])
def test_no_variable_takes_a_value_from_a_call_that_failed(how: str, lagging: FakeGpu) -> None:
    v, x = hml.Variable(np.ones(3, np.float32)), hml.asarray([1.0, 2.0, 3.0])

    @hml.function
    def take(k: Any) -> Any:
        return hml.take(x, k)

    @hml.function
    def assign(y: Any) -> Any:
        v.assign(y * 2)

    @hml.function
    def both(k: Any) -> Any:
        v.assign(hml.take(x, k) * v)
        return hml.sum(v.value())

    def step(k: Any) -> None:
        if how == "eagerly":
            v.assign(take(k))
        elif how == "by another program":
            assign(take(k))
        else:
            with hml.GradientTape() as tape:
                loss = both(k)
            assert tape.gradient(loss, v) is not None

    fine = hml.asarray([0, 1, 1])
    for _ in range(3):
        step(fine)
    before = v.numpy()
    with pytest.raises(IndexOutOfRangeError, match="index 3"):
        step(hml.asarray([0, 1, 3]))
    np.testing.assert_array_equal(v.numpy(), before)
    step(fine)


def test_what_is_under_way_is_looked_at_again_later(lagging: FakeGpu) -> None:
    f = hml.function(lambda x: hml.check_finite(x, "x") * 2)
    x, bad = hml.ones(4), hml.asarray([1.0, np.inf, 3.0, np.nan])
    for _ in range(2):
        f(x)
    f(bad)
    lagging.look()
    assert len(lagging.unseen) == 1, "nobody can know yet"
    lagging.driver.catch_up()
    with pytest.raises(NonFiniteError, match="x: 2 of 4"):
        lagging.look()


def test_each_program_tells_of_its_own(lagging: FakeGpu) -> None:
    functions = [hml.function(lambda x, k=k: hml.check_true(x > k, f"more than {k}")) for k in range(3)]
    for _ in range(2):
        for f in functions:
            f(hml.asarray([5.0]))
    for f in functions:
        f(hml.asarray([1.0]))
    told = set()
    for _ in range(2):
        with pytest.raises(CheckError, match="more than ") as found:
            hml.ones(1).numpy()
        told.add(str(found.value).split("more than ")[1][0])
    assert told == {"1", "2"}
    assert hml.ones(1).tolist() == [1]


def test_a_loop_ends_that_only_the_check_can_end(gpu: FakeGpu) -> None:
    """On the CPU the program stops at once; here after the iteration, and nobody waits."""

    def f(x: Any) -> Any:
        while hml.sum(x) > 0:
            x = hml.check_true(x < 40, "below 40") * x + x
        return x

    with hml.device("gpu:0"):
        traced, good, bad = hml.function(f), hml.asarray([-1.0, -2.0]), hml.asarray([1.0, 2.0])
        for _ in range(3):
            traced(good)
        gpu.driver.log.clear()
        traced(bad)
        assert "read" not in gpu.driver.log
        assert gpu.driver.log.count("replay") == 1
        with pytest.raises(CheckError, match="below 40"):
            good.numpy()
        np.testing.assert_array_equal(traced(good).numpy(), [-1, -2])


@pytest.mark.parametrize("most", [1, 7, 20_000])
def test_a_long_scan_waits_for_nothing_either(
    most: int, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is written out, replayed some rows at a time, or row by row; the step after it does not change the variable."""
    monkeypatch.setattr(region, "MAX_UNROLLED", most)
    w = hml.Variable(np.ones((9, 3), np.float32))

    def f(h: Any, ids: Any) -> Any:
        h, ys = hml.scan(lambda h, i: (hml.tanh(h + hml.take(w, i, axis=0)), hml.sum(h)), h, ids)
        w.assign(w * 0.5)
        return h, ys

    h, ids = np.zeros(3, np.float32), np.arange(30) % 9
    expected = hml.function(f)(hml.asarray(h), hml.asarray(ids))
    w.to("gpu:0")
    with hml.device("gpu:0"):
        traced, here, good, bad = (
            hml.function(f),
            hml.asarray(h),
            hml.asarray(ids),
            hml.asarray([*ids[:-3], 9, 1, 1]),
        )
        for _ in range(4):
            w.assign(np.ones((9, 3), np.float32))
            gpu.driver.log.clear()
            got = traced(here, good)
            log = list(gpu.driver.log)
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
        assert "read" not in log
        before = w.numpy()
        traced(here, bad)
        with pytest.raises(IndexOutOfRangeError, match="index 9"):
            w.numpy()
        np.testing.assert_array_equal(w.numpy(), before)


def test_a_function_that_only_checks_is_waited_for(gpu: FakeGpu) -> None:
    """Nobody could look at what it returns."""
    with hml.device("gpu:0"):

        @hml.function
        def f(x: Any) -> None:
            hml.check_true(x > 0, "positive")

        for _ in range(3):
            f(hml.ones(3))
            with pytest.raises(CheckError, match="positive"):
                f(hml.asarray([1.0, -1.0, 1.0]))
            assert not gpu.unseen


def test_where_kernels_are_launched_one_by_one_the_call_itself_raises(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.driver, "blocking", True)
    with hml.device("gpu:0"):
        step, _ = embedding()
        for _ in range(3):
            step(hml.asarray(FINE), targets())
            with pytest.raises(IndexOutOfRangeError, match="index 7") as found:
                step(hml.asarray(BAD), targets())
            assert "after the call" not in str(found.value)


@pytest.mark.parametrize("reason", ["no conditional nodes", "a step in CuPy"])
def test_where_the_program_is_not_one_graph_the_host_waits(
    reason: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(gpu.driver), "conditionals", reason != "no conditional nodes")

    def f(x: Any, k: Any) -> Any:
        y = hml.take(x, k)
        return hml.sort(y) if reason == "a step in CuPy" else y * 2

    with hml.device("gpu:0"):
        traced, x = hml.function(f), hml.asarray(np.arange(9.0))
        for _ in range(3):
            traced(x, hml.asarray([8, 1]))
            with pytest.raises(IndexOutOfRangeError, match="index 9"):
                traced(x, hml.asarray([9, 1]))
        assert not gpu.unseen


def test_a_look_lets_go_of_the_last_call_s_arguments(gpu: FakeGpu) -> None:
    import gc
    import weakref

    f = hml.function(lambda x: hml.check_finite(x, "x") * 2)
    with hml.device("gpu:0"):
        for _ in range(3):
            x = hml.ones(4)
            held = weakref.ref(x._array)
            y = f(x)
            del x
        y.numpy()
        gc.collect()
        assert held() is None
    assert not backends.CPU.unseen


def test_only_what_changes_variables_is_guarded() -> None:
    a, b, c = (Copy(Fixed(k), External(k), 4) for k in range(3))
    assert guarded([a, b, c], lambda i: False) == [a, b, c]
    assert guarded([a, b, c], lambda i: i == 1) == [a, Guard([b]), c]
    assert guarded([b, a, c], lambda i: i != 0) == [Guard([b, a, c])]
