"""Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011), the same bits on every target.

The stream of a `(seed, counter)` is a sequence of 32-bit words: word i is word `i mod 4` of the block with
key = the seed's two halves (low, high) and 128-bit counter = `(counter + i // 4) mod 2**64` in the low half,
0 in the high half. `hybridml.ops.philox` is the same in NumPy.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        device,
        f32,
        f64,
        fma_f32,
        i32,
        i64,
        m_log_f32,
        m_log_f64,
        sin_of_quarter_f32,
        sin_of_quarter_f64,
        sqrt_f32,
        sqrt_f64,
        u32,
        u64,
    )

PHILOX_M0 = u64(0xD2511F53)
PHILOX_M1 = u64(0xCD9E8D57)
PHILOX_W0 = u32(0x9E3779B9)
PHILOX_W1 = u32(0xBB67AE85)
RANDOM_MASK_32 = u64(0xFFFFFFFF)
RANDOM_SHIFT_32 = u64(32)
TWO_PI_OVER_2_32 = f32(2.0**-30 * 1.5707963267948966)


@device
def philox_round(c0, c1, c2, c3, k0, k1):
    p0 = PHILOX_M0 * u64(c0)
    p1 = PHILOX_M1 * u64(c2)
    high0 = u32(p0 >> RANDOM_SHIFT_32)
    high1 = u32(p1 >> RANDOM_SHIFT_32)
    return u32(high1 ^ c1 ^ k0), u32(p1 & RANDOM_MASK_32), u32(high0 ^ c3 ^ k1), u32(p0 & RANDOM_MASK_32)


@device
def m_philox4x32(c0, c1, c2, c3, k0, k1):
    """The four words of Philox4x32-10 for a counter of four words and a key of two; u32 in, u32 out."""
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    k0 = u32(k0 + PHILOX_W0)
    k1 = u32(k1 + PHILOX_W1)
    c0, c1, c2, c3 = philox_round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


@device
def random_block(seed, counter):
    return m_philox4x32(
        u32(counter & RANDOM_MASK_32),
        u32(counter >> RANDOM_SHIFT_32),
        u32(0),
        u32(0),
        u32(seed & RANDOM_MASK_32),
        u32(seed >> RANDOM_SHIFT_32),
    )


@device
def m_random_bits_u32(seed, counter, i):
    """Word i of the stream; seed and counter are u64, i is any integer >= 0."""
    n = u64(i)
    w0, w1, w2, w3 = random_block(seed, counter + (n >> u64(2)))
    odd = (n & u64(1)) != u64(0)
    a = w1 if odd else w0
    b = w3 if odd else w2
    return b if (n & u64(2)) != u64(0) else a


@device
def m_random_bits_u64(seed, counter, i):
    """Words 2i (low half) and 2i + 1 (high half) of the stream."""
    n = u64(i)
    w0, w1, w2, w3 = random_block(seed, counter + (n >> u64(1)))
    second = (n & u64(1)) != u64(0)
    low = w2 if second else w0
    high = w3 if second else w1
    return (u64(high) << RANDOM_SHIFT_32) | u64(low)


@device
def m_uniform_f32(bits):
    """A u32 to [0, 1): its upper 24 bits times 2**-24."""
    return f32(i32(bits >> u32(8))) * f32(2.0**-24)


@device
def m_uniform_f64(bits):
    """A u64 to [0, 1): its upper 53 bits times 2**-53."""
    return f64(i64(bits >> u64(11))) * f64(2.0**-53)


@device
def m_normal_f32(seed, counter, i):
    """Element i of a standard normal sample, by Box and Muller.

    Elements 2j and 2j + 1 share words 2j and 2j + 1 of the stream: radius sqrt(-2 log u) with
    u = (word 2j + 1/2) / 2**32 rounded, angle = 2 pi * word(2j + 1) / 2**32; the cosine is element 2j and the
    sine element 2j + 1. The largest magnitude is 6.76.
    """
    n = u64(i)
    w0, w1, w2, w3 = random_block(seed, counter + (n >> u64(2)))
    second = (n & u64(2)) != u64(0)
    a = w2 if second else w0
    b = w3 if second else w1
    u = fma_f32(f32(a), f32(2.0**-32), f32(2.0**-33))
    radius = sqrt_f32(f32(-2.0) * m_log_f32(u))
    # The nearest quarter turn from the upper bits, the rest of the angle exactly from the lower ones.
    turn = u32(b + u32(1 << 29))
    q = i64(turn >> u32(30))
    r = f32(i32(i32(turn & u32(0x3FFFFFFF)) - i32(1 << 29))) * TWO_PI_OVER_2_32
    shift = i64(0) if (n & u64(1)) != u64(0) else i64(1)
    return radius * sin_of_quarter_f32(r, q + shift)


@device
def m_normal_f64(seed, counter, i):
    """Element i of a standard normal sample in float64.

    Elements 2j and 2j + 1 share block j: u from words 0 (low) and 1, the angle from words 2 (low) and 3, each
    pair as 64 bits w: u = (w >> 11 + 1/2) / 2**53, angle = 2 pi * (w >> 11) / 2**53; cosine first, then sine.
    """
    n = u64(i)
    w0, w1, w2, w3 = random_block(seed, counter + (n >> u64(1)))
    a = ((u64(w1) << RANDOM_SHIFT_32) | u64(w0)) >> u64(11)
    b = ((u64(w3) << RANDOM_SHIFT_32) | u64(w2)) >> u64(11)
    u = (f64(i64(a)) + f64(0.5)) * f64(2.0**-53)
    radius = sqrt_f64(f64(-2.0) * m_log_f64(u))
    turn = b + u64(1 << 50)
    q = i64(turn >> u64(51))
    r = f64(i64(turn & u64((1 << 51) - 1)) - i64(1 << 50)) * f64(2.0**-51 * 1.5707963267948966)
    shift = i64(0) if (n & u64(1)) != u64(0) else i64(1)
    return radius * sin_of_quarter_f64(r, f64(0.0), q + shift)
