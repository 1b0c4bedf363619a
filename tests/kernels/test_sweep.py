"""Sweeps: which steps run together, and that they then compute what they computed apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import sweep
from hybridml.kernels.executable import Executable
from hybridml.kernels.sweep import SweepStep
from hybridml.kernels.walk import Walk
from hybridml.ops.spec import spec
from hybridml.trace.graph import Value
from hybridml.trace.interpret import interpret


def attention(q: Any, k: Any, v: Any) -> Any:
    return hml.nn.softmax((q @ k.mT) * 0.25) @ v


def attention_gradients(q: Any, k: Any, v: Any) -> Any:
    with hml.GradientTape() as tape:
        for x in (q, k, v):
            tape.watch(x)
        out = attention(q, k, v)
    return tape.gradient(out, [q, k, v], output_gradients=hml.cos(out))


def rows(x: Any, w: Any) -> Any:
    y = hml.nn.softmax(x @ w + 1.0)
    return hml.sum(hml.tanh(y * y - 0.5), axis=-1)


def transposed(q: Any, k: Any, v: Any) -> Any:
    """The second product reads the first one's rows as columns: by entries it may run with it, by rows not."""
    return (q @ k.mT).mT @ v


def backwards(x: Any, w: Any) -> Any:
    return hml.exp((x @ w)[::-1] * 0.01)


def shared_rows(x: Any, w: Any) -> Any:
    y = x @ w
    return hml.exp(y * 0.01) + y[0], y * 2


def down_the_columns(x: Any, w: Any) -> Any:
    y = x @ w
    return y - hml.mean(y, axis=0)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


HEADS = arrays((2, 3, 33, 16), (2, 3, 33, 16), (2, 3, 33, 16))
PAIR = arrays((96, 24), (24, 40))
CASES = {
    "attention": (attention, HEADS, True),
    "attention gradients": (attention_gradients, HEADS, True),
    "rows": (rows, PAIR, True),
    "transposed entries": (transposed, HEADS, True),
    "rows in another order": (backwards, PAIR, False),
    "one row for all": (shared_rows, PAIR, False),
    "sums across rows": (down_the_columns, PAIR, False),
    "ragged": (rows, arrays((97, 25), (25, 41)), True),
}


