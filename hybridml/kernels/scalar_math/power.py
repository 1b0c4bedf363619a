"""pow, sqrt, rsqrt, hypot. x**y = 2**(y log2 |x|) with the logarithm in about twice the working precision."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        EXP2_F64,
        INF_F32,
        INF_F64,
        LN2_F64,
        LN2_LOW_F64,
        LOG2E_F64,
        LOG2E_HIGH_F64,
        LOG2E_REST_F64,
        NAN_F32,
        NAN_F64,
        ROUND_BITS_F64,
        ROUND_F64,
        TWO_THIRDS_BITS_F64,
        bits_f32,
        bits_f64,
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        float_from_bits_f64,
        fma_f64,
        i64,
        log_split_f64,
        power_of_two_f64,
        scale_f64,
        sqrt_f32,
        sqrt_f64,
        trunc_f32,
        trunc_f64,
    )

TWO_THIRDS_LOW_F64 = f64(3.700743415417188e-17)
TWO_THIRDS_HIGH_F64 = f64(0.6666666666666666)
# (2 atanh(s) - 2 s) / s**3 as a polynomial in s**2, |s| <= 1/5: good for a float32 result
LOG_SHORT_F64 = (  # error 2^-41.2
    f64(0.6666666671087531),
    f64(0.39999984473497663),
    f64(0.2857319652934991),
    f64(0.2213471754585294),
    f64(0.20126976201023625),
)
# (2 atanh(s) - 2 s - 2/3 s**3) / s**5, as above: the part that needs no more than float64 precision
LOG_TAIL_F64 = (  # error 2^-67.7
    f64(0.3999999999999972),
    f64(0.28571428571579854),
    f64(0.22222222190796811),
    f64(0.18181821566681755),
    f64(0.153844046066047),
    f64(0.13341202502484142),
    f64(0.11591488048260476),
    f64(0.12576789968481555),
)
# (2**r - 1 - r ln2) / r**2 on |r| <= 1/2: good for a float32 result
EXP2_SHORT_F64 = (  # error 2^-34.3
    f64(0.24022651069888512),
    f64(0.055504109305480394),
    f64(0.009618037576686092),
    f64(0.0013333448281454495),
    f64(0.00015466934987030882),
    f64(1.531190209402873e-05),
)


@device
def pow_special_f32(x, y, magnitude):
    """x ** y from |x| ** y: the sign, and NaN for a negative base with an exponent that is no integer."""
    whole = trunc_f32(y) == y  # true for infinities
    half = f32(0.5) * y
    odd = whole & (trunc_f32(half) != half)
    negative = bits_f32(x) < 0
    signed = -magnitude if (negative & odd) else magnitude
    no_power = (x < f32(0.0)) & (x != f32(-INF_F32)) & (not whole)
    result = NAN_F32 if no_power else signed
    result = x + y if ((x != x) | (y != y)) else result
    result = f32(1.0) if ((x == f32(1.0)) | (y == f32(0.0))) else result
    return result


@device
def pow_special_f64(x, y, magnitude):
    """x ** y from |x| ** y; see `pow_special_f32`."""
    whole = trunc_f64(y) == y
    half = f64(0.5) * y
    odd = whole & (trunc_f64(half) != half)
    negative = bits_f64(x) < 0
    signed = -magnitude if (negative & odd) else magnitude
    no_power = (x < f64(0.0)) & (x != f64(-INF_F64)) & (not whole)
    result = NAN_F64 if no_power else signed
    result = x + y if ((x != x) | (y != y)) else result
    result = f64(1.0) if ((x == f64(1.0)) | (y == f64(0.0))) else result
    return result


@device
def m_pow_f32(x, y):
    a = f64(fabs_f32(x))  # a normal number even where x is subnormal
    bits = bits_f64(a)
    k = (bits - TWO_THIRDS_BITS_F64) >> i64(52)
    f = float_from_bits_f64(bits - (k << i64(52))) - f64(1.0)
    s = f / (f64(2.0) + f)
    z = s * s
    q = LOG_SHORT_F64[4]
    q = fma_f64(q, z, LOG_SHORT_F64[3])
    q = fma_f64(q, z, LOG_SHORT_F64[2])
    q = fma_f64(q, z, LOG_SHORT_F64[1])
    q = fma_f64(q, z, LOG_SHORT_F64[0])
    log2 = fma_f64(fma_f64(s * z, q, s + s), LOG2E_F64, f64(k))
    log2 = f64(-INF_F64) if a == f64(0.0) else log2
    log2 = INF_F64 if a == INF_F64 else log2
    t = f64(y) * log2
    t = f64(0.0) if a == f64(1.0) else t  # y may be infinite
    t = f64(200.0) if t > f64(200.0) else t
    t = f64(-200.0) if t < f64(-200.0) else t
    n = t + ROUND_F64
    r = t - (n - ROUND_F64)
    e = EXP2_SHORT_F64[5]
    e = fma_f64(e, r, EXP2_SHORT_F64[4])
    e = fma_f64(e, r, EXP2_SHORT_F64[3])
    e = fma_f64(e, r, EXP2_SHORT_F64[2])
    e = fma_f64(e, r, EXP2_SHORT_F64[1])
    e = fma_f64(e, r, EXP2_SHORT_F64[0])
    e = f64(1.0) + fma_f64(r * r, e, r * LN2_F64)
    # float64 holds 2**200: the cast does the overflow, the underflow and the one rounding.
    return pow_special_f32(x, y, f32(e * power_of_two_f64(bits_f64(n) - ROUND_BITS_F64)))


@device
def log2_extended_f64(k, f):
    """(high, low): k + log2(1 + f) to about 2**-66 of its value, for |f| <= 1/3."""
    d = f64(2.0) + f
    d_low = f - (d - f64(2.0))
    s = f / d
    s_low = (fma_f64(-s, d, f) - s * d_low) / d
    z = s * s
    z_low = fma_f64(s, s, -z) + f64(2.0) * s * s_low
    q = LOG_TAIL_F64[7]
    q = fma_f64(q, z, LOG_TAIL_F64[6])
    q = fma_f64(q, z, LOG_TAIL_F64[5])
    q = fma_f64(q, z, LOG_TAIL_F64[4])
    q = fma_f64(q, z, LOG_TAIL_F64[3])
    q = fma_f64(q, z, LOG_TAIL_F64[2])
    q = fma_f64(q, z, LOG_TAIL_F64[1])
    q = fma_f64(q, z, LOG_TAIL_F64[0])
    # log(1 + f) = 2 s + s**3 * (2/3 + z q)
    tail = z * q
    u = TWO_THIRDS_HIGH_F64 + tail
    u_low = (TWO_THIRDS_HIGH_F64 - u) + tail + TWO_THIRDS_LOW_F64
    v = z * u
    v_low = fma_f64(z, u, -v) + fma_f64(z, u_low, z_low * u)
    w = s * v
    w_low = fma_f64(s, v, -w) + fma_f64(s, v_low, s_low * v)
    double = s + s
    log = double + w
    log_low = ((double - log) + w) + (s_low + s_low + w_low)
    p = log * LOG2E_HIGH_F64
    p_low = fma_f64(log, LOG2E_HIGH_F64, -p) + fma_f64(log, LOG2E_REST_F64, log_low * LOG2E_HIGH_F64)
    n = f64(k)
    total = n + p
    return total, ((n - total) + p) + p_low


@device
def m_pow_f64(x, y):
    a = fabs_f64(x)
    k, f = log_split_f64(a)
    log2, low = log2_extended_f64(k, f)
    plain = a < INF_F64
    log2 = log2 if plain else a
    log2 = f64(-INF_F64) if a == f64(0.0) else log2
    t = y * log2
    t_low = fma_f64(y, log2, -t) + y * low
    t_low = t_low if fabs_f64(t) < f64(1100.0) else f64(0.0)  # NaN beyond
    t = f64(0.0) if a == f64(1.0) else t  # y may be infinite
    t = f64(1100.0) if t > f64(1100.0) else t
    t = f64(-1100.0) if t < f64(-1100.0) else t
    n = t + ROUND_F64
    r = (t - (n - ROUND_F64)) + t_low
    e = EXP2_F64[10]
    e = fma_f64(e, r, EXP2_F64[9])
    e = fma_f64(e, r, EXP2_F64[8])
    e = fma_f64(e, r, EXP2_F64[7])
    e = fma_f64(e, r, EXP2_F64[6])
    e = fma_f64(e, r, EXP2_F64[5])
    e = fma_f64(e, r, EXP2_F64[4])
    e = fma_f64(e, r, EXP2_F64[3])
    e = fma_f64(e, r, EXP2_F64[2])
    e = fma_f64(e, r, EXP2_F64[1])
    e = fma_f64(e, r, EXP2_F64[0])
    e = fma_f64(r, LN2_F64, fma_f64(r * r, e, r * LN2_LOW_F64))
    return pow_special_f64(x, y, scale_f64(f64(1.0) + e, bits_f64(n) - ROUND_BITS_F64))


@device
def m_sqrt_f32(x):
    return sqrt_f32(x)


@device
def m_sqrt_f64(x):
    return sqrt_f64(x)


@device
def m_rsqrt_f32(x):
    return f32(1.0) / sqrt_f32(x)


@device
def m_rsqrt_f64(x):
    return f64(1.0) / sqrt_f64(x)


@device
def m_hypot_f32(x, y):
    a = f64(x)
    b = f64(y)
    infinite = (fabs_f32(x) == INF_F32) | (fabs_f32(y) == INF_F32)
    z = f32(sqrt_f64(fma_f64(a, a, b * b)))
    return INF_F32 if infinite else z


@device
def m_hypot_f64(x, y):
    a = fabs_f64(x)
    b = fabs_f64(y)
    large = a if a > b else b
    infinite = (a == INF_F64) | (b == INF_F64)
    # Powers of two, so scaling is exact and neither square overflows or underflows harmfully.
    factor = f64(2.0**-600) if large > f64(2.0**500) else f64(1.0)
    factor = f64(2.0**600) if large < f64(2.0**-500) else factor
    back = f64(2.0**600) if large > f64(2.0**500) else f64(1.0)
    back = f64(2.0**-600) if large < f64(2.0**-500) else back
    a = a * factor
    b = b * factor
    z = sqrt_f64(fma_f64(a, a, b * b)) * back
    return INF_F64 if infinite else z
