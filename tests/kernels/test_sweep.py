"""Sweeps: which steps run together, and that they then compute what they computed apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import gemm_cost, sweep
from hybridml.kernels.control import ControlStep
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


def pooled(x: Any, w: Any, b: Any) -> Any:
    """Windows of the pooling tile the rows of the convolution's results."""
    return hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w) + b), 2)


def pooled_with_overlap(x: Any, w: Any, b: Any) -> Any:
    """Windows of the pooling share rows: whole images stay apart, rows do not."""
    return hml.nn.max_pool2d(hml.tanh(hml.nn.conv2d(x, w, padding="same") * b), 3, 2)


def gradients(f: Any) -> Any:
    def all_of_them(x: Any, w: Any, b: Any) -> Any:
        with hml.GradientTape() as tape:
            for v in (x, w, b):
                tape.watch(v)
            y = f(x, w, b)
        return y, tape.gradient(y, [x, w, b], output_gradients=hml.cos(y))

    return all_of_them


def channel_by_channel(x: Any, w: Any, b: Any) -> Any:
    y = hml.nn.relu(hml.nn.conv2d(x, w[:, :, :1], groups=x.shape[-1], padding="same") + b)
    return hml.nn.max_pool2d(y, 2)


def two_convolutions(x: Any, w: Any, b: Any) -> Any:
    """The second one reads whole images of the first."""
    first = hml.nn.relu(hml.nn.conv2d(x, w, padding="same") + b)
    return hml.nn.conv2d(first, hml.reshape(w, (3, 3, 5, 3)))


def in_a_loop(x: Any, w: Any, b: Any) -> Any:
    """A sweep in the body of a loop: its argument blocks change from one iteration to the next."""
    return hml.scan(
        lambda carry, one: (carry + 1.0, pooled(one, w * carry, b)), hml.asarray(1.0), hml.stack([x, x * 2.0])
    )


def part_of_a_batch(x: Any, w: Any, b: Any) -> Any:
    return hml.nn.max_pool2d(hml.nn.conv2d(x[1:], w) + b, 2)


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype(np.float32) for s in shapes]


HEADS = arrays((2, 3, 33, 16), (2, 3, 33, 16), (2, 3, 33, 16))
PAIR = arrays((96, 24), (24, 40))
IMAGES = arrays((4, 14, 16, 3), (3, 3, 3, 5), (5,))
DEPTHWISE = arrays((4, 14, 16, 6), (3, 3, 2, 6), (6,))
CASES = {
    "attention": (attention, HEADS, True),
    "attention gradients": (attention_gradients, HEADS, True),
    "rows": (rows, PAIR, True),
    "transposed entries": (transposed, HEADS, True),
    "rows in another order": (backwards, PAIR, False),
    "one row for all": (shared_rows, PAIR, False),
    "sums across rows": (down_the_columns, PAIR, False),
    "ragged": (rows, arrays((97, 25), (25, 41)), True),
    "pooling": (pooled, IMAGES, True),
    "pooling and gradients": (gradients(pooled), IMAGES, True),
    "pooling of shared rows": (pooled_with_overlap, IMAGES, True),
    "pooling of shared rows and gradients": (gradients(pooled_with_overlap), IMAGES, True),
    "pooling, channel by channel": (gradients(channel_by_channel), DEPTHWISE, True),
    "two convolutions": (two_convolutions, IMAGES, True),
    "pooling of a part of a batch": (part_of_a_batch, IMAGES, True),
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
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)
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


