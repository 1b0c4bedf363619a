"""x = q * pi/2 + r with |r| <= pi/4, right over the whole range of x, huge arguments included.

Up to a bound, r = x - n * pi/2 in two or three parts of pi/2 (Cody and Waite). Beyond it, x = m * 2**e times
the bits of 2/pi that can reach the result (Payne and Hanek): the bits that give multiples of 4 are skipped,
96 or 192 bits of 2/pi follow in fixed point. Both ways are computed and one selected, so loops stay vector
code.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        INF_F32,
        INF_F64,
        NAN_F64,
        ROUND_F64,
        bits_f32,
        bits_f64,
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        fma_f64,
        i32,
        i64,
        u64,
    )

TWO_OVER_PI_F64 = f64(0.6366197723675814)
PIO2_F64 = f64(1.5707963267948966)
PIO2_REST_F64 = f64(6.123233995736766e-17)
PIO2_LAST_F64 = f64(-1.4973849048591698e-33)

# The bits of 2/pi after the binary point.
TWO_OVER_PI = (
    u64(0xA2F9836E4E441529),
    u64(0xFC2757D1F534DDC0),
    u64(0xDB6295993C439041),
    u64(0xFE5163ABDEBBC561),
    u64(0xB7246E3A424DD2E0),
    u64(0x06492EEA09D1921C),
    u64(0xFE1DEB1CB129A73E),
    u64(0xE88235F52EBB4484),
    u64(0xE99C7026B45F7E41),
    u64(0x3991D639835339F4),
    u64(0x9C845F8BBDF9283B),
    u64(0x1FF897FFDE05980F),
    u64(0xEF2F118B5A0A6D1F),
    u64(0x6D367ECF27CB09B7),
    u64(0x4F463F669E5FEA2D),
    u64(0x7527BAC7EBE5F17B),
    u64(0x3D0739F78A5292EA),
    u64(0x6BFB5FB11F8D5D08),
    u64(0x56033046FC7B6BAB),
    u64(0xF0CFBC209AF4361D),
)
ONE_U64 = u64(1)
SHIFT_32 = u64(32)
SHIFT_63 = u64(63)
MASK_32 = u64(0xFFFFFFFF)
TWO_TO_61 = u64(1 << 61)
TWO_TO_MINUS_64 = f64(2.0**-64)


@device
def window(high, low, shift):
    """The 64 bits that begin `shift` < 64 bits into the 128 bits high:low."""
    return (high << shift) | ((low >> ONE_U64) >> (SHIFT_63 - shift))


@device
def huge_f32(a):
    """(r, q) for a >= 2**23."""
    bits = bits_f32(a)
    m = u64(i64(i32(bits & 0x7FFFFF)) | i64(0x800000))
    skip = u64(i64(i32(bits >> 23)) - i64(152))  # a = m * 2**(skip + 2)
    second = (skip >> u64(6)) != u64(0)
    w0 = TWO_OVER_PI[1] if second else TWO_OVER_PI[0]
    w1 = TWO_OVER_PI[2] if second else TWO_OVER_PI[1]
    w2 = TWO_OVER_PI[3] if second else TWO_OVER_PI[2]
    shift = skip & SHIFT_63
    v0 = window(w0, w1, shift)
    v1 = window(w1, w2, shift)
    # The product modulo 4 quarter turns: 2 integer bits, 62 bits of fraction.
    product = ((m * (v0 >> SHIFT_32)) << SHIFT_32) + m * (v0 & MASK_32) + ((m * (v1 >> SHIFT_32)) >> SHIFT_32)
    q = i64((product + TWO_TO_61) >> u64(62))
    return f64(i64(product << u64(2))) * (PIO2_F64 * TWO_TO_MINUS_64), q


@device
def reduce_f32(x):
    """(r, q): x = q * pi/2 + r with q modulo 4 and r in float64; NaN where x is infinite or NaN."""
    d = f64(x)
    t = fma_f64(d, TWO_OVER_PI_F64, ROUND_F64)
    n = t - ROUND_F64
    near = fma_f64(-n, PIO2_REST_F64, fma_f64(-n, PIO2_F64, d))
    near_q = bits_f64(t)
    a = fabs_f32(x)
    far, far_q = huge_f32(a)
    negative = x < f32(0.0)
    far = -far if negative else far
    far_q = -far_q if negative else far_q
    small = a < f32(2.0**25)
    r = near if small else far
    q = near_q if small else far_q
    return r if a < INF_F32 else f64(NAN_F64), q


@device
def huge_f64(a):
    """(r, rest, q) for a >= 2**20."""
    bits = bits_f64(a)
    m = u64((bits & i64(0xFFFFFFFFFFFFF)) | i64(0x10000000000000))
    # Bits of 2/pi to skip, after 64 zero bits in front of it.
    skip = u64((bits >> i64(52)) - i64(1075 + 2 - 64))
    b4 = (skip & u64(1024)) != u64(0)
    b3 = (skip & u64(512)) != u64(0)
    b2 = (skip & u64(256)) != u64(0)
    b1 = (skip & u64(128)) != u64(0)
    b0 = (skip & u64(64)) != u64(0)
    w0 = TWO_OVER_PI[15] if b4 else u64(0)
    w1 = TWO_OVER_PI[16] if b4 else TWO_OVER_PI[0]
    w2 = TWO_OVER_PI[17] if b4 else TWO_OVER_PI[1]
    w3 = TWO_OVER_PI[18] if b4 else TWO_OVER_PI[2]
    w4 = TWO_OVER_PI[19] if b4 else TWO_OVER_PI[3]
    w5 = u64(0) if b4 else TWO_OVER_PI[4]
    w6 = u64(0) if b4 else TWO_OVER_PI[5]
    w7 = u64(0) if b4 else TWO_OVER_PI[6]
    w8 = u64(0) if b4 else TWO_OVER_PI[7]
    w9 = u64(0) if b4 else TWO_OVER_PI[8]
    w10 = u64(0) if b4 else TWO_OVER_PI[9]
    w11 = u64(0) if b4 else TWO_OVER_PI[10]
    w12 = u64(0) if b4 else TWO_OVER_PI[11]
    w13 = u64(0) if b4 else TWO_OVER_PI[12]
    w14 = u64(0) if b4 else TWO_OVER_PI[13]
    w15 = u64(0) if b4 else TWO_OVER_PI[14]
    w16 = u64(0) if b4 else TWO_OVER_PI[15]
    w17 = u64(0) if b4 else TWO_OVER_PI[16]
    w18 = u64(0) if b4 else TWO_OVER_PI[17]
    w0 = w8 if b3 else w0
    w1 = w9 if b3 else w1
    w2 = w10 if b3 else w2
    w3 = w11 if b3 else w3
    w4 = w12 if b3 else w4
    w5 = w13 if b3 else w5
    w6 = w14 if b3 else w6
    w7 = w15 if b3 else w7
    w8 = w16 if b3 else w8
    w9 = w17 if b3 else w9
    w10 = w18 if b3 else w10
    w0 = w4 if b2 else w0
    w1 = w5 if b2 else w1
    w2 = w6 if b2 else w2
    w3 = w7 if b2 else w3
    w4 = w8 if b2 else w4
    w5 = w9 if b2 else w5
    w6 = w10 if b2 else w6
    w0 = w2 if b1 else w0
    w1 = w3 if b1 else w1
    w2 = w4 if b1 else w2
    w3 = w5 if b1 else w3
    w4 = w6 if b1 else w4
    w0 = w1 if b0 else w0
    w1 = w2 if b0 else w1
    w2 = w3 if b0 else w2
    w3 = w4 if b0 else w3
    shift = skip & SHIFT_63
    v0 = window(w0, w1, shift)
    v1 = window(w1, w2, shift)
    v2 = window(w2, w3, shift)
    # 53 bits times 192 bits in columns of 32 bits; the four highest columns of the product are kept.
    mh = m >> SHIFT_32
    ml = m & MASK_32
    d0 = v0 >> SHIFT_32
    d1 = v0 & MASK_32
    d2 = v1 >> SHIFT_32
    d3 = v1 & MASK_32
    d4 = v2 >> SHIFT_32
    d5 = v2 & MASK_32
    l0 = ml * d0
    l1 = ml * d1
    l2 = ml * d2
    l3 = ml * d3
    l4 = ml * d4
    l5 = ml * d5
    h1 = mh * d1
    h2 = mh * d2
    h3 = mh * d3
    h4 = mh * d4
    h5 = mh * d5
    c4 = (l4 & MASK_32) + (l5 >> SHIFT_32) + (h5 & MASK_32)
    c3 = (l3 & MASK_32) + (l4 >> SHIFT_32) + (h4 & MASK_32) + (h5 >> SHIFT_32) + (c4 >> SHIFT_32)
    c2 = (l2 & MASK_32) + (l3 >> SHIFT_32) + (h3 & MASK_32) + (h4 >> SHIFT_32) + (c3 >> SHIFT_32)
    c1 = (l1 & MASK_32) + (l2 >> SHIFT_32) + (h2 & MASK_32) + (h3 >> SHIFT_32) + (c2 >> SHIFT_32)
    c0 = (l0 & MASK_32) + (l1 >> SHIFT_32) + (h1 & MASK_32) + (h2 >> SHIFT_32) + (c1 >> SHIFT_32)
    high = (c0 << SHIFT_32) | (c1 & MASK_32)
    low = (c2 << SHIFT_32) | (c3 & MASK_32)
    q = i64((high + TWO_TO_61) >> u64(62))
    fraction = i64((high << u64(2)) | (low >> u64(62)))
    # The fraction of a quarter turn as t + t_rest: each conversion is exact but the last, which is small.
    t_high = f64(fraction & i64(-2048)) * TWO_TO_MINUS_64
    t_low = (f64(fraction & i64(2047)) + f64(low << u64(2)) * TWO_TO_MINUS_64) * TWO_TO_MINUS_64
    t = t_high + t_low
    t_rest = (t_high - t) + t_low
    r = t * PIO2_F64
    return r, fma_f64(t, PIO2_F64, -r) + fma_f64(t, PIO2_REST_F64, t_rest * PIO2_F64), q


@device
def reduce_f64(x):
    """(r, rest, q): x = q * pi/2 + r + rest with q modulo 4; r is NaN where x is infinite or NaN."""
    t = fma_f64(x, TWO_OVER_PI_F64, ROUND_F64)
    n = t - ROUND_F64
    first = fma_f64(-n, PIO2_F64, x)  # exact while n has few bits
    p = n * PIO2_REST_F64
    p_rest = fma_f64(n, PIO2_REST_F64, -p)
    near = first - p
    back = first - near
    near_rest = (back - p) - fma_f64(n, PIO2_LAST_F64, p_rest)
    near_q = bits_f64(t)
    a = fabs_f64(x)
    far, far_rest, far_q = huge_f64(a)
    negative = x < f64(0.0)
    far = -far if negative else far
    far_rest = -far_rest if negative else far_rest
    far_q = -far_q if negative else far_q
    small = a < f64(2.0**20)
    r = near if small else far
    rest = near_rest if small else far_rest
    q = near_q if small else far_q
    return r if a < INF_F64 else NAN_F64, rest, q
