"""exp, exp2, expm1, sigmoid: x = n ln2 + r with |r| <= ln2 / 2, so e**x = 2**n * (1 + r + r*r*q(r))."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        bits_f32,
        bits_f64,
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        float_from_bits_f32,
        float_from_bits_f64,
        fma_f32,
        fma_f64,
        i32,
        i64,
    )

INF_F32 = f32(float("inf"))
INF_F64 = f64(float("inf"))
NAN_F32 = f32(float("nan"))
NAN_F64 = f64(float("nan"))

# x + ROUND is x rounded to the nearest integer n (half to even), which then stands in the low bits of the sum. With the bias of
# an exponent added in advance, these bits need only be shifted to be 2**n, or halved and shifted to be 2**(n / 2).
ROUND_F32 = f32(1.5 * 2**23)
ROUND_127_F32 = f32(1.5 * 2**23 + 127)
ROUND_254_F32 = f32(1.5 * 2**23 + 254)
ROUND_F64 = f64(1.5 * 2**52)
ROUND_BITS_F32 = i32(0x4B400000)
ROUND_BITS_F64 = i64(0x4338000000000000)
ONE_TWICE_BITS_F32 = i32(2 * 0x3F800000)  # of 1: less the bits of a power of two, those of its inverse

SIGN_BIT_F32 = i32(-0x80000000)

LOG2E_F32 = f32(1.442695)
LOG2E_F64 = f64(1.4426950408889634)
LN2_F32 = f32(0.6931472)
LN2_LOW_F32 = f32(-1.9046542e-09)
LN2_F64 = f64(0.6931471805599453)
LN2_LOW_F64 = f64(2.3190468138462996e-17)

# (exp(r) - 1 - r) / r**2 on |r| <= ln2 / 2
EXP_F32 = (  # error 2^-27.8
    f32(0.5),
    f32(0.16666518),
    f32(0.041666206),
    f32(0.008369022),
    f32(0.0013950516),
)
EXP_F64 = (  # error 2^-60.7
    f64(0.5),
    f64(0.16666666666666685),
    f64(0.04166666666666673),
    f64(0.008333333333316486),
    f64(0.0013888888888858423),
    f64(0.00019841269897695872),
    f64(2.4801587373965935e-05),
    f64(2.7557233591232415e-06),
    f64(2.7557233078392916e-07),
    f64(2.511246804805864e-08),
    f64(2.0927046897715063e-09),
)
# (2**r - 1 - r ln2) / r**2 on |r| <= 1/2
EXP2_F32 = (  # error 2^-27.9
    f32(0.2402265),
    f32(0.055503618),
    f32(0.009618023),
    f32(0.0013390433),
    f32(0.00015471605),
)
EXP2_F64 = (  # error 2^-58.4
    f64(0.24022650695910072),
    f64(0.05550410866482164),
    f64(0.00961812910762849),
    f64(0.0013333558146401913),
    f64(0.0001540353039334836),
    f64(1.5252733846919468e-05),
    f64(1.3215486828250543e-06),
    f64(1.0178054633387644e-07),
    f64(7.054889742741947e-09),
    f64(4.4562064305343256e-10),
    f64(2.574004532922282e-11),
)


@device
def power_of_two_f32(n):
    """2**n for -127 < n < 128."""
    return float_from_bits_f32(i32(i32(n + 127) << 23))


@device
def biased_power_f32(b):
    """2**n of an integer whose low nine bits are n + 127, for -127 < n < 128: the shift drops all others."""
    return float_from_bits_f32(i32(b << 23))


@device
def power_of_two_f64(n):
    """2**n for -1023 < n < 1024."""
    return float_from_bits_f64((n + i64(1023)) << i64(52))


@device
def scale_f32(p, n):
    """p * 2**n for |n| < 252, in two steps: each factor is normal, and only the second step rounds."""
    half = i32(n >> 1)
    return p * power_of_two_f32(half) * power_of_two_f32(i32(n - half))


@device
def scale_f64(p, n):
    """p * 2**n for |n| < 2044; see `scale_f32`."""
    half = n >> i64(1)
    return p * power_of_two_f64(half) * power_of_two_f64(n - half)


@device
def expm1_near_f32(r):
    """e**r - 1 for |r| <= ln2 / 2. By halves (Estrin's scheme): a chain of one coefficient after the other would wait for itself."""
    z = r * r
    q = fma_f32(z, EXP_F32[4], fma_f32(r, EXP_F32[3], EXP_F32[2]))
    q = fma_f32(z, q, fma_f32(r, EXP_F32[1], EXP_F32[0]))
    return fma_f32(z, q, r)


@device
def expm1_reduced_f32(x, rounding):
    """(p, b) with e**x = 2**n * (1 + p), |p| < 0.42; |x| is at most a few hundred, or x is NaN.

    `rounding` is one of the ROUNDs, and the low bits of b are n and its bias.
    """
    t = fma_f32(x, LOG2E_F32, rounding)
    n = t - rounding
    r = fma_f32(n, -LN2_LOW_F32, fma_f32(n, -LN2_F32, x))
    return expm1_near_f32(r), bits_f32(t)


@device
def expm1_reduced_f64(x):
    """(p, n) with e**x = 2**n * (1 + p), |p| < 0.42; |x| is at most a few thousand, or x is NaN."""
    t = fma_f64(x, LOG2E_F64, ROUND_F64)
    n = t - ROUND_F64
    r = fma_f64(n, -LN2_LOW_F64, fma_f64(n, -LN2_F64, x))
    q = EXP_F64[10]
    q = fma_f64(q, r, EXP_F64[9])
    q = fma_f64(q, r, EXP_F64[8])
    q = fma_f64(q, r, EXP_F64[7])
    q = fma_f64(q, r, EXP_F64[6])
    q = fma_f64(q, r, EXP_F64[5])
    q = fma_f64(q, r, EXP_F64[4])
    q = fma_f64(q, r, EXP_F64[3])
    q = fma_f64(q, r, EXP_F64[2])
    q = fma_f64(q, r, EXP_F64[1])
    q = fma_f64(q, r, EXP_F64[0])
    return fma_f64(r * r, q, r), bits_f64(t) - ROUND_BITS_F64


@device
def m_exp_f32(x):
    c = f32(89.0) if x > f32(89.0) else x  # comparisons this way round let NaN through
    c = f32(-105.0) if c < f32(-105.0) else c
    p, b = expm1_reduced_f32(c, ROUND_254_F32)
    half = i32(b >> 1)  # of n and of its bias, 254
    s = biased_power_f32(half)
    return fma_f32(s, p, s) * biased_power_f32(i32(b - half))


@device
def m_exp_f64(x):
    c = f64(710.0) if x > f64(710.0) else x
    c = f64(-746.0) if c < f64(-746.0) else c
    p, n = expm1_reduced_f64(c)
    return scale_f64(f64(1.0) + p, n)


@device
def m_exp2_f32(x):
    c = f32(129.0) if x > f32(129.0) else x
    c = f32(-151.0) if c < f32(-151.0) else c
    t = c + ROUND_F32
    r = c - (t - ROUND_F32)
    q = EXP2_F32[4]
    q = fma_f32(q, r, EXP2_F32[3])
    q = fma_f32(q, r, EXP2_F32[2])
    q = fma_f32(q, r, EXP2_F32[1])
    q = fma_f32(q, r, EXP2_F32[0])
    p = fma_f32(r, LN2_F32, fma_f32(r * r, q, r * LN2_LOW_F32))
    return scale_f32(f32(1.0) + p, i32(bits_f32(t) - ROUND_BITS_F32))


@device
def m_exp2_f64(x):
    c = f64(1025.0) if x > f64(1025.0) else x
    c = f64(-1076.0) if c < f64(-1076.0) else c
    t = c + ROUND_F64
    r = c - (t - ROUND_F64)
    q = EXP2_F64[10]
    q = fma_f64(q, r, EXP2_F64[9])
    q = fma_f64(q, r, EXP2_F64[8])
    q = fma_f64(q, r, EXP2_F64[7])
    q = fma_f64(q, r, EXP2_F64[6])
    q = fma_f64(q, r, EXP2_F64[5])
    q = fma_f64(q, r, EXP2_F64[4])
    q = fma_f64(q, r, EXP2_F64[3])
    q = fma_f64(q, r, EXP2_F64[2])
    q = fma_f64(q, r, EXP2_F64[1])
    q = fma_f64(q, r, EXP2_F64[0])
    p = fma_f64(r, LN2_F64, fma_f64(r * r, q, r * LN2_LOW_F64))
    return scale_f64(f64(1.0) + p, bits_f64(t) - ROUND_BITS_F64)


@device
def m_expm1_f32(x):
    c = f32(89.0) if x > f32(89.0) else x
    c = f32(-20.0) if c < f32(-20.0) else c
    p, b = expm1_reduced_f32(c, ROUND_127_F32)
    s = biased_power_f32(i32(b - 1))  # half of 2**n, which for n = 128 would overflow too early
    y = fma_f32(s, p, s - f32(0.5))
    y = y + y
    return x if fabs_f32(x) < f32(2.0**-25) else y  # keeps -0 and every bit of a subnormal


@device
def m_expm1_f64(x):
    c = f64(710.0) if x > f64(710.0) else x
    c = f64(-40.0) if c < f64(-40.0) else c
    p, n = expm1_reduced_f64(c)
    s = power_of_two_f64(n - i64(1))
    y = fma_f64(s, p, s - f64(0.5))
    y = y + y
    return x if fabs_f64(x) < f64(2.0**-54) else y


@device
def m_sigmoid_f32(x):
    """1 / (1 + e**-x), with numerator and denominator times s, about e**(x / 2), so that neither overflows."""
    c = f32(88.0) if x > f32(88.0) else x
    c = f32(-105.0) if c < f32(-105.0) else c
    t = fma_f32(c, -LOG2E_F32, ROUND_254_F32)
    n = t - ROUND_254_F32
    r = fma_f32(n, -LN2_LOW_F32, -fma_f32(n, LN2_F32, c))  # -c - n * ln2, with no negative of c to be made
    b = bits_f32(t)
    half = i32(b >> 1)
    s = float_from_bits_f32(i32(ONE_TWICE_BITS_F32 - i32(half << 23)))
    e = biased_power_f32(i32(b - half))
    return s / (e + fma_f32(e, expm1_near_f32(r), s))


@device
def m_sigmoid_f64(x):
    e = m_exp_f64(-fabs_f64(x))
    top = f64(1.0) if x >= f64(0.0) else e
    d = f64(1.0) + e
    d_low = e - (d - f64(1.0))
    inverse = f64(1.0) / d
    y = top * inverse
    return fma_f64(fma_f64(-y, d, top) - y * d_low, inverse, y)
