"""Composites that are played: the same bits as the function as it is written, nothing of the way between, and no stale values."""

import tracemalloc

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager import backward, compose, recordings
from hybridml.errors import IndexOutOfRangeError, ShapeError
from hybridml.ops import door
from hybridml.ops.registry import ATTRIBUTES, METHODS, NAMESPACES, PUBLIC, composer
from hybridml.testing.samples import strided, transposed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5)).astype(np.float32)
SPECIAL = X.copy()
SPECIAL[0, :3] = np.nan, np.inf, -np.inf
ROW = RNG.normal(size=5).astype(np.float32)
LABELS = np.array([4, 0, 2, 2])
FILTER = RNG.normal(size=(3, 5, 2, 2)).astype(np.float32)
nn, linalg = hml.nn, hml.linalg


def image(x):
    return hml.reshape(x, (1, *x.shape, 1))


# For each composite, calls on arrays: the first is on (4, 5) float32.
CASES = {
    "relu": [nn.relu], "leaky_relu": [nn.leaky_relu, lambda x: nn.leaky_relu(x, 0.1)], "elu": [nn.elu], "softplus": [nn.softplus],
    "silu": [nn.silu], "gelu": [nn.gelu, lambda x: nn.gelu(x, approximate=True)],
    "softmax": [nn.softmax, lambda x: nn.softmax(x, axis=0), lambda x: nn.softmax(x, (0, 1))], "log_softmax": [nn.log_softmax],
    "layer_norm": [nn.layer_norm, lambda x: nn.layer_norm(x, hml.asarray(ROW), hml.asarray(ROW), epsilon=0.1)],
    "softmax_cross_entropy": [
        lambda x: nn.softmax_cross_entropy(x, hml.asarray(LABELS)), lambda x: nn.softmax_cross_entropy(x, [4, 0, 2, 2]),
        lambda x: nn.softmax_cross_entropy(x, hml.abs(x)),
    ],
    "binary_cross_entropy_with_logits": [lambda x: nn.binary_cross_entropy_with_logits(x, 0.25)],
    "clip": [lambda x: hml.clip(x, -0.5, 0.5), lambda x: hml.clip(x, max=hml.asarray(ROW))], "reciprocal": [hml.reciprocal],
    "mean": [hml.mean, lambda x: x.mean(axis=1, keepdims=True)], "var": [lambda x: hml.var(x, axis=0, correction=1)],
    "std": [lambda x: hml.std(x, axis=(0, 1))],
    "vector_norm": [linalg.vector_norm, lambda x: linalg.vector_norm(x, axis=1, ord=3)],
    "expand_dims": [lambda x: hml.expand_dims(x, axis=1)], "squeeze": [lambda x: hml.squeeze(x[:1])],
    "flip": [hml.flip, lambda x: hml.flip(x, axis=0)], "moveaxis": [lambda x: hml.moveaxis(x, 0, 1)],
    "swapaxes": [lambda x: hml.swapaxes(x, 0, 1)], "matrix_transpose": [lambda x: x.mT], "transpose": [lambda x: x.T, hml.transpose],
    "getitem": [lambda x: x[1], lambda x: x[..., ::-2], lambda x: x[:, None, 1:3], lambda x: x[hml.asarray(LABELS) - 1],
                lambda x: x[x > 0], lambda x: x[hml.asarray([1, 0]), :, None], lambda x: x[[1, 0], [0, 2]], lambda x: x[1, 2]],
    "stack": [lambda x: hml.stack([x, x * 2]), lambda x: hml.stack((x, x), axis=-1)], "unstack": [lambda x: hml.unstack(x, axis=1)],
    "split": [lambda x: hml.split(x, [1, 3, 1], axis=1)], "tile": [lambda x: hml.tile(x, (2, 1))],
    "repeat": [lambda x: hml.repeat(x, 2), lambda x: hml.repeat(x, [2, 0, 1, 1], axis=0)],
    "diagonal": [lambda x: hml.diagonal(x, offset=1)], "trace": [linalg.trace], "tril": [hml.tril], "triu": [lambda x: hml.triu(x, k=1)],
    "one_hot": [lambda x: hml.one_hot(hml.asarray(LABELS), 5) + x],
    "einsum": [lambda x: hml.einsum("ij,kj,k->ik", x, x, x[:, 0]), lambda x: hml.einsum("ij->j", x)],
    "tensordot": [lambda x: hml.tensordot(x, x, axes=((1,), (1,)))], "vecdot": [lambda x: hml.vecdot(x, hml.asarray(ROW))],
    "conv1d": [lambda x: nn.conv1d(x[None], hml.asarray(FILTER[:, :, 0]))],
    "depthwise_conv2d": [lambda x: nn.depthwise_conv2d(image(x), hml.asarray(FILTER[:2, :2, :1]))],
    "max_pool2d": [lambda x: nn.max_pool2d(image(x), 2)], "avg_pool2d": [lambda x: nn.avg_pool2d(image(x), 2, padding="same")],
    "global_max_pool2d": [lambda x: nn.global_max_pool2d(image(x))], "global_avg_pool2d": [lambda x: nn.global_avg_pool2d(image(x))],
    "outer": [lambda x: hml.outer(x[0], x[1])],
}  # fmt: skip
CALLS = [pytest.param(f, id=f"{name}-{i}") for name, fs in CASES.items() for i, f in enumerate(fs)]
INPUTS = {
    "plain": X, "special": SPECIAL, "strided": strided(X), "transposed": transposed(X), "double": X.astype(np.float64),
    "half": X.astype(np.float16), "bfloat16": X.astype(hml.bfloat16), "int": np.round(X * 3).astype(np.int32),
}  # fmt: skip


