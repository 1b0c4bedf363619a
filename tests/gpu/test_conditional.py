"""Branches and while-loops inside a CUDA graph: what decides, how often the host waits, and the calls of CUDA that make them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from assembler import assemble
from fake_gpu import FakeGpu
from test_program import FUNCTIONS, close

import hybridml as hml
from hybridml.errors import IndexOutOfRangeError
from hybridml.kernels.cuda.condition import condition_ptx

PACKAGE = Path(hml.__file__).parent / "kernels" / "cuda"
CONTROL = ("cond", "while", "while with products")


def run(name: str, gpu: FakeGpu, calls: int = 4) -> list[str]:
    """The log of the last call."""
    f, make = FUNCTIONS[name]
    here, there = hml.function(f), hml.function(f)
    for _ in range(calls):
        args = make()
        expected = here(*map(hml.asarray, args))
        with hml.device("gpu:0"):
            tensors = [hml.asarray(a) for a in args]
            gpu.driver.log.clear()
            got = there(*tensors)
            log = list(gpu.driver.log)
        close(got, expected)
    return log


@pytest.mark.parametrize("name", CONTROL)
def test_the_device_decides_and_the_host_never_waits(name: str, gpu: FakeGpu) -> None:
    log = run(name, gpu)
    assert log.count("replay") == 1
    assert "read" not in log


@pytest.mark.parametrize("name", CONTROL)
def test_without_conditional_nodes_the_host_decides(
    name: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(gpu.driver), "conditionals", False)
    assert "read" in run(name, gpu)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in CONTROL])
def test_nothing_else_waits_either(name: str, gpu: FakeGpu) -> None:
    assert "read" not in run(name, gpu, 2)


def test_both_branches_and_no_iteration_at_all(gpu: FakeGpu) -> None:
    def f(x: Any, n: Any) -> Any:
        while n > 0:
            x = x * 2 if hml.sum(x) < 10 else x - 100
            n = n - 1
        return x, n

    here, there = hml.function(f), hml.function(f)
    for n in (3, 0, 5, 1, 0):
        x = np.array([1.0, 2.0], np.float32)
        expected = here(hml.asarray(x), hml.asarray(n))
        with hml.device("gpu:0"):
            close(there(hml.asarray(x), hml.asarray(n)), expected)


def test_a_check_inside_a_loop_is_still_told(gpu: FakeGpu) -> None:
    def f(x: Any, k: Any) -> Any:
        total = x[0] * 0
        while k > 0:
            total = total + hml.take(x, hml.reshape(k, (1,)))[0]
            k = k - 1
        return total

    with hml.device("gpu:0"):
        traced, x = hml.function(f), hml.asarray(np.arange(5, dtype=np.float32))
        for _ in range(3):
            assert float(traced(x, hml.asarray(4))) == 10.0
            with pytest.raises(IndexOutOfRangeError, match="index 7"):
                float(traced(x, hml.asarray(7)))


def test_a_variable_changes_in_a_loop_of_the_device(gpu: FakeGpu) -> None:
    with hml.device("gpu:0"):
        w = hml.Variable(np.ones(3, np.float32))

        @hml.function
        def step(n: Any) -> Any:
            x = w.value()
            while n > 0:
                x, n = x * 2, n - 1
            w.assign(x)
            return hml.sum(w.value())

        for _ in range(4):
            held = w.value()  # so that the variable moves
            before = w.numpy()
            step(hml.asarray(2))
            np.testing.assert_array_equal(w.numpy(), before * 4)
            np.testing.assert_array_equal(held.numpy(), before)


# the calls of CUDA


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
def test_the_kernel_that_sets_a_condition_assembles(architecture: str, tmp_path: Path) -> None:
    assemble(
        condition_ptx((9, 0)), architecture, tmp_path, "-c"
    )  # -c: the driver links the function that it calls


def calls_of_cuda() -> list[tuple[str, int]]:
    """(function, number of arguments) of every call of the driver API."""
    found = []
    for file in ("driver.py", "recorder.py", "modules.py", "status.py"):
        for n in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
            if (
                isinstance(n, ast.Call)
                and isinstance(n.func, ast.Attribute)
                and ast.unparse(n.func.value) == "cu"
            ):
                if n.func.attr.startswith("cu"):
                    found.append((n.func.attr, len(n.args)))
            elif isinstance(n, ast.Call) and ast.unparse(n.func) == "_add_node":
                found.append(("cuGraphAddNode", len(n.args)))
    return found


def test_calls_of_cuda_have_the_arguments_that_its_bindings_say() -> None:
    cu: Any = pytest.importorskip("cuda.bindings.driver")
    seen = calls_of_cuda()
    assert len(seen) > 20
    for name, given in seen:
        said = re.search(rf"{name}\((.*)\)", getattr(cu, name).__doc__.splitlines()[0])
        assert said is not None, name
        depth, count = 0, int(bool(said[1].strip()))
        for c in said[1]:
            depth += (c in "[(") - (c in "])")
            count += c == "," and depth == 0
        assert given == count, f"{name} takes {said[1]}"
