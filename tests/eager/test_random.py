"""Random numbers: known bits, moments, seeds, and states that move on."""

import threading

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import DTypeError, ShapeError

N = 200_000


def philox(seed, counter, i):
    """Word i of a stream in plain Python integers (Salmon et al., 2011)."""
    c, k = (
        [(counter + i // 4) % 2**64 & 0xFFFFFFFF, (counter + i // 4) % 2**64 >> 32, 0, 0],
        [seed & 0xFFFFFFFF, seed >> 32],
    )
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[i % 4]


def words(seed, counter, n):
    return np.array([philox(seed, counter, i) for i in range(n)], np.uint64)


@pytest.mark.parametrize(("seed", "counter"), [(0, 0), (7, 2**64 - 1), (2**64 - 1, 12345)])
def test_known_bits(seed, counter):
    state = np.array([seed, counter], np.uint64)
    w = words(seed, counter, 24)
    np.testing.assert_array_equal(hml.random.stateless_bits(state, (3, 4)).numpy().ravel(), w[:12])
    wide = hml.random.stateless_bits(state, (12,), hml.uint64).numpy()
    np.testing.assert_array_equal(wide, w[0::2] | (w[1::2] << np.uint64(32)))
    np.testing.assert_array_equal(
        hml.random.stateless_uniform(state, (24,)).numpy(),
        (w >> np.uint64(8)).astype(np.float32) / np.float32(2**24),
    )
    u = (w[0::2].astype(float) + 0.5) / 2**32
    angle = 2 * np.pi * w[1::2].astype(float) / 2**32
    normal = np.sqrt(-2 * np.log(u)) * np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(
        hml.random.stateless_normal(state, (24,)).numpy(), normal.T.ravel(), rtol=1e-4, atol=1e-5
    )


def test_draws_follow_each_other_in_the_stream():
    g = hml.random.Generator(3)
    first, second = g.uniform((5,)), g.uniform((2,), dtype=hml.float64)
    np.testing.assert_array_equal(
        first.numpy(), hml.random.stateless_uniform(np.array([3, 0], np.uint64), (5,)).numpy()
    )
    at_2 = np.array([3, 2], np.uint64)
    np.testing.assert_array_equal(
        second.numpy(), hml.random.stateless_uniform(at_2, (2,), hml.float64).numpy()
    )
    assert g.state.numpy().tolist() == [3, 3]


DRAWS = {
    "uniform": lambda g: g.uniform((4,)), "normal": lambda g: g.normal((4,), dtype=hml.float64),
    "half": lambda g: g.normal((4,), dtype=hml.float16), "bfloat16": lambda g: g.uniform((9,), dtype=hml.bfloat16),
    "truncated_normal": lambda g: g.truncated_normal((4,)), "randint": lambda g: g.randint(5, 1000, (4,)),
    "permutation": lambda g: g.permutation(30), "bernoulli": lambda g: g.bernoulli(0.5, (40,)),
    "categorical": lambda g: g.categorical(hml.zeros((2, 50)), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_the_same_seed_gives_the_same_numbers_and_the_next_draw_others(name):
    a, b, c = hml.random.Generator(1), hml.random.Generator(1), hml.random.Generator(2)
    draw = DRAWS[name]
    first = draw(a).numpy()
    np.testing.assert_array_equal(first, draw(b).numpy())
    assert not np.array_equal(first, draw(a).numpy())
    assert not np.array_equal(first, draw(c).numpy())
    a.seed(1)
    np.testing.assert_array_equal(first, draw(a).numpy())


def test_the_default_generator():
    hml.random.seed(5)
    first = [hml.random.uniform((3,)).numpy(), hml.random.permutation(5).numpy()]
    hml.random.seed(5)
    for a, b in zip(
        first, [hml.random.uniform((3,)).numpy(), hml.random.permutation(5).numpy()], strict=True
    ):
        np.testing.assert_array_equal(a, b)
    hml.random.seed()
    a = hml.random.default.state.numpy()
    hml.random.seed()
    assert a[0] != hml.random.default.state.numpy()[0]


def test_moments():
    g = hml.random.Generator(0)
    u, z, t = g.uniform((N,)).numpy(), g.normal((N,)).numpy(), g.truncated_normal((N,), 1.0, 2.0).numpy()
    for x, mean, std in ((u, 0.5, 12**-0.5), (z, 0, 1), ((t - 1) / 2, 0, 0.8796)):
        assert abs(x.mean() - mean) < 5 * std / N**0.5
        assert abs(x.std() - std) < 0.01
    assert u.min() >= 0 and u.max() < 1
    assert abs((z**3).mean()) < 0.05 and abs((z**4).mean() - 3) < 0.1
    assert (abs(t - 1) <= 4).all() and abs(t - 1).max() > 3.99
    np.testing.assert_allclose(np.mean(np.abs(z) < 1.96), 0.95, atol=0.005)
    counts = np.bincount(g.randint(10, shape=(N,)).numpy(), minlength=10)
    assert ((counts - N / 10) ** 2 / (N / 10)).sum() < 30  # chi squared, 9 degrees of freedom: p < 0.0005


def test_ranges_and_scales():
    g = hml.random.Generator(0)
    assert g.uniform((1000,), -2.0, 4.0).numpy().min() < -1.9
    np.testing.assert_allclose(g.normal((N,), 3.0, 0.5).numpy().mean(), 3, atol=0.01)
    r = g.randint(-5, 5, (1000,), hml.int8)
    assert r.dtype == np.int8 and set(r.tolist()) == set(range(-5, 5))
    wide = g.randint(0, 2**40, (1000,)).numpy()
    assert wide.max() > 2**39 and (wide >= 0).all()
    with pytest.raises(ValueError, match="no integer"):
        g.randint(3, 3)
    with pytest.raises(DTypeError, match="int64"):
        g.uniform((2,), dtype=hml.int64)
    with pytest.raises(ShapeError, match="random state"):
        hml.random.stateless_bits(hml.zeros(2), (2,))


def test_permutation_and_choices():
    g = hml.random.Generator(0)
    p = g.permutation(100).numpy()
    assert sorted(p) == list(range(100)) and list(p) != list(range(100))
    rows = g.permutation(np.arange(10).reshape(5, 2)).numpy()
    assert sorted(map(tuple, rows)) == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    with pytest.raises(ShapeError, match="0-d"):
        g.permutation(hml.asarray(1.0))
    p = np.array([0.1, 0.6, 0.3])
    drawn = g.categorical(np.log(p), 50_000).numpy()
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 50_000, p, atol=0.01)
    np.testing.assert_allclose(g.bernoulli(0.3, (50_000,), hml.float32).numpy().mean(), 0.3, atol=0.01)
    assert g.bernoulli(hml.asarray([0.0, 1.0])).tolist() == [False, True]


def test_no_gradient_flows_into_a_state_but_through_scales():
    g = hml.random.Generator(0)
    s = hml.Variable(2.0)
    with hml.GradientTape() as tape:
        y = g.normal((3,), 0.0, s)
    assert tape.watched_variables() == (s,)
    np.testing.assert_allclose(float(tape.gradient(y, s)), y.numpy().sum() / 2, rtol=1e-5)


def test_threads_never_draw_the_same_numbers():
    g, drawn = hml.random.Generator(0), []

    def work():
        drawn.extend([tuple(g.uniform((2,)).tolist()) for _ in range(50)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(set(drawn)) == 200