@pytest.fixture
def as_written(monkeypatch):
    """Runs a function with nothing played."""

    def never(*_):
        raise recordings.Odd

    def run(f, *args):
        with monkeypatch.context() as m:
            m.setattr(composer, "run", lambda f, args, kwargs: f(*args, **kwargs))
            m.setattr(composer, "run_direct", lambda direct, f, args, kwargs: f(*args, **kwargs))
            m.setattr(backward, "_played", never)
            return f(*args)

    return run


@pytest.fixture
def calls(monkeypatch):
    """Counts ops that go through the door."""
    seen = []
    run = door.interpreter.run
    monkeypatch.setattr(
        door.interpreter, "run", lambda op, *rest: seen.append(op.name) or run(op, *rest), raising=True
    )
    return seen


def assert_identical(got, want):
    for a, b in zip(hml.pytree.leaves(got), hml.pytree.leaves(want), strict=True):
        assert a.spec == b.spec
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_every_composite_is_tested():
    every = [PUBLIC, METHODS, ATTRIBUTES, *NAMESPACES.values()]
    composites = [
        f for table in every for f in table.values() if hasattr(f, "__wrapped__") and not hasattr(f, "op")
    ]
    assert {f.__name__ for f in composites} == set(CASES)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("f", CALLS)
def test_played_calls_give_the_same_bits(f, name, as_written):
    x = hml.asarray(INPUTS[name])
    before = x.numpy().copy()
    try:
        want = as_written(f, x)
    except Exception as e:
        for _ in range(4):
            with pytest.raises(type(e)):
                f(x)
        return
    for _ in range(4):
        assert_identical(f(x), want)
    np.testing.assert_array_equal(x.numpy(), before)


@pytest.mark.parametrize("f", CALLS)
def test_recordings_play_without_falling_back(f):
    x = hml.asarray(X)
    for _ in range(3):
        f(x)
    for composed in list(compose._known.values()):
        if composed:
            arrays = [np.ones(s.spec.shape, s.spec.dtype) for s in composed.inputs]
            with np.errstate(all="ignore"):
                for play in (composed.play, composed.play_kept):
                    play(*arrays)


def gradients(f, x):
    """A gradient, and a gradient of a gradient, taken with tapes."""
    with hml.GradientTape() as outer:
        outer.watch(x)
        with hml.GradientTape() as inner:
            inner.watch(x)
            y = f(x)
            y = sum([hml.sum(hml.sin(r)) for r in hml.pytree.leaves(y)])
        g = inner.gradient(y, x, unconnected_gradients="zero")
        z = hml.sum(g * hml.cos(x))
    with hml.GradientTape() as alone:
        alone.watch(x)
        y = f(x)
    first = alone.gradient(y, x, unconnected_gradients="zero")
    return first, g, outer.gradient(z, x, unconnected_gradients="zero")


