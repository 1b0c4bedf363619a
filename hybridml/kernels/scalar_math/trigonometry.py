"""sin, cos, tan of the reduced argument; see `argument_reduction`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        fma_f32,
        fma_f64,
        i64,
        reduce_f32,
        reduce_f64,
    )

# (sin(r) - r) / r**3 and (cos(r) - 1 + r**2 / 2) / r**4 as polynomials in r**2, |r| <= pi/4
SIN_F32 = (  # error 2^-27.3
    f32(-0.16666655),
    f32(0.008332173),
    f32(-0.00019516652),
)
COS_F32 = (  # error 2^-31.0
    f32(0.041666646),
    f32(-0.0013887362),
    f32(2.4437757e-05),
)
SIN_F64 = (  # error 2^-56.8
    f64(-0.16666666666666632),
    f64(0.008333333333322316),
    f64(-0.00019841269829725912),
    f64(2.7557313662334277e-06),
    f64(-2.5050753312139967e-08),
    f64(1.5896507930074328e-10),
)
COS_F64 = (  # error 2^-59.5
    f64(0.0416666666666666),
    f64(-0.0013888888888873992),
    f64(2.4801587289395967e-05),
    f64(-2.7557314326270964e-07),
    f64(2.0875719584101213e-09),
    f64(-1.1359449684479013e-11),
)


@device
def sin_poly_f32(r):
    z = r * r
    p = SIN_F32[2]
    p = fma_f32(p, z, SIN_F32[1])
    p = fma_f32(p, z, SIN_F32[0])
    return fma_f32(r * z, p, r)


@device
def cos_poly_f32(r):
    z = r * r
    p = COS_F32[2]
    p = fma_f32(p, z, COS_F32[1])
    p = fma_f32(p, z, COS_F32[0])
    return fma_f32(z, fma_f32(z, p, f32(-0.5)), f32(1.0))


@device
def sin_poly_f64(r, rest):
    z = r * r
    p = SIN_F64[5]
    p = fma_f64(p, z, SIN_F64[4])
    p = fma_f64(p, z, SIN_F64[3])
    p = fma_f64(p, z, SIN_F64[2])
    p = fma_f64(p, z, SIN_F64[1])
    p = fma_f64(p, z, SIN_F64[0])
    return r + fma_f64(r * z, p, fma_f64(f64(-0.5) * z, rest, rest))


@device
def cos_poly_f64(r, rest):
    z = r * r
    p = COS_F64[5]
    p = fma_f64(p, z, COS_F64[4])
    p = fma_f64(p, z, COS_F64[3])
    p = fma_f64(p, z, COS_F64[2])
    p = fma_f64(p, z, COS_F64[1])
    p = fma_f64(p, z, COS_F64[0])
    half = f64(0.5) * z
    w = f64(1.0) - half
    return w + (((f64(1.0) - w) - half) + fma_f64(z * z, p, -(r * rest)))


@device
def sin_of_quarter_f32(r, q):
    """sin(q * pi/2 + r) for |r| <= pi/4; q counts modulo 4."""
    s = sin_poly_f32(r)
    c = cos_poly_f32(r)
    y = c if (q & i64(1)) != i64(0) else s
    return -y if (q & i64(2)) != i64(0) else y


@device
def sin_of_quarter_f64(r, rest, q):
    """sin(q * pi/2 + r + rest) for |r| <= pi/4; q counts modulo 4."""
    s = sin_poly_f64(r, rest)
    c = cos_poly_f64(r, rest)
    y = c if (q & i64(1)) != i64(0) else s
    return -y if (q & i64(2)) != i64(0) else y


@device
def m_sin_f32(x):
    r, q = reduce_f32(x)
    y = sin_of_quarter_f32(f32(r), q)
    return x if fabs_f32(x) < f32(2.0**-13) else y  # keeps -0


@device
def m_cos_f32(x):
    r, q = reduce_f32(x)
    return sin_of_quarter_f32(f32(r), q + i64(1))


@device
def m_tan_f32(x):
    r, q = reduce_f32(x)
    z = r * r  # float64 throughout: two float32 errors and a quotient would not stay within 2 ulp
    s = SIN_F64[5]
    s = fma_f64(s, z, SIN_F64[4])
    s = fma_f64(s, z, SIN_F64[3])
    s = fma_f64(s, z, SIN_F64[2])
    s = fma_f64(s, z, SIN_F64[1])
    s = fma_f64(s, z, SIN_F64[0])
    c = COS_F64[5]
    c = fma_f64(c, z, COS_F64[4])
    c = fma_f64(c, z, COS_F64[3])
    c = fma_f64(c, z, COS_F64[2])
    c = fma_f64(c, z, COS_F64[1])
    c = fma_f64(c, z, COS_F64[0])
    s = fma_f64(r * z, s, r)
    c = fma_f64(z, fma_f64(z, c, f64(-0.5)), f64(1.0))
    odd = (q & i64(1)) != i64(0)
    y = f32((-c if odd else s) / (s if odd else c))
    return x if fabs_f32(x) < f32(2.0**-13) else y


@device
def m_sin_f64(x):
    r, rest, q = reduce_f64(x)
    y = sin_of_quarter_f64(r, rest, q)
    return x if fabs_f64(x) < f64(2.0**-27) else y


@device
def m_cos_f64(x):
    r, rest, q = reduce_f64(x)
    return sin_of_quarter_f64(r, rest, q + i64(1))


@device
def m_tan_f64(x):
    r, rest, q = reduce_f64(x)
    s = sin_poly_f64(r, rest)
    c = cos_poly_f64(r, rest)
    odd = (q & i64(1)) != i64(0)
    y = (-c if odd else s) / (s if odd else c)
    return x if fabs_f64(x) < f64(2.0**-27) else y
