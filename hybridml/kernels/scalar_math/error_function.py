"""erf: in float32 by -log(erfc), in float64 an odd polynomial below 1, and 1 - erfc above, right to an ulp of 1."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        LN2_F32,
        LOG2E_F32,
        ROUND_127_F32,
        SIGN_BIT_F32,
        biased_power_f32,
        bits_f32,
        copysign_f64,
        device,
        expm1_near_f32,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        float_from_bits_f32,
        fma_f32,
        fma_f64,
        i32,
        m_exp_f64,
    )

# erf(x) / x - 1 as a polynomial in x**2, |x| <= 1
ERF_F64 = (  # error 2^-56.2
    f64(0.1283791670955126),
    f64(-0.37612638903183754),
    f64(0.11283791670955126),
    f64(-0.026866170645131218),
    f64(0.005223977625441677),
    f64(-0.0008548327023403215),
    f64(0.00012055332978889294),
    f64(-1.4925650237266903e-05),
    f64(1.6462110788244125e-06),
    f64(-1.6365768737210965e-07),
    f64(1.4806027986659083e-08),
    f64(-1.227773957557669e-09),
    f64(9.323740902933152e-11),
    f64(-6.1967593037443465e-12),
    f64(2.806698844343194e-13),
)
# -log(erfc(c)) / c - 1 on 0 <= c <= 3.95; beyond that erf is 1 in float32
ERFC_LOG_F32 = (  # error of erf 2^-26.5
    f32(0.12837917),
    f32(0.63661927),
    f32(0.10277937),
    f32(-0.01916049),
    f32(-0.00014353245),
    f32(0.0016469965),
    f32(-0.00062010455),
    f32(0.00011356071),
    f32(-8.740734e-06),
)
# exp(a**2) * erfc(a) as a polynomial in t = (a - 2) / (a + 2), 1 <= a <= 6; beyond that erf is 1 in float64
ERFCX_F64 = (  # error 2^-59.6
    f64(0.25539567631050575),
    f64(-0.4271858474139584),
    f64(0.24165819424246635),
    f64(-0.07897858101573306),
    f64(0.0037328924043449584),
    f64(0.006997461739287921),
    f64(-0.0008471432520256307),
    f64(-0.000981977030130778),
    f64(4.355563842631857e-05),
    f64(0.0001743612398586036),
    f64(2.7524819004715263e-05),
    f64(-2.7580685026001547e-05),
    f64(-1.3961230602436297e-05),
    f64(1.39682914500756e-06),
    f64(3.7505062713962745e-06),
    f64(1.1734142053520642e-06),
    f64(-4.285207532005645e-07),
    f64(-4.428895406669917e-07),
    f64(-7.816864184251334e-08),
)


@device
def m_erf_f32(x):
    """1 - e**-u with u = -log(erfc(|x|)) = c * (1 + g(c)), without cancellation: 1 - 2**n * (1 + p) = (1 - 2**n) - 2**n * p."""
    a = fabs_f32(x)
    c = f32(3.95) if a > f32(3.95) else a
    z = c * c
    g = fma_f32(z, ERFC_LOG_F32[8], fma_f32(c, ERFC_LOG_F32[7], ERFC_LOG_F32[6]))
    g = fma_f32(z, g, fma_f32(c, ERFC_LOG_F32[5], ERFC_LOG_F32[4]))
    h = fma_f32(z, fma_f32(c, ERFC_LOG_F32[3], ERFC_LOG_F32[2]), fma_f32(c, ERFC_LOG_F32[1], ERFC_LOG_F32[0]))
    g = fma_f32(z * z, g, h)
    u = fma_f32(c, g, c)
    t = fma_f32(u, -LOG2E_F32, ROUND_127_F32)
    p = expm1_near_f32(fma_f32(t - ROUND_127_F32, -LN2_F32, -u))
    e = biased_power_f32(bits_f32(t))
    y = fma_f32(-e, p, f32(1.0) - e)  # not negative, so that x's sign need only be added
    return float_from_bits_f32(i32(bits_f32(y) | (bits_f32(x) & SIGN_BIT_F32)))


@device
def m_erf_f64(x):
    a = fabs_f64(x)
    z = a * a
    q = ERF_F64[14]
    q = fma_f64(q, z, ERF_F64[13])
    q = fma_f64(q, z, ERF_F64[12])
    q = fma_f64(q, z, ERF_F64[11])
    q = fma_f64(q, z, ERF_F64[10])
    q = fma_f64(q, z, ERF_F64[9])
    q = fma_f64(q, z, ERF_F64[8])
    q = fma_f64(q, z, ERF_F64[7])
    q = fma_f64(q, z, ERF_F64[6])
    q = fma_f64(q, z, ERF_F64[5])
    q = fma_f64(q, z, ERF_F64[4])
    q = fma_f64(q, z, ERF_F64[3])
    q = fma_f64(q, z, ERF_F64[2])
    q = fma_f64(q, z, ERF_F64[1])
    q = fma_f64(q, z, ERF_F64[0])
    small = fma_f64(a, q, a)
    c = f64(6.0) if a > f64(6.0) else a
    t = (c - f64(2.0)) / (c + f64(2.0))
    g = ERFCX_F64[18]
    g = fma_f64(g, t, ERFCX_F64[17])
    g = fma_f64(g, t, ERFCX_F64[16])
    g = fma_f64(g, t, ERFCX_F64[15])
    g = fma_f64(g, t, ERFCX_F64[14])
    g = fma_f64(g, t, ERFCX_F64[13])
    g = fma_f64(g, t, ERFCX_F64[12])
    g = fma_f64(g, t, ERFCX_F64[11])
    g = fma_f64(g, t, ERFCX_F64[10])
    g = fma_f64(g, t, ERFCX_F64[9])
    g = fma_f64(g, t, ERFCX_F64[8])
    g = fma_f64(g, t, ERFCX_F64[7])
    g = fma_f64(g, t, ERFCX_F64[6])
    g = fma_f64(g, t, ERFCX_F64[5])
    g = fma_f64(g, t, ERFCX_F64[4])
    g = fma_f64(g, t, ERFCX_F64[3])
    g = fma_f64(g, t, ERFCX_F64[2])
    g = fma_f64(g, t, ERFCX_F64[1])
    g = fma_f64(g, t, ERFCX_F64[0])
    large = f64(1.0) - m_exp_f64(-(c * c)) * g
    return copysign_f64(small if a < f64(1.0) else large, x)
