"""A dimension that changes: traced once more at its second size, bound to the third and all others."""

import gc
import threading
import weakref

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.errors import SignatureError, TraceError
from hybridml.testing import assert_close
from hybridml.trace import traces as traces_of_functions

RNG = np.random.default_rng(0)


def rows(n, *rest):
    return hml.asarray(RNG.normal(size=(n, *rest)).astype(np.float32))


def eagerly(f, *args):
    hml.run_functions_eagerly(True)
    try:
        return f(*args)
    finally:
        hml.run_functions_eagerly(False)


def close(got, want):
    for a, b in zip(pytree.leaves(got), pytree.leaves(want), strict=True):
        assert_close(np.asarray(a), np.asarray(b), ops=64)


def counts(f):
    info = f.cache_info()
    return info.traces, info.binds


W = hml.Variable(RNG.normal(size=(3, 3)).astype(np.float32))


def loss(x):
    return hml.mean(hml.tanh(x @ W) ** 2)


def gradient(x):
    with hml.GradientTape() as tape:
        value = loss(x)
    return tape.gradient(value, W)


def scanned(x):
    with hml.GradientTape() as tape:
        tape.watch(x)
        last, every = hml.scan(lambda c, row: (hml.tanh(c * row), c + row), hml.ones(3), x)
        value = hml.sum(last) + hml.sum(every * every)
    return value, tape.gradient(value, x)


def looped(x):
    total = hml.zeros(3)
    for i, row in enumerate(x):
        if row.sum() > 2:
            break
        total = total + row * i
    return total


GENERAL = {
    "elementwise": lambda x: hml.tanh(x) * x + 1,
    "the size as a number": lambda x: x.sum() / x.shape[0] + x * x.shape[0] + x.shape[0] * 0.5,
    "the size as a tensor": lambda x: hml.asarray(x.shape[0]) + hml.sqrt(x.shape[0] * 1.0),
    "mean, variance, softmax": lambda x: hml.nn.softmax(x) + hml.var(x, axis=0) + hml.mean(x),
    "made of nothing": lambda x: hml.zeros(x.shape) + hml.ones(x.shape[0])[:, None] + hml.arange(x.shape[0])[:, None],
    "reshape with -1": lambda x: hml.reshape(hml.reshape(x, (-1,)), (-1, 3)),
    "merged and split": lambda x: hml.reshape(hml.reshape(x, (x.shape[0] * 3,)), (3, x.shape[0])).T,
    "slices": lambda x: x[1:] - x[:-1] + x[-1] + x[0] + x[::-1][1:],
    "concat and pad": lambda x: hml.concat([x, x * 2])[::2] + hml.pad(x, ((0, 0), (1, 0)))[:, :3],
    "repeat and tile": lambda x: hml.repeat(x, 2, axis=0) + hml.tile(x, (2, 1)),
    "products": lambda x: x @ x.T @ x + hml.einsum("ij,kj->ik", x, x) @ x,
    "identity and one-hot": lambda x: hml.eye(x.shape[0]) @ x + hml.one_hot(hml.arange(x.shape[0]), 3),
    "indices": lambda x: hml.take(x, hml.argmax(x, axis=1), axis=0) + hml.sort(x, axis=0) + hml.cumsum(x, axis=0),
    "random numbers": lambda x: hml.random.normal(x.shape) + hml.random.uniform((x.shape[0], 1)) * x,
    "a branch": lambda x: hml.cond(x.sum() > 0, lambda: x * 2, lambda: x[::-1]),
    "a scan and its gradient": scanned,
    "a loop with a break": looped,
    "map_fn": lambda x: hml.map_fn(lambda row: row * row, x),
    "vmap": lambda x: hml.vmap(hml.grad(lambda row: hml.tanh(row).sum()))(x),
    "jacobian of a part": lambda x: hml.jacobian(lambda z: z * z)(x[0]),
    "a gradient inside": gradient,
    "the size as a result": lambda x: (x * 2, x.shape[0], {"rest": x.shape[0] - 1}),
    "a constant stretched": lambda x: hml.broadcast_to(hml.asarray([1.0, 2.0, 3.0]), x.shape),
}  # fmt: skip


@pytest.mark.parametrize("case", GENERAL)
def test_two_traces_for_all_sizes(case):
    f = hml.function(GENERAL[case])
    compiled = None
    for n in (4, 5, 6, 11, 4, 9):
        x = rows(n, 3)
        hml.random.seed(n)
        got = f(x)
        hml.random.seed(n)
        close(got, eagerly(f, x))
        compiled = f.cache_info().kernels_compiled if n == 5 else compiled
    assert counts(f) == (2, 3), f.explain_retraces()
    assert f.cache_info().hits == 4
    assert f.cache_info().kernels_compiled == compiled


