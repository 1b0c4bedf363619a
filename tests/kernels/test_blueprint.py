"""Plans with open sizes: what a new size costs in calls, and that its program computes what one planned for its numbers does."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import backends, pytree
from hybridml.kernels import blueprint, crossing, form, memory, region, sweep
from hybridml.kernels.programs import executable
from hybridml.testing import assert_close
from hybridml.trace.explain import explain
from hybridml.trace.interpret import interpret
from hybridml.trace.passes import optimize

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


W, V = normal(8, 12), normal(12, 4)
FILTERS, IMAGES = normal(3, 3, 2, 5), normal(2, 3, 3, 12)


def classified(x):
    """Softmax beside the gradient of its offset: sums along the rows and across them."""
    w, b = hml.asarray(W), hml.zeros(12)
    with hml.GradientTape() as tape:
        tape.watch([w, b])
        loss = hml.mean(
            hml.nn.softmax_cross_entropy(hml.tanh(x @ w + b), hml.zeros(x.shape[0], dtype=hml.int64))
        )
    return loss, tape.gradient(loss, [w, b])


def normalised(x):
    scale, offset = hml.ones(8), hml.zeros(8)
    with hml.GradientTape() as tape:
        tape.watch([x, scale, offset])
        loss = hml.sum(hml.sin(hml.nn.layer_norm(x, scale, offset)))
    return tape.gradient(loss, [x, scale, offset])


def attention(x):
    with hml.GradientTape() as tape:
        tape.watch(x)
        y = hml.nn.softmax((x @ x.mT) * 0.25) @ x
    return y, tape.gradient(y, x, output_gradients=hml.cos(y))


def convolved(x):
    images = hml.reshape(x, (x.shape[0], 2, 2, 2))
    images = hml.tile(images, (1, 4, 4, 1))
    w = hml.asarray(FILTERS)
    with hml.GradientTape() as tape:
        tape.watch([images, w])
        y = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(images, w, padding="same")), 3, strides=2)
        loss = hml.sum(y * y)
    return loss, tape.gradient(loss, [images, w])


def moved(x):
    padded = hml.pad(hml.concat([x, x[::-1]], axis=0), ((1, 2), (0, 1)))
    return hml.cumsum(padded, axis=0)[1:-1:2], hml.take(x, hml.argmax(x, axis=0), axis=0)


def looped(x):
    total = hml.mean(x)
    last, every = hml.scan(lambda c, row: (hml.tanh(c * row) + total, c + row), hml.ones(8), x)
    chosen = hml.cond(hml.sum(last) > 0, lambda: every * 2, lambda: hml.nn.softmax(every))
    return chosen, hml.map_fn(lambda row: hml.exp(-row * row), x)


def in_python(x):
    return hml.sort(hml.exp(x), axis=0) + hml.tanh(x)


def updates(x):
    return [hml.exp(x) * k + hml.sum(x, axis=0) for k in (1.5, 2.5, 3.5)]


CASES = {
    f.__name__: f for f in (classified, normalised, attention, convolved, moved, looped, in_python, updates)
}
SIZES = (16, 24, 33, 37, 40, 48, 61, 64, 96, 100, 130, 7)


def called(f, n, make=normal):
    x = make(n, 8)
    got = [np.asarray(a) for a in pytree.leaves(f(x))]
    return x, got, f._recent.trace.concrete


@pytest.mark.parametrize("name", CASES)
def test_a_bound_program_is_the_interpreter_and_the_program_of_the_numbers(name):
    f = hml.function(CASES[name])
    for n in SIZES:
        x, got, concrete = called(f, n)
        want, _ = interpret(concrete.graph, [x])
        numbers = executable(optimize(concrete.graph), backends.CPU).run([x])
        for a, b, c in zip(got, want, numbers, strict=True):
            scale = max(1.0, float(np.abs(b).max(initial=0)))
            assert_close(a / scale, b / scale, ops=256, label=f"{name}, {n}, interpreted")
            assert_close(a / scale, c / scale, ops=256, label=f"{name}, {n}, planned as numbers")
    info = f.cache_info()
    assert info.traces <= 3 and info.binds >= len(SIZES) - 3
    assert 1 <= info.plans <= 6 and not info.apart


PLANNING = [
    (form.Forms, "lowered"), (region, "emit"), (region, "fused"), (region, "lower_movement"), (region, "lower_windows"),
    (region, "gemm_steps"), (region, "placed"), (memory, "plan"), (memory, "stacked"), (sweep, "plan"), (crossing, "cut"),
    (blueprint, "bound"),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_new_size_lowers_nothing_and_plans_nothing(name, monkeypatch):
    f = hml.function(CASES[name])
    for n in (16, 24, 33, 37, 40, 61, 64, 72):
        called(f, n)
    before = f.cache_info()
    calls = []

    def counted(module, function):
        original = getattr(module, function)

        def count(*args, **kwargs):
            calls.append(function)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, function, count)

    for module, function in PLANNING:
        counted(module, function)
    for n in (35, 41, 44, 51, 56, 80, 73):
        called(f, n)
    after = f.cache_info()
    assert not calls
    assert after.binds == before.binds + 7 and after.plans == before.plans and not after.apart
    assert after.kernels_compiled == before.kernels_compiled


def test_the_gradients_programs_are_bound_too():
    weight = hml.Variable(W)
    f = hml.function(lambda x: hml.nn.softmax(x @ weight))
    for n in (16, 24, 40, 56, 64):
        x = hml.asarray(normal(n, 8))
        with hml.GradientTape() as tape:
            loss = hml.sum(f(x) ** 2)
        got = tape.gradient(loss, weight)
        hml.run_functions_eagerly(True)
        try:
            with hml.GradientTape() as tape:
                loss = hml.sum(f(x) ** 2)
            want = tape.gradient(loss, weight)
        finally:
            hml.run_functions_eagerly(False)
        assert_close(got.numpy(), want.numpy(), ops=256)
    info = f.cache_info()
    assert info.binds == 3 and not info.apart and info.plans <= 3


def test_sizes_of_another_order_have_a_plan_of_their_own():
    f = hml.function(lambda x: hml.tanh(x) * 2.0)
    for n in (3, 4, 5, 4 * blueprint.FACTOR, 4 * blueprint.FACTOR + 1, 4 * blueprint.FACTOR + 2):
        called(f, n)
    assert f.cache_info().plans == 2 and f.cache_info().binds == 4


def test_there_are_so_many_plans_and_then_sizes_are_planned_as_numbers(monkeypatch):
    monkeypatch.setattr(blueprint, "MOST", 1)
    f = hml.function(lambda x: hml.tanh(x) * 2.0)
    for n in (3, 4, 5, 4 * blueprint.FACTOR + 1):
        x, got, concrete = called(f, n)
        assert_close(got[0], np.tanh(x) * 2, ops=16)
    assert f.cache_info().plans == f.cache_info().apart == 1
    assert "planned for its sizes alone: there are 1 plans for other sizes" in str(explain(concrete))


def test_explain_says_what_a_plan_is_good_for():
    f = hml.function(lambda x: hml.tanh(x) * 2.0)
    said = [str(explain(called(f, n)[2])) for n in (3, 4, 5)]
    assert "plan" not in said[0].split("Steps")[0]
    assert "planned with its sizes open, for others too" in said[1]
    assert "the sizes were put into a plan that was there" in said[2]


def test_rows_that_are_a_product_are_cut_into_blocks():
    f = hml.function(normalised)
    cut = {}
    for n in (4096, 5120, 6144, 8192, 4099, 5003):
        x, got, concrete = called(f, n)
        cut[n] = len(concrete.program.graph.nodes) > len(concrete.optimized.nodes)
        want, _ = interpret(concrete.graph, [x])
        for a, b in zip(got, want, strict=True):
            assert_close(a / np.abs(b).max(), b / np.abs(b).max(), ops=256)
    assert cut == {4096: True, 5120: True, 6144: True, 8192: True, 4099: False, 5003: False}
    assert f.cache_info().plans == 2 and not f.cache_info().apart


def test_a_sweep_has_parts_of_its_own_at_every_size(monkeypatch):
    monkeypatch.setattr(sweep, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(sweep, "PRODUCT_ROWS", 1)
    f = hml.function(attention)
    units = {}
    for n in (16, 24, 32, 48, 37):
        x, got, concrete = called(f, n, lambda *s: normal(3, *s))
        want, _ = interpret(concrete.graph, [x])
        for a, b in zip(got, want, strict=True):
            assert_close(a, b, ops=256)
        units[n] = [s.units for s in concrete.program.steps if isinstance(s, sweep.SweepStep)]
    assert all(units.values()) and not f.cache_info().apart


def test_members_of_a_sweep_whose_parts_do_not_fit_run_one_after_the_other(monkeypatch):
    monkeypatch.setattr(sweep, "WORTHWHILE_BYTES", 1)
    monkeypatch.setattr(sweep, "PRODUCT_ROWS", 1)
    f = hml.function(attention)
    for n in (16, 24):
        called(f, n, lambda *s: normal(3, *s))
    monkeypatch.setattr(sweep, "_part", lambda members, units: None)
    x, got, concrete = called(f, 32, lambda *s: normal(3, *s))
    want, _ = interpret(concrete.graph, [x])
    for a, b in zip(got, want, strict=True):
        assert_close(a, b, ops=256)
    assert 0 in [s.units for s in concrete.program.steps if isinstance(s, sweep.SweepStep)]


def test_another_number_of_threads_is_another_plan():
    f = hml.function(lambda x: hml.tanh(x) * 2.0)
    for n, threads in ((3, 2), (4, 2), (5, 2), (6, 1), (7, 1)):
        with hml.config.scope(num_threads=threads):
            _, _, concrete = called(f, n)
            assert concrete.program.region.threads == threads
    assert f.cache_info().plans == 2


def test_checks_of_two_sizes_have_flags_of_their_own():
    f = hml.function(lambda x: hml.check_finite(hml.exp(x)) * 2)
    for n in (3, 4, 5):
        called(f, n)
    first, second = [called(f, n)[2].program.region.constants for n in (4, 5)]
    flags = [a for c in (first, second) for a in c.values() if a.dtype == bool]
    assert len(flags) == 2 and not np.shares_memory(*flags)
    bad = normal(5, 8)
    bad[4, 1] = np.inf
    with pytest.raises(hml.errors.HybridMLError, match="check_finite"):
        f(bad)
    called(f, 5)