@pytest.mark.parametrize("f", CALLS)
def test_played_gradients_are_those_of_the_steps(f, as_written):
    x = hml.asarray(X)
    want = as_written(gradients, f, x)
    for _ in range(4):
        first, *rest = gradients(f, x)
        assert_identical(first, want[0])
        for got, expected in zip(
            rest, want[1:], strict=True
        ):  # summed in another order where a tape is around a tape
            np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_nothing_goes_through_the_door_when_played(calls):
    x, labels = hml.asarray(X), hml.asarray(LABELS)

    def step():
        with hml.GradientTape() as tape:
            tape.watch(x)
            loss = nn.softmax_cross_entropy(nn.layer_norm(x), labels)
        return tape.gradient(loss, x)

    plain = [
        lambda: nn.softmax(x),
        lambda: hml.einsum("ij,kj->ik", x, x),
        lambda: x[1:, 0],
        lambda: x.T,
        step,
    ]
    for f in plain:
        for _ in range(6):  # composites of composites: each is noted, then recorded
            f()
        calls.clear()
        f()
        assert calls == []


def test_a_composite_on_a_tape_is_one_step():
    x = hml.asarray(X)
    for _ in range(3):
        with hml.GradientTape() as tape:
            tape.watch(x)
            nn.layer_norm(x)
    assert len(tape._entries) == 1


def test_buffers_are_used_again():
    x = hml.asarray(np.ones((256, 1024), np.float32))
    for _ in range(3):
        nn.gelu(x)
    tracemalloc.start()
    try:
        y = nn.gelu(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.1 * y.numpy().nbytes  # x * 0.5, the argument of erf, and erf of it


def test_python_numbers_are_told_apart():
    x, i = hml.asarray([-2.0, 0.0, 2.0]), hml.asarray([1, 2, 3])
    for _ in range(4):
        assert np.signbit(hml.clip(x, min=-0.0).numpy()).tolist() == [True, False, False]
        assert np.signbit(hml.clip(x, min=0.0).numpy()).tolist() == [False, False, False]
        assert hml.clip(i, 2).dtype == np.int64
        assert hml.clip(i, 2.0).dtype == np.float32
        assert np.isnan(hml.clip(x, max=float("nan")).numpy()).sum() == 0


def test_variables_are_read_at_each_call():
    v = hml.Variable(X)
    for k in range(4):
        v.assign(X * k)
        np.testing.assert_array_equal(
            hml.mean(v, axis=0).numpy(), hml.mean(hml.asarray(X * k), axis=0).numpy()
        )
        with hml.GradientTape() as tape:
            y = nn.softmax(v)
        assert tape.watched_variables() == (v,)
        assert tape.gradient(y, v).shape == (4, 5)


def test_a_view_of_a_variable_does_not_change_with_it():
    v = hml.Variable(X)
    rows, turned = v[1], v.T
    v.assign(X * 2)
    np.testing.assert_array_equal(rows.numpy(), X[1])
    np.testing.assert_array_equal(turned.numpy(), X.T)


def test_what_depends_on_more_than_its_operands_is_never_recorded():
    v, x = hml.Variable(1.0), hml.asarray(X)

    def reads_state(x):
        return x + v

    def asks_for_a_value(x):
        return x * 2 if float(x.sum()) > 0 else x

    for f in (reads_state, asks_for_a_value):
        for k in range(4):
            v.assign(k)
            sign = -1.0 if k % 2 else 1.0
            assert_identical(compose.run(f, (x * sign,), {}), f(x * sign))


def test_errors_are_those_of_the_function_after_it_was_played():
    x = hml.asarray(X)
    for i in (hml.asarray([0, 1]), hml.asarray([3, 2]), hml.asarray([1, 1])):
        x[i], hml.repeat(x, 2, axis=0)
    with pytest.raises(IndexOutOfRangeError, match=r"index 9 .* size 4(.|\n)*test_compose.py"):
        x[hml.asarray([0, 9])]
    for _ in range(3):
        with pytest.raises(ShapeError, match="axis 'j' has size"):
            hml.einsum("ij,jk->ik", x, x)


def test_as_many_kinds_as_may_are_kept(monkeypatch):
    monkeypatch.setattr(recordings, "MOST", 3)
    table = recordings.Recordings()
    for i in range(10):
        for _ in range(2):
            table.note((i,), lambda i=i: f"player {i}")
    assert table.known == {(i,): f"player {i}" for i in (7, 8, 9)}


def test_threads_have_their_own_buffers():
    from concurrent.futures import ThreadPoolExecutor

    x = hml.asarray(X)
    want = nn.layer_norm(x).numpy()
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: nn.layer_norm(x).numpy(), range(200)):
            np.testing.assert_array_equal(got, want)