PINNED = {
    "range": lambda x: x * sum(range(x.shape[0])),
    "len": lambda x: x * len(x),
    "a Python loop over rows": lambda x: hml.stack([row * 2 for row in hml.unstack(x)]),
    "NumPy": lambda x: x + np.arange(x.shape[0], dtype=np.float32)[:, None],
    "the gradient of a product": lambda x: hml.grad(lambda z: hml.prod(z, axis=0).sum())(x),
}


@pytest.mark.parametrize("case", PINNED)
def test_a_size_that_is_needed_as_a_number_has_traces_of_its_own_and_the_line_is_told(case):
    f = hml.function(PINNED[case])
    for n in (4, 5, 6, 4):
        x = rows(n, 3)
        close(f(x), eagerly(f, x))
    assert counts(f) == (3, 0)
    said = f.explain_retraces()
    assert (
        "argument `x`, axis 0: each size has a trace of its own, because n == 5" in said and __file__ in said
    )


def test_a_comparison_divides_the_sizes():
    f = hml.function(lambda x: x * 2 if x.shape[0] > 5 else x * 3)
    for n in (3, 4, 7, 8, 2, 9):
        x = rows(n)
        close(f(x), eagerly(f, x))
    assert counts(f) == (3, 3)  # 3; up to 5; from 6 on
    assert "holds only where n <= 5" in f.explain_retraces() and __file__ in f.explain_retraces()


def test_a_size_that_happens_to_equal_another_number_is_no_reason():
    f = hml.function(lambda x: hml.reshape(x, (3, x.shape[0])) * (2 if x.shape[0] == 5 else 3))
    for n in (4, 3, 5, 6, 7, 8):
        x = rows(n, 3)
        close(f(x), eagerly(f, x))
    assert counts(f) == (4, 2)


def test_a_pinned_dimension_beside_a_free_one():
    f = hml.function(lambda x: x * sum(range(x.shape[1])))
    for n, m in ((3, 2), (4, 3), (5, 3), (6, 3), (7, 4), (8, 4)):
        x = rows(n, m)
        close(f(x), eagerly(f, x))
    assert counts(f) == (3, 3)


def test_several_arguments_that_change_together():
    f = hml.function(lambda x, labels, scale: hml.nn.softmax_cross_entropy(x, labels).sum() * scale)
    for n in (4, 5, 6, 7):
        labels = hml.asarray(np.arange(n) % 3)
        args = (rows(n, 3), labels, 0.5 * n)
        close(f(*args), eagerly(f, *args))
    assert counts(f) == (2, 2)
    with pytest.raises(Exception, match="shape"):
        f(rows(9, 3), hml.asarray(np.arange(8) % 3), 1.0)


def test_sizes_0_and_1_are_traced_for_themselves():
    f = hml.function(lambda x, y: x + y)
    for n in (3, 4, 1, 0, 5):
        x = rows(n)
        close(f(x, x), x + x)
    y = rows(1)
    close(f(rows(4) * 0, y), hml.zeros(4) + y)  # broadcasts
    assert counts(f) == (5, 1)


def test_gradients_around_share_one_backward_graph():
    f = hml.function(loss)
    for n in (4, 5, 6, 7):
        x = rows(n, 3)
        with hml.GradientTape() as tape:
            value = f(x)
        close(tape.gradient(value, W), eagerly(gradient, x))
        with hml.GradientTape() as outer:
            with hml.GradientTape() as inner:
                value = f(x)
            g = inner.gradient(value, W)
            second = hml.sum(g * g)
        with hml.GradientTape() as outer2:
            want = hml.sum(eagerly(gradient, x) ** 2)
        close(outer.gradient(second, W), outer2.gradient(want, W))
    assert counts(f) == (2, 2)


def test_variables_are_assigned_at_every_size():
    v, u = (hml.Variable(np.zeros(3, np.float32)) for _ in range(2))
    step = hml.function(lambda x: v.assign_add(x.sum(axis=0)).value().sum() * x.shape[0])
    for n in (4, 5, 6, 7):
        x = rows(n, 3)
        close(step(x), u.assign_add(x.sum(axis=0)).value().sum() * n)
        close(v.numpy(), u.numpy())
    assert counts(step) == (2, 2)


