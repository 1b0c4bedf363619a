"""Products cut along the summed axis: which ones, results equal to the interpreter's and the same for any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import gemm_cost
from hybridml.kernels.depth import cut_depth
from hybridml.kernels.products import GemmStep
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)


def array(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return rng.normal(size=shape).astype(dtype)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever may be cut is."""
    monkeypatch.setattr(gemm_cost, "saved_by_depth", lambda *args: 1.0)


def step(w: Any, *, transposed: bool = False, trains_input: bool = False) -> Any:
    """A training step of a layer on w, updated by its gradient; `trains_input` also asks for the gradient of what comes in."""

    def f(x: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch(x)
            a = x.mT if transposed else x
            loss = hml.mean(hml.nn.relu(a @ w) ** 2)
        gw, gx = tape.gradient(loss, [w, x] if trains_input else [w]) + ([] if trains_input else [None])
        w.assign(w - 0.1 * gw)
        return (loss, gx) if trains_input else loss

    return hml.function(f)


def parts(concrete: Any) -> list[Any]:
    """The products of the program that are two partial ones."""
    steps = [s for s in concrete.kernels if isinstance(s, GemmStep)]
    return [s for s in steps if s.planned.args[6] == 2]


CASES = [
    ((64, 1000), 100, "float32", False),
    ((63, 999), 101, "float32", False),
    ((5, 9), 3, "float64", False),
    ((1000, 32), 40, "float32", True),
    ((33, 7), 6, "float64", True),
    ((1, 100), 64, "float32", False),
]


@pytest.mark.parametrize(("shape", "columns", "dtype", "transposed"), CASES)
def test_results_are_the_interpreters(
    shape: tuple[int, ...], columns: int, dtype: str, transposed: bool, always: None
) -> None:
    x = hml.asarray(array(*shape, dtype=dtype))
    w = hml.Variable(array(shape[0 if transposed else 1], columns, dtype=dtype))
    f = step(w, transposed=transposed)
    concrete = f.get_concrete_function(x)
    before = w.numpy().copy()
    (loss,), (new,) = interpret(concrete.graph, [x.numpy()], [before.copy()])
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(f(x).numpy(), loss, rtol=tolerance)
    np.testing.assert_allclose(w.numpy(), new, rtol=tolerance, atol=tolerance)
    assert len(parts(concrete)) == 1


def test_the_graph_means_the_same(always: None) -> None:
    w, x = hml.Variable(array(9, 4, dtype=np.float64)), hml.asarray(array(6, 9, dtype=np.float64))
    graph = step(w).get_concrete_function(x).graph
    cut = cut_depth(graph)
    assert [n.op.name for n in cut.nodes].count("matmul") == [n.op.name for n in graph.nodes].count("matmul")
    assert any(n.op.name == "matmul" and len(n.out.shape) == 3 for n in cut.nodes)
    for a, b in zip(*[interpret(g, [x.numpy()], [w.numpy().copy()]) for g in (graph, cut)], strict=True):
        for got, want in zip(a, b, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)


def test_results_do_not_depend_on_threads() -> None:
    x, start = hml.asarray(array(64, 1001)), array(1001, 100)
    found = []
    for threads in (1, 2, 3):
        with config.scope(num_threads=threads):
            w = hml.Variable(start)
            f = step(w)
            assert len(parts(f.get_concrete_function(x))) == 1
            f(x)
            found.append(w.numpy().copy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_the_batch_may_change() -> None:
    start = array(999, 50)
    w = hml.Variable(start)
    f = step(w)
    for rows in (64, 32, 48, 7):
        x = array(rows, 999)
        w.assign(start)
        got = float(f(hml.asarray(x)))
        assert got == pytest.approx(
            float(np.mean(np.maximum(x @ start, 0).astype(np.float64) ** 2)), rel=1e-4
        )
    assert f.cache_info().binds > 0


def test_only_what_is_updated_is_cut() -> None:
    w, x = hml.Variable(array(1000, 100)), hml.asarray(array(64, 1000))
    f = hml.function(lambda x: hml.nn.relu(x @ w))
    assert not parts(f.get_concrete_function(x))


def test_a_weight_whose_columns_threads_would_share_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = hml.Variable(array(1000, 100)), hml.asarray(array(64, 1000))
    f = step(w, trains_input=True)
    assert len(parts(f.get_concrete_function(x))) == 1  # both threads can do columns of the input's gradient
    monkeypatch.setattr(gemm_cost, "best_split", lambda *args: gemm_cost.Split.ROWS)
    assert not parts(step(w, trains_input=True).get_concrete_function(x))


@pytest.mark.parametrize(("m", "k", "n"), [(8, 16, 4), (256, 1024, 1024), (1024, 256, 768)])
def test_products_that_gain_nothing_stay_whole(m: int, k: int, n: int) -> None:
    """Small ones, weights that no near cache holds, and parts that would be larger than the weight."""
    w, x = hml.Variable(array(k, n)), hml.asarray(array(m, k))
    assert not parts(step(w).get_concrete_function(x))
