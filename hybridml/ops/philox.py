"""Counter-based random numbers in NumPy or CuPy (`xp`): Philox4x32-10, bit for bit what the kernels generate.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011). A stream has no state: word
i of stream `(seed, counter)` is word `i mod 4` of the Philox block with

- key = the low and the high 32 bits of `seed`,
- 128-bit counter = `(counter + i // 4) mod 2**64` in the low half, 0 in the high half.

So n words use `ceil(n / 4)` counters, and a generator that moves on adds that to its counter. The same
functions for one element inside kernels are in `hybridml/kernels/scalar_math/random.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
CHUNK = 1 << 13  # blocks at a time, so that the intermediate arrays stay in the cache


def philox4x32(counter: NDArray[np.uint32], key: tuple[int, int], xp: Any = np) -> NDArray[np.uint32]:
    """Philox4x32-10 of each row of `counter`, shape (n, 4), under one key; uint32, shape (n, 4)."""
    c0, c1, c2, c3 = (counter[:, j].astype(np.uint64) for j in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        p0 = c0 * MULTIPLIERS[0]
        p1 = c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> HALF) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0 = (k0 + WEYL[0]) & 0xFFFFFFFF
        k1 = (k1 + WEYL[1]) & 0xFFFFFFFF
    words: NDArray[np.uint32] = xp.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)
    return words


def random_bits(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.uint32]:
    """The first n words of stream (seed, counter), both taken modulo 2**64; uint32, shape (n,).

    >>> [hex(word) for word in random_bits(0, 0, 4)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']

    Raises ValueError if n is negative.
    """
    if n < 0:
        raise ValueError(f"expected a number of words >= 0, got {n}")
    seed %= 2**64
    words: NDArray[np.uint32] = xp.empty(((n + 3) // 4, 4), dtype=np.uint32)
    step = (
        CHUNK if xp is np else max(len(words), 1)
    )  # a GPU has no cache to stay in, and a price for each launch
    for start in range(0, len(words), step):
        part = words[start : start + step]
        first = xp.full(1, np.uint64((counter + start) % 2**64), dtype=np.uint64)
        # Unsigned array arithmetic wraps modulo 2**64, as the kernels' does.
        position = xp.arange(len(part), dtype=np.uint64) + first
        blocks = xp.zeros(part.shape, dtype=np.uint32)
        blocks[:, 0] = position & LOW
        blocks[:, 1] = position >> HALF
        part[:] = philox4x32(blocks, (seed & 0xFFFFFFFF, seed >> 32), xp)
    return words.reshape(-1)[:n]


def random_bits_u64(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.uint64]:
    """n 64-bit words: words 2i (low half) and 2i + 1 (high half) of the stream; uint64, shape (n,)."""
    words = random_bits(seed, counter, 2 * n, xp).astype(np.uint64).reshape(n, 2)
    return words[:, 0] | (words[:, 1] << HALF)


def uniform_f32(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.float32]:
    """n float32 in [0, 1): multiples of 2**-24, one word each."""
    return (random_bits(seed, counter, n, xp) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def uniform_f64(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.float64]:
    """n float64 in [0, 1): multiples of 2**-53, two words each."""
    return (random_bits_u64(seed, counter, n, xp) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal_f32(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.float32]:
    """n standard normal float32 by Box and Muller; elements 2j and 2j + 1 share words 2j and 2j + 1.

    u = (word 2j + 1/2) / 2**32, angle = 2 pi word(2j + 1) / 2**32; element 2j is sqrt(-2 log u) cos(angle),
    element 2j + 1 has the sine. Equal to the kernels' numbers to about 1e-6 (they round in float32 on the
    way).
    """
    words = random_bits(seed, counter, n + n % 2, xp).reshape(-1, 2)
    # The kernel holds u in float32 before the logarithm, which matters near u = 1; so does this.
    u = words[:, 0].astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33
    return box_muller(u.astype(np.float32).astype(np.float64), words[:, 1] * 2.0**-32, xp)[:n].astype(
        np.float32
    )


def normal_f64(seed: int, counter: int, n: int, xp: Any = np) -> NDArray[np.float64]:
    """n standard normal float64; elements 2j and 2j + 1 share the block of words 4j to 4j + 3.

    u from 64-bit word 2j as (word >> 11 + 1/2) / 2**53, the angle from 64-bit word 2j + 1 as 2 pi (word >>
    11) / 2**53.
    """
    words = (random_bits_u64(seed, counter, n + n % 2, xp) >> np.uint64(11)).reshape(-1, 2)
    return box_muller((words[:, 0] + 0.5) * 2.0**-53, words[:, 1] * 2.0**-53, xp)[:n]


def box_muller(u: NDArray[Any], turns: NDArray[Any], xp: Any = np) -> NDArray[np.float64]:
    """Two standard normal numbers for each u in (0, 1] and turn, cosine first; shape (2 len(u),)."""
    radius = xp.sqrt(-2.0 * xp.log(u))
    angle = 2.0 * np.pi * turns
    pairs: NDArray[np.float64] = xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], axis=1).reshape(
        -1
    )
    return pairs
