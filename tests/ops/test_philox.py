"""Philox in NumPy: the published known answers, the stream's layout, and the kernels' bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

from hybridml.kernels.targets import scalar_functions
from hybridml.ops import philox
from hybridml.testing import kernels as written

# From the Random123 distribution's known-answer file: philox4x32, 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
STREAMS = [(0, 0), (1, 2), (0x0123456789ABCDEF, 2**64 - 3), (2**64 - 1, 2**32 - 1)]
SAMPLERS = [
    ("m_normal_f32", philox.normal_f32, np.float32, 1e-6),
    ("m_normal_f64", philox.normal_f64, np.float64, 1e-14),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = words(key)
    block = philox.philox4x32(np.array([words(counter)], dtype=np.uint32), (low, high))
    assert block.dtype == np.uint32 and block.tolist() == [words(expected)]
    python = scalar_functions("python")
    scalar = python.m_philox4x32(*(np.uint32(word) for word in [*words(counter), *words(key)]))
    assert [int(word) for word in scalar] == words(expected)


@pytest.mark.parametrize(("seed", "counter"), STREAMS)
def test_a_stream_is_its_blocks_in_order(seed: int, counter: int) -> None:
    stream = philox.random_bits(seed, counter, 11)
    for i in range(11):
        position = (counter + i // 4) % 2**64
        block = np.array([[position % 2**32, position >> 32, 0, 0]], dtype=np.uint32)
        assert stream[i] == philox.philox4x32(block, (seed % 2**32, seed >> 32))[0, i % 4]


def test_streams_continue_where_they_stopped() -> None:
    n = 4 * philox.CHUNK
    whole = philox.random_bits(5, 9, n + 40)
    assert np.array_equal(whole[n:], philox.random_bits(5, 9 + n // 4, 40))
    assert np.array_equal(whole[:7], philox.random_bits(5, 9, 7))
    assert philox.random_bits(5, 9, 0).shape == (0,)
    with pytest.raises(ValueError, match="got -1"):
        philox.random_bits(5, 9, -1)


@pytest.mark.parametrize(("seed", "counter"), STREAMS)
def test_kernels_draw_the_same_bits(seed: int, counter: int) -> None:
    n = 1003
    draws: list[tuple[str, Any, Any]] = [
        ("m.m_random_bits_u32(c0, c1, i)", np.uint32, philox.random_bits),
        ("m.m_random_bits_u64(c0, c1, i)", np.uint64, philox.random_bits_u64),
        ("m.m_uniform_f32(m.m_random_bits_u32(c0, c1, i))", np.float32, philox.uniform_f32),
        ("m.m_uniform_f64(m.m_random_bits_u64(c0, c1, i))", np.float64, philox.uniform_f64),
    ]
    for expression, dtype, sampler in draws:
        values, expected = drawn(expression, dtype, seed, counter, n), sampler(seed, counter, n)
        assert values.dtype == expected.dtype and np.array_equal(values, expected)


def drawn(expression: str, dtype: Any, seed: int, counter: int, n: int) -> Any:
    """What a kernel draws."""
    out = np.empty(n, dtype)
    text = written.elementwise(expression, [], dtype, ["uint64", "uint64"])
    written.run(text, [out], [(seed, "uint64"), (counter, "uint64")])
    return out


@pytest.mark.parametrize(("name", "sampler", "dtype", "tolerance"), SAMPLERS)
def test_kernels_draw_the_same_normals(name: str, sampler: Any, dtype: Any, tolerance: float) -> None:
    for seed, counter in STREAMS:
        out = drawn(f"m.{name}(c0, c1, i)", dtype, seed, counter, 10_001)
        expected = sampler(seed, counter, out.size)
        assert expected.dtype == dtype
        np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "sampler", "dtype", "tolerance"), SAMPLERS)
def test_python_target_draws_the_same_normals(name: str, sampler: Any, dtype: Any, tolerance: float) -> None:
    function = getattr(scalar_functions("python"), name)
    seed, counter = STREAMS[2]
    values = [function(np.uint64(seed), np.uint64(counter), np.int64(i)) for i in range(17)]
    np.testing.assert_allclose(values, sampler(seed, counter, 17), rtol=tolerance, atol=tolerance)


def test_samples_have_their_distribution() -> None:
    # Fixed seeds: the p-values are fixed numbers, far from the threshold unless the generator is wrong.
    for sampler in (philox.normal_f32, philox.normal_f64):
        assert scipy.stats.kstest(sampler(3, 0, 100_000), "norm").pvalue > 1e-3
    for sampler_u in (philox.uniform_f32, philox.uniform_f64):
        sample = sampler_u(4, 0, 100_000)
        assert scipy.stats.kstest(sample, "uniform").pvalue > 1e-3
        assert sample.min() >= 0 and sample.max() < 1
    pair = philox.normal_f64(5, 0, 100_000).reshape(-1, 2)
    assert abs(np.corrcoef(pair.T)[0, 1]) < 0.015


def test_float32_ends_of_the_range() -> None:
    python = scalar_functions("python")
    assert python.m_uniform_f32(np.uint32(0)) == 0 and python.m_uniform_f32(np.uint32(2**32 - 1)) < 1
    assert python.m_uniform_f64(np.uint64(0)) == 0 and python.m_uniform_f64(np.uint64(2**64 - 1)) < 1
    # The smallest and the largest u of Box and Muller give finite radii.
    radius = np.sqrt(-2 * np.log(np.array([2.0**-33, 1.0])))
    assert radius[0] < 6.77 and radius[1] == 0
