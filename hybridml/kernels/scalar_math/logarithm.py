"""log, log2, log10, log1p, logaddexp: x = 2**k * (1 + f) with 1 + f in [2/3, 4/3): nothing cancels near 1."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        INF_F32,
        INF_F64,
        LN2_F32,
        LN2_F64,
        NAN_F32,
        NAN_F64,
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
        m_exp_f32,
        m_exp_f64,
        power_of_two_f32,
        power_of_two_f64,
    )

TWO_THIRDS_BITS_F32 = i32(0x3F2AAAAB)
TWO_THIRDS_BITS_F64 = i64(0x3FE5555555555555)
# The high parts end in enough zero bits to make k * high exact.
LN2_HIGH_F32 = f32(0.69314575)
LN2_REST_F32 = f32(1.4286068e-06)
LN2_HIGH_F64 = f64(0.693147180559663)
LN2_REST_F64 = f64(2.8235290563031577e-13)
LOG10_2_HIGH_F32 = f32(0.3010254)
LOG10_2_REST_F32 = f32(4.605039e-06)
LOG10_2_HIGH_F64 = f64(0.30102999566383914)
LOG10_2_REST_F64 = f64(1.42050232272661e-13)
LOG2E_HIGH_F32 = f32(1.442695)
LOG2E_REST_F32 = f32(1.925963e-08)
LOG2E_HIGH_F64 = f64(1.4426950408889634)
LOG2E_REST_F64 = f64(2.0355273740931033e-17)
LOG10E_HIGH_F32 = f32(0.4342945)
LOG10E_REST_F32 = f32(-1.010305e-08)
LOG10E_HIGH_F64 = f64(0.4342944819032518)
LOG10E_REST_F64 = f64(1.098319650216765e-17)

# (log(1 + f) - f + f**2 / 2) / f**3 on |f| <= 1/3
LOG_F32 = (  # error 2^-28.6
    f32(0.33333337),
    f32(-0.2499982),
    f32(0.19999306),
    f32(-0.16679616),
    f32(0.1431287),
    f32(-0.12195295),
    f32(0.10660963),
    f32(-0.12847055),
    f32(0.12359626),
)
# (2 atanh(s) - 2 s) / s**3 as a polynomial in s**2, where s = f / (2 + f), |s| <= 1/5
LOG_F64 = (  # error 2^-60.9
    f64(0.666666666666666),
    f64(0.4000000000005694),
    f64(0.28571428555771566),
    f64(0.2222222430241588),
    f64(0.18181665538741984),
    f64(0.15391122501053564),
    f64(0.13173427470348786),
    f64(0.1384417414365207),
)


@device
def log_split_f32(x):
    """(k, f) with x = 2**k * (1 + f), for x > 0 (any other x gives some finite k and f)."""
    tiny = x < f32(2.0**-126)
    y = x * f32(2.0**23) if tiny else x
    bits = bits_f32(y)
    k = i32(i32(bits - TWO_THIRDS_BITS_F32) >> 23)
    f = float_from_bits_f32(i32(bits - i32(k << 23))) - f32(1.0)
    return i32(k - 23) if tiny else k, f


@device
def log_split_f64(x):
    """(k, f) with x = 2**k * (1 + f), for x > 0 (any other x gives some finite k and f)."""
    tiny = x < f64(2.0**-1022)
    y = x * f64(2.0**52) if tiny else x
    bits = bits_f64(y)
    k = (bits - TWO_THIRDS_BITS_F64) >> i64(52)
    f = float_from_bits_f64(bits - (k << i64(52))) - f64(1.0)
    return k - i64(52) if tiny else k, f


@device
def log1p_rest_f32(f):
    """log(1 + f) - f for |f| <= 1/3."""
    q = LOG_F32[8]
    q = fma_f32(q, f, LOG_F32[7])
    q = fma_f32(q, f, LOG_F32[6])
    q = fma_f32(q, f, LOG_F32[5])
    q = fma_f32(q, f, LOG_F32[4])
    q = fma_f32(q, f, LOG_F32[3])
    q = fma_f32(q, f, LOG_F32[2])
    q = fma_f32(q, f, LOG_F32[1])
    q = fma_f32(q, f, LOG_F32[0])
    return f * f * fma_f32(q, f, f32(-0.5))


@device
def log1p_split_f64(f):
    """(high, low) with high + low = log(1 + f) for |f| <= 1/3: high is f - f*f/2 rounded."""
    s = f / (f64(2.0) + f)
    z = s * s
    q = LOG_F64[7]
    q = fma_f64(q, z, LOG_F64[6])
    q = fma_f64(q, z, LOG_F64[5])
    q = fma_f64(q, z, LOG_F64[4])
    q = fma_f64(q, z, LOG_F64[3])
    q = fma_f64(q, z, LOG_F64[2])
    q = fma_f64(q, z, LOG_F64[1])
    q = fma_f64(q, z, LOG_F64[0])
    half = f64(0.5) * f * f
    high = f - half
    return high, (f - high) - half + s * fma_f64(z, q, half)


@device
def log_from_parts_f32(k, f):
    n = f32(k)
    return fma_f32(n, LN2_HIGH_F32, f + fma_f32(n, LN2_REST_F32, log1p_rest_f32(f)))


@device
def log_from_parts_f64(k, f):
    n = f64(k)
    s = f / (f64(2.0) + f)
    z = s * s
    q = LOG_F64[7]
    q = fma_f64(q, z, LOG_F64[6])
    q = fma_f64(q, z, LOG_F64[5])
    q = fma_f64(q, z, LOG_F64[4])
    q = fma_f64(q, z, LOG_F64[3])
    q = fma_f64(q, z, LOG_F64[2])
    q = fma_f64(q, z, LOG_F64[1])
    q = fma_f64(q, z, LOG_F64[0])
    half = f64(0.5) * f * f
    low = fma_f64(n, LN2_REST_F64, s * fma_f64(z, q, half))
    return fma_f64(n, LN2_HIGH_F64, f - (half - low))


@device
def log_special_f32(x, y):
    """y, the logarithm of x, put right at inf, 0, below 0 and NaN."""
    outside = f32(-INF_F32) if x == f32(0.0) else NAN_F32
    y = y if x > f32(0.0) else outside
    return x if x == INF_F32 else y


@device
def log_special_f64(x, y):
    outside = f64(-INF_F64) if x == f64(0.0) else NAN_F64
    y = y if x > f64(0.0) else outside
    return x if x == INF_F64 else y


@device
def m_log_f32(x):
    k, f = log_split_f32(x)
    return log_special_f32(x, log_from_parts_f32(k, f))


@device
def m_log_f64(x):
    k, f = log_split_f64(x)
    return log_special_f64(x, log_from_parts_f64(k, f))


@device
def log_base_f32(f, high, rest, whole, fraction):
    """whole + fraction + log(1 + f) * (high + rest), with one rounding that matters; |whole| >= 0.3 or 0."""
    p = f * high
    low = fma_f32(f, high, -p) + fma_f32(f, rest, log1p_rest_f32(f) * high)
    total = whole + p
    return total + (((whole - total) + p) + (low + fraction))


@device
def log_base_f64(f, high, rest, whole, fraction):
    a, b = log1p_split_f64(f)
    p = a * high
    low = fma_f64(a, high, -p) + fma_f64(a, rest, b * high)
    total = whole + p
    return total + (((whole - total) + p) + (low + fraction))


@device
def m_log2_f32(x):
    k, f = log_split_f32(x)
    return log_special_f32(x, log_base_f32(f, LOG2E_HIGH_F32, LOG2E_REST_F32, f32(k), f32(0.0)))


@device
def m_log2_f64(x):
    k, f = log_split_f64(x)
    return log_special_f64(x, log_base_f64(f, LOG2E_HIGH_F64, LOG2E_REST_F64, f64(k), f64(0.0)))


@device
def m_log10_f32(x):
    k, f = log_split_f32(x)
    n = f32(k)
    y = log_base_f32(f, LOG10E_HIGH_F32, LOG10E_REST_F32, n * LOG10_2_HIGH_F32, n * LOG10_2_REST_F32)
    return log_special_f32(x, y)


@device
def m_log10_f64(x):
    k, f = log_split_f64(x)
    n = f64(k)
    y = log_base_f64(f, LOG10E_HIGH_F64, LOG10E_REST_F64, n * LOG10_2_HIGH_F64, n * LOG10_2_REST_F64)
    return log_special_f64(x, y)


@device
def m_log1p_f32(x):
    u = f32(1.0) + x
    bits = bits_f32(u)
    k = i32(i32(bits - TWO_THIRDS_BITS_F32) >> 23)
    # f = (1 + x) / 2**k - 1 from x itself, for u has lost its low bits; above 2**60 no matter.
    scale = power_of_two_f32(i32(-k))
    near = fma_f32(scale, x, scale - f32(1.0))
    far = float_from_bits_f32(i32(bits - i32(k << 23))) - f32(1.0)
    y = log_from_parts_f32(k, far if k > 60 else near)
    outside = f32(-INF_F32) if x == f32(-1.0) else NAN_F32
    y = y if x > f32(-1.0) else outside
    y = x if fabs_f32(x) < f32(2.0**-25) else y
    return x if x == INF_F32 else y


@device
def m_log1p_f64(x):
    u = f64(1.0) + x
    bits = bits_f64(u)
    k = (bits - TWO_THIRDS_BITS_F64) >> i64(52)
    scale = power_of_two_f64(-k)
    near = fma_f64(scale, x, scale - f64(1.0))
    far = float_from_bits_f64(bits - (k << i64(52))) - f64(1.0)
    y = log_from_parts_f64(k, far if k > 100 else near)
    outside = f64(-INF_F64) if x == f64(-1.0) else NAN_F64
    y = y if x > f64(-1.0) else outside
    y = x if fabs_f64(x) < f64(2.0**-54) else y
    return x if x == INF_F64 else y


@device
def m_logaddexp_f32(x, y):
    """log(e**x + e**y) without overflow."""
    high = x if x >= y else y
    z = high + m_log1p_f32(m_exp_f32(-fabs_f32(x - y)))
    z = x + LN2_F32 if x == y else z  # also where both are the same infinity
    unordered = (x != x) | (y != y)
    return x + y if unordered else z


@device
def m_logaddexp_f64(x, y):
    """log(e**x + e**y) without overflow."""
    high = x if x >= y else y
    z = high + m_log1p_f64(m_exp_f64(-fabs_f64(x - y)))
    z = x + LN2_F64 if x == y else z
    unordered = (x != x) | (y != y)
    return x + y if unordered else z
