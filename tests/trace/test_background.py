"""`hml.function(background=True)`: the same results, updates and effects before the program is there as after."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import CompileWarning
from hybridml.trace import concrete as concrete_module


class Gate:
    """Holds the compiler's thread until a test opens it."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.threads: set[str] = set()
        self.error: Exception | None = None


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    held = Gate()
    whole = concrete_module.executable

    def executable(*args: Any) -> Any:
        held.threads.add(threading.current_thread().name)
        held.entered.set()
        assert held.open.wait(60)
        if held.error is not None:
            raise held.error
        return whole(*args)

    monkeypatch.setattr(concrete_module, "executable", executable)
    yield held
    held.open.set()


def steps(f: Any, n: int) -> list[float]:
    return [float(f(hml.asarray([0.5, float(k)]))) for k in range(n)]


def make(background: bool, seen: list[str] | None = None) -> tuple[Any, hml.Variable]:
    w = hml.Variable([1.0, 2.0])

    @hml.function(background=background)
    def step(x: Any) -> Any:
        if seen is not None:
            seen.append("traced")
        old = w.value()
        with hml.GradientTape() as tape:
            loss = hml.sum((w * x - 1.0) ** 2)
        w.assign_sub(0.1 * tape.gradient(loss, w))
        if loss > 1.0:
            loss = loss + 1.0
        return loss + hml.sum(old)

    return step, w


def test_calls_go_on_while_the_program_is_made(gate: Gate) -> None:
    seen: list[str] = []
    f, w = make(True, seen)
    before = steps(f, 3)
    assert gate.entered.wait(60) and gate.threads == {"hybridml-compiler"}
    assert not f.wait(0) and f.cache_info().kernels_compiled == f.cache_info().kernels_loaded == 0
    kept = w.value()
    before += steps(f, 1)
    assert not np.array_equal(kept.numpy(), w.numpy())  # a value that was read stays what it was
    gate.open.set()
    assert f.wait(60)
    after = steps(f, 4)
    g, v = make(False)
    assert before + after == pytest.approx(steps(g, 3) + steps(g, 1) + steps(g, 4), rel=1e-6)
    np.testing.assert_allclose(w.numpy(), v.numpy(), rtol=1e-6)
    assert seen == ["traced"] and f.cache_info().traces == 1
    assert f.get_concrete_function(hml.asarray([1.0, 2.0])).stats.kernels > 0


def test_results_are_fresh_and_variables_may_change_places(gate: Gate) -> None:
    a, b = hml.Variable([1.0, 2.0]), hml.Variable([3.0, 4.0])

    @hml.function(background=True)
    def swap(x: Any) -> Any:
        old = a.value()
        a.assign(b)
        b.assign(old)
        return x, hml.reshape(x, (2, 1)), a.value()

    given = np.array([5.0, 6.0], np.float32)
    same, column, value = swap(hml.asarray(given))
    swap(hml.asarray(given))
    assert a.numpy().tolist() == [1.0, 2.0] and b.numpy().tolist() == [3.0, 4.0]
    assert value.tolist() == [3.0, 4.0] and column.shape == (2, 1)
    assert not np.shares_memory(same.numpy(), given)


def test_what_cannot_be_compiled_is_said_once_and_calls_go_on(gate: Gate) -> None:
    gate.error = RuntimeError("no such instruction")
    f, _ = make(True)
    first = steps(f, 1)
    gate.open.set()
    assert not f.wait(60)
    with pytest.warns(CompileWarning, match="`step` could not be compiled.*no such instruction") as caught:
        first += steps(f, 1)
    assert len(caught) == 1 and caught[0].filename == __file__
    g, _ = make(False)
    gate.error = None
    assert first + steps(f, 2) == pytest.approx(steps(g, 1) + steps(g, 1) + steps(g, 2), rel=1e-6)
    with pytest.raises(RuntimeError, match="no such instruction"):
        f.explain(hml.asarray([1.0, 2.0]))


def test_an_error_of_the_function_is_raised_by_the_call(gate: Gate) -> None:
    f = hml.function(lambda x: hml.reshape(x, (3,)), background=True)
    with pytest.raises(hml.errors.ShapeError):
        f(hml.ones(2))


def test_a_tape_around_the_call(gate: Gate) -> None:
    f = hml.function(lambda x: hml.tanh(x) * x, background=True)
    x = hml.asarray([0.5, -1.5])

    def gradient() -> np.ndarray:
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return np.asarray(tape.gradient(y, x).numpy())

    before = gradient()
    gate.open.set()
    (trace,) = f._traces.every()
    assert trace.concrete._later_gradient[0].wait(60)
    np.testing.assert_allclose(gradient(), before, rtol=1e-6)
    np.testing.assert_allclose(before, np.tanh(x.numpy()) + x.numpy() / np.cosh(x.numpy()) ** 2, rtol=1e-5)


def test_many_threads_and_signatures(gate: Gate) -> None:
    f = hml.function(lambda x: x * 2 + 1, background=True, reduce_retracing=False)
    found: dict[int, list[float]] = {}

    def call(n: int) -> None:
        found[n] = f(hml.ones(n)).tolist()

    threads = [threading.Thread(target=call, args=(n,)) for n in range(2, 5)]
    for t in threads:
        t.start()
    gate.open.set()
    for t in threads:
        t.join()
    assert f.wait(60)
    assert all(found[n] == [3.0] * n == f(hml.ones(n)).tolist() for n in range(2, 5))


def run(program: str, tmp_path: Any) -> str:
    env = dict(os.environ, HYBRIDML_CACHE_DIR=str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_process_may_end_while_a_program_is_made(tmp_path: Any) -> None:
    program = (
        "import hybridml as hml\n"
        "f = hml.function(lambda x: hml.sum(hml.nn.softmax(x @ x.T) * hml.tanh(x @ x)), background=True)\n"
        "print(f(hml.ones((4, 4))).shape)"
    )
    assert run(program, tmp_path) == "()"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_s_child_finishes_what_its_parent_began(tmp_path: Any) -> None:
    program = (
        "import os, threading\nimport hybridml as hml\nfrom hybridml.trace import concrete\n"
        "whole, parent, entered = concrete.executable, os.getpid(), threading.Event()\n"
        "def held(*args):\n"
        "    entered.set()\n"
        "    if os.getpid() == parent:\n        threading.Event().wait()\n"
        "    return whole(*args)\n"
        "concrete.executable = held\n"
        "f = hml.function(lambda x: x * 3, background=True)\n"
        "assert f(hml.ones(2)).tolist() == [3.0, 3.0] and entered.wait(60)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    made = f.wait(60)\n"
        "    os._exit(0 if made and f(hml.ones(2)).tolist() == [3.0, 3.0] else 1)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    env_warnings = program.replace(
        "import os, threading\n",
        "import os, threading, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n",
    )
    assert run(env_warnings, tmp_path) == "0"
