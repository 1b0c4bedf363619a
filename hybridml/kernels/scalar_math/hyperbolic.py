"""tanh, sinh, cosh: an odd polynomial near zero, where exponentials would cancel; exponentials elsewhere."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        ROUND_127_F32,
        ROUND_254_F32,
        biased_power_f32,
        copysign_f32,
        copysign_f64,
        device,
        expm1_reduced_f32,
        expm1_reduced_f64,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        fma_f32,
        fma_f64,
        i32,
        i64,
        m_expm1_f64,
        power_of_two_f64,
    )

# (tanh(x) - x) / x**3 as a polynomial in x**2, |x| <= 0.55
TANH_F32 = (  # error 2^-27.5
    f32(-0.3333332),
    f32(0.13332601),
    f32(-0.05385377),
    f32(0.021077354),
    f32(-0.0062818527),
)
# (sinh(x) - x) / x**3 as a polynomial in x**2, |x| <= 1
SINH_F32 = (  # error 2^-27.1
    f32(0.16666667),
    f32(0.008333351),
    f32(0.00019835962),
    f32(2.8180627e-06),
)


@device
def m_tanh_f32(x):
    a = fabs_f32(x)
    z = a * a
    q = TANH_F32[4]
    q = fma_f32(q, z, TANH_F32[3])
    q = fma_f32(q, z, TANH_F32[2])
    q = fma_f32(q, z, TANH_F32[1])
    q = fma_f32(q, z, TANH_F32[0])
    small = fma_f32(a * z, q, a)
    c = f32(10.0) if a > f32(10.0) else a
    p, b = expm1_reduced_f32(c + c, ROUND_127_F32)
    e = biased_power_f32(b)
    large = f32(1.0) - f32(2.0) / (fma_f32(e, p, e) + f32(1.0))
    return copysign_f32(small if a < f32(0.55) else large, x)


@device
def m_tanh_f64(x):
    a = fabs_f64(x)
    c = f64(22.0) if a > f64(22.0) else a
    t = m_expm1_f64(c + c)
    y = t / (t + f64(2.0))
    return copysign_f64(a if a < f64(2.0**-28) else y, x)


@device
def half_exp_f32(a):
    """e**a / 2 without overflow before the result itself overflows; a >= 0 or NaN."""
    c = f32(91.0) if a > f32(91.0) else a
    p, b = expm1_reduced_f32(c, ROUND_254_F32)
    half = i32(b >> 1)
    s = biased_power_f32(half)
    return fma_f32(s, p, s) * biased_power_f32(i32(i32(b - half) - 1))


@device
def m_sinh_f32(x):
    a = fabs_f32(x)
    z = a * a
    q = SINH_F32[3]
    q = fma_f32(q, z, SINH_F32[2])
    q = fma_f32(q, z, SINH_F32[1])
    q = fma_f32(q, z, SINH_F32[0])
    small = fma_f32(a * z, q, a)
    e = half_exp_f32(a)
    large = e - f32(0.25) / e
    return copysign_f32(small if a < f32(1.0) else large, x)


@device
def m_cosh_f32(x):
    e = half_exp_f32(fabs_f32(x))
    return e + f32(0.25) / e


@device
def quarter_expm1_f64(a):
    """(e**a - 1) / 4 without overflow before sinh(a) overflows; a >= 0 or NaN."""
    c = f64(710.6) if a > f64(710.6) else a
    p, n = expm1_reduced_f64(c)
    s = power_of_two_f64(n - i64(2))
    return fma_f64(s, p, s - f64(0.25))


@device
def m_sinh_f64(x):
    a = fabs_f64(x)
    t = quarter_expm1_f64(a)
    y = t + f64(0.25) * (t / (t + f64(0.25)))  # half of sinh
    y = y + y
    y = a if a < f64(2.0**-28) else y
    return copysign_f64(y, x)


@device
def m_cosh_f64(x):
    e = quarter_expm1_f64(fabs_f64(x)) + f64(0.25)
    y = e + f64(0.0625) / e
    return y + y