def test_checked_calls():
    f = hml.function(lambda x: hml.nn.softmax(x @ x.T), check=True)
    for n in (4, 5, 6):
        close(f(rows(n, 3)).sum(axis=1), hml.ones(n))
    assert counts(f) == (2, 1)


def test_it_can_be_turned_off():
    f = hml.function(lambda x: x * 2, reduce_retracing=False)
    for n in (3, 4, 5, 6):
        f(rows(n))
    assert counts(f) == (4, 0)


def test_many_threads_bind():
    f = hml.function(lambda x: hml.tanh(x).sum(axis=0))
    f(rows(3, 2)), f(rows(4, 2))
    wrong = []

    def work(k):
        for n in range(5 + k, 25):
            x = rows(n, 2)
            got, want = f(x).numpy(), np.tanh(x.numpy()).sum(axis=0)
            if not np.allclose(got, want, rtol=1e-4, atol=1e-4):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert not wrong
    assert counts(f) == (2, 20)


def test_bound_programs_are_dropped(monkeypatch):
    monkeypatch.setattr(traces_of_functions, "MAX_TRACES", 4)
    f = hml.function(lambda x: x * 2)
    first = None
    for n in range(2, 20):
        f(rows(n))
        first = first or weakref.ref(f._recent.trace.concrete.program)
    gc.collect()
    assert f.cache_info().size == 4 and first() is None
    assert f.cache_info().traces == 2


# signatures


def test_an_input_signature_is_general_from_the_first_trace():
    traces = []

    @hml.function(
        input_signature=[hml.TensorSpec((None, 3), hml.float32), hml.TensorSpec((None,), hml.float32)]
    )
    def f(x, y):
        traces.append(x)
        return x.sum(axis=1) * y

    for n in (4, 5, 6):
        x, y = rows(n, 3), rows(n)
        close(f(x, y), x.sum(axis=1) * y)
    assert len(traces) == 1 and counts(f) == (1, 2)
    with pytest.raises(SignatureError, match=r"argument `x`: expected float32\[\?, 3\], got float32\[4, 4\]"):
        f(rows(4, 4), rows(4))


def test_a_concrete_function_for_any_size():
    f = hml.function(lambda x: (hml.tanh(x) @ W, x.shape[0]))
    concrete = f.get_concrete_function(hml.TensorSpec((None, 3), hml.float32))
    assert "%x: float32[n, 3]" in str(concrete) and str(concrete.outputs[0]) == "float32[n, 3]"
    assert (
        concrete.kernels
        and concrete.stats.kernels
        and concrete is f.get_concrete_function(hml.TensorSpec((None, 3)))
    )
    for n in (4, 5, 1, 0):
        x = rows(n, 3)
        y, size = concrete(x)
        close(y, hml.tanh(x) @ W)
        assert size == n and y.shape == (n, 3)
    for wrong in (rows(4, 4), rows(4), hml.zeros((2, 3), dtype=hml.float64)):
        with pytest.raises(SignatureError, match=r"argument `x`: expected float32\[n, 3\], got"):
            concrete(wrong)
    with hml.GradientTape() as tape:
        value = hml.sum(concrete(rows(4, 3))[0])
    assert tape.gradient(value, W).shape == (3, 3)


def test_a_concrete_function_for_any_size_inside_another_trace():
    inner = hml.function(lambda x: hml.tanh(x) * x.shape[0]).get_concrete_function(hml.TensorSpec((None,)))
    outer = hml.function(lambda x: inner(x)[1:] + inner(x[1:]))
    for n in (4, 5, 6, 7):
        x = rows(n)
        close(outer(x), hml.tanh(x)[1:] * n + hml.tanh(x[1:]) * (n - 1))
    assert counts(outer) == (2, 2)


def test_a_concrete_function_cannot_leave_open_what_the_function_needs():
    f = hml.function(lambda image: image * sum(range(image.shape[1])))
    with pytest.raises(TraceError, match=r"argument `image`: the size of axis 1 cannot be left open"):
        f.get_concrete_function(hml.TensorSpec((3, None)))


def test_explain_shows_the_program_of_a_size():
    f = hml.function(lambda x: hml.tanh(x) + 1)
    for n in (4, 5, 6):
        f(rows(n))
    assert "float32[6]" in str(f.explain(rows(6)))
    assert "float32[n]" in str(f.explain(hml.TensorSpec((None,))))
    assert counts(f)[0] == 3  # the last of them for the TensorSpec