@pytest.mark.usefixtures("eager_to_sweep")
@pytest.mark.parametrize("shape", [(1, 6, 6, 1), (5, 9, 7, 2), (3, 20, 33, 4), (8, 13, 12, 17)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_convolutions_of_awkward_shapes(shape: tuple[int, ...], dtype: Any, threads: int) -> None:
    inputs = [x.astype(dtype) for x in arrays(shape, (3, 3, shape[-1], 7), (7,))]
    for f in (pooled, pooled_with_overlap):
        with config.scope(num_threads=threads):
            traced = hml.function(gradients(f))
            concrete = traced.get_concrete_function(*inputs)
            results = hml.pytree.leaves(traced(*inputs))
        expected, _ = interpret(concrete.graph, inputs)
        tolerance = 1e-12 if dtype is np.float64 else 2e-4
        for got, want in zip(results, expected, strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)


def test_what_only_a_sweep_reads_has_memory_for_a_part_alone() -> None:
    """The convolution's results are neither in the arena nor among the bytes that are written and read."""
    inputs = arrays((32, 28, 28, 1), (3, 3, 1, 32), (32,))
    concrete = hml.function(pooled).get_concrete_function(*inputs)
    (found,) = sweeps_of(pooled, inputs)
    (own,) = found.own
    assert own.shape == (32, 26, 26, 32)
    (segment,) = concrete.program.segments
    assert segment.instructions == 1, "convolution, bias, ReLU and pooling are one launch"
    assert concrete.program.arena_bytes == 0
    pooled_bytes = 4 * 32 * 13 * 13 * 32
    assert concrete.stats.bytes_traced == sum(x.nbytes for x in inputs) + pooled_bytes
    assert own.spec.nbytes // found.units * found.part <= sweep.CACHE_BYTES


def test_what_others_read_too_is_kept_whole() -> None:
    """As an output, by a step outside of the sweep, or as the new value of a variable."""

    def both(x: Any, w: Any, b: Any) -> Any:
        y = hml.nn.conv2d(x, w)
        return y, hml.nn.max_pool2d(y + b, 2)

    inputs = arrays((32, 28, 28, 1), (3, 3, 1, 32), (32,))
    (found,) = sweeps_of(both, inputs)
    assert not found.own
    state = hml.Variable(np.zeros((32, 26, 26, 32), np.float32))

    def update(x: Any, w: Any, b: Any) -> Any:
        y = hml.nn.conv2d(x, w)
        state.assign(y)
        return hml.nn.max_pool2d(y + b, 2)

    out = hml.function(update)(*inputs)
    y = hml.nn.conv2d(*inputs[:2])
    np.testing.assert_allclose(state.numpy(), y.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.numpy(), hml.nn.max_pool2d(y + inputs[2], 2).numpy(), rtol=1e-4, atol=1e-5)


def test_the_gradient_before_pooling_is_never_stored() -> None:
    """Of the way back through pooling and ReLU the filters' and the bias's gradients are left, in parts."""

    def way_back(x: Any, w: Any, b: Any, g: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch(w)
            tape.watch(b)
            y = pooled(x, w, b)
        return tape.gradient(y, [w, b], output_gradients=g)

    inputs = arrays((64, 28, 28, 1), (3, 3, 1, 32), (32,), (64, 13, 13, 32))
    found = sweeps_of(way_back, inputs)
    assert any(v.spec.size == 64 * 26 * 26 * 32 for s in found for v in s.own)
    whole = 4 * 64 * 26 * 26 * 32
    concrete = hml.function(way_back).get_concrete_function(*inputs)
    assert concrete.program.arena_bytes < whole
    assert concrete.stats.bytes_traced < 2 * whole


def test_own_buffers_where_a_sweep_is_planned_for_other_sizes() -> None:
    """Open sizes: a batch whose parts do not stay apart runs step after step, and then needs the buffers whole."""
    f = hml.function(pooled)
    w, b = arrays((3, 3, 1, 32), (32,))
    for batch in (32, 24, 48, 17, 31, 64):
        (x,) = arrays((batch, 28, 28, 1))
        expected = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w) + b), 2)
        np.testing.assert_allclose(f(x, w, b).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    assert f.cache_info().traces == 2


def test_steps_that_no_longer_fit_run_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    f = hml.function(pooled)
    w, b = arrays((3, 3, 1, 32), (32,))
    for batch in (32, 24):
        f(*arrays((batch, 28, 28, 1)), w, b)
    monkeypatch.setattr(sweep, "_part", lambda members, units: None)
    (x,) = arrays((40, 28, 28, 1))
    expected = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w) + b), 2)
    np.testing.assert_allclose(f(x, w, b).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)
    program = f.get_concrete_function(x, w, b).program
    assert [s.units for s in program.steps if isinstance(s, SweepStep)] == [0]
    assert program.arena_bytes >= 4 * 40 * 26 * 26 * 32


@pytest.mark.usefixtures("eager_to_sweep")
@pytest.mark.parametrize("threads", [1, 2])
def test_what_rides_on_a_product_reads_own_buffers_too(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epilogue reads the first product's rows, a prologue makes its operand of pooled rows: both have blocks inside of blocks."""
    monkeypatch.setattr(gemm_cost, "library", lambda p, machine: float("inf"))
    monkeypatch.setattr(gemm_cost, "saved_by_prologue", lambda *args: 1.0)

    def behind(x: Any, w: Any, u: Any) -> Any:
        y = x @ w
        return hml.tanh(hml.nn.softmax(y) @ u) + y

    def before(x: Any, w: Any, u: Any) -> Any:
        pooled = hml.nn.max_pool2d(hml.nn.conv2d(x, w), 3, 2)
        return hml.exp(hml.reshape(pooled, (-1, 5)) * 0.1) @ u

    for f, inputs in (
        (behind, arrays((96, 24), (24, 40), (40, 40))),
        (before, arrays((4, 15, 17, 3), (3, 3, 3, 5), (5, 33))),
    ):
        with config.scope(num_threads=threads):
            traced = hml.function(f)
            concrete = traced.get_concrete_function(*inputs)
            (found,) = [s for s in concrete.program.steps if isinstance(s, SweepStep)]
            riders = [
                r
                for m in found.members
                for r in (getattr(m, "epilogue", None), *getattr(m, "prologues", ()))
                if r
            ]
            assert any(v in found.own for r in riders for v in r.reads)
            got = traced(*inputs)
        (want,), _ = interpret(concrete.graph, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)


def test_small_steps_make_way() -> None:
    """A few numbers between two steps of a sweep are made before it, or after it where they are made of its results."""

    def f(x: Any, w: Any, b: Any) -> Any:
        y = hml.nn.conv2d(x, w)
        mean = hml.mean(b)
        return hml.nn.max_pool2d(y, 2) + mean

    inputs = arrays((32, 28, 28, 1), (3, 3, 1, 32), (32,))
    (found,) = sweeps_of(f, inputs)
    assert len(found.members) == 2
    expected = hml.nn.max_pool2d(hml.nn.conv2d(*inputs[:2]), 2) + hml.mean(inputs[2])
    np.testing.assert_allclose(hml.function(f)(*inputs).numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("eager_to_sweep")
@pytest.mark.parametrize("threads", [1, 2])
def test_sweeps_in_the_body_of_a_loop(threads: int) -> None:
    with config.scope(num_threads=threads):
        traced = hml.function(in_a_loop)
        concrete = traced.get_concrete_function(*IMAGES)
        (loop,) = [s for s in concrete.program.steps if isinstance(s, ControlStep)]
        found = [s for region in loop.regions.values() for s in region.steps if isinstance(s, SweepStep)]
        assert any(s.own for s in found)
        results = hml.pytree.leaves(traced(*IMAGES))
    expected, _ = interpret(concrete.graph, IMAGES)
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5)