@pytest.fixture
def eager_to_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small programs are swept too, in parts of one unit."""
    monkeypatch.setattr(sweep, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(sweep, "PRODUCT_ROWS", 1)


def sweeps_of(f: Any, inputs: list[np.ndarray]) -> list[SweepStep]:
    steps = hml.function(f).get_concrete_function(*inputs).program.steps
    return [s for s in steps if isinstance(s, SweepStep)]


@pytest.mark.usefixtures("eager_to_sweep")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_swept_programs_equal_the_interpreter(name: str, threads: int) -> None:
    f, inputs, swept = CASES[name]
    with config.scope(num_threads=threads):
        traced = hml.function(f)
        concrete = traced.get_concrete_function(*inputs)
        found = [s for s in concrete.program.steps if isinstance(s, SweepStep)]
        assert bool(found) == swept
        before = [x.copy() for x in inputs]
        for _ in range(2):
            results = hml.pytree.leaves(traced(*inputs))
    expected, _ = interpret(concrete.graph, inputs)
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-6)
    for x, y in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", CASES)
def test_swept_and_apart_agree_to_the_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are NaN and inf: parts are the same kernels on the same rows."""
    f, given, swept = CASES[name]
    inputs = [x.copy() for x in given]
    inputs[0].flat[7], inputs[0].flat[-3], inputs[1].flat[5] = np.nan, np.inf, -np.inf
    apart = hml.pytree.leaves(hml.function(f)(*inputs))
    monkeypatch.setattr(sweep, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(sweep, "PRODUCT_ROWS", 1)
    assert bool(sweeps_of(f, inputs)) == swept
    for got, want in zip(hml.pytree.leaves(hml.function(f)(*inputs)), apart, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


@pytest.mark.usefixtures("eager_to_sweep")
def test_a_variable_read_by_another_step_is_not_overwritten_too_early() -> None:
    """The update reads the old rows, and so does a product that comes after it in the program."""
    start, x = arrays((64, 64), (64, 64))
    w = hml.Variable(start)

    @hml.function
    def step(x: Any) -> Any:
        old = w + 0.0
        w.assign(hml.tanh(old) * 0.5)
        return hml.exp((old @ x) * 0.01) + hml.tanh(old)

    out = step(x)
    np.testing.assert_allclose(out.numpy(), np.exp(start @ x * 0.01) + np.tanh(start), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(w.numpy(), np.tanh(start) * 0.5, rtol=1e-5, atol=1e-7)


def test_small_and_lonely_steps_stay_as_they_are() -> None:
    assert not sweeps_of(rows, PAIR)
    assert not sweeps_of(lambda x, w: x @ w, PAIR)


def test_attention_of_some_size_is_swept_by_itself_and_explained() -> None:
    q, k, v = arrays(*[(4, 4, 128, 32)] * 3)
    f = hml.function(attention)
    (found,) = sweeps_of(attention, [q, k, v])
    assert found.units == 16 and [type(m).__name__ for m in found.members] == [
        "GemmStep",
        "KernelStep",
        "GemmStep",
    ]
    f(q, k, v)
    assert "sweep of 16 units" in str(f.explain(q, k, v))


def test_refusals_are_told() -> None:
    program = hml.function(backwards).get_concrete_function(*arrays((128, 128), (128, 128))).program
    assert isinstance(program, Executable)
    assert any("not in one sweep" in r.reason for r in program.refusals)


@pytest.mark.parametrize(
    "outer, inner, offset, units, local",
    [
        (((8, 4),), ((4, 1),), 0, 8, True),
        (((8, 4),), ((4, 1),), 0, 2, True),
        (((8, 4),), ((4, 1),), 1, 8, False),  # shifted into the next row
        (((8, 4),), ((4, 1),), 0, 16, False),  # more units than rows
        (((8, -4),), ((4, 1),), 28, 8, False),  # backwards
        (((8, 0),), ((4, 1),), 0, 8, False),  # the same row for all
        (((4, 1),), ((8, 4),), 0, 4, False),  # columns
        (((8, 4),), ((8, 4),), 0, 8, False),  # each reads all rows
        (((2, 16), (4, 4)), ((4, 1),), 0, 8, True),
        (((2, 16), (4, 4)), ((4, 1),), 0, 2, True),
        (((4, 4), (2, 16)), ((4, 1),), 0, 8, False),  # axes exchanged
        (((2, 16), (4, 4)), ((4, 1),), 0, 4, True),
    ],
)
def test_what_is_local(outer: Any, inner: Any, offset: int, units: int, local: bool) -> None:
    """Checked against a list of the elements that each unit touches."""
    walk = Walk(Value(spec((8, 4), "float32")), False, outer, inner, offset)
    assert walk.is_local(units) is local
    points = list(np.ndindex(*[size for size, _ in outer]))
    if local:
        share, part = len(points) // units, 32 // units
        for k in range(units):
            for p in points[k * share : (k + 1) * share]:
                for i in np.ndindex(*[size for size, _ in inner]):
                    at = offset + sum(a * s for a, (_, s) in zip((*p, *i), (*outer, *inner), strict=True))
                    assert k * part <= at < (k + 1) * part


def test_planning_looks_at_no_more_than_a_few_steps_at_once() -> None:
    """A long chain is cut into sweeps of bounded length."""

    def chain(x: Any, w: Any) -> Any:
        for _ in range(40):
            x = hml.tanh(x @ w)
        return x

    found = sweeps_of(chain, arrays((2048, 64), (64, 64)))
    assert found and all(len(s.members) <= sweep.MOST_STEPS for s in found)
