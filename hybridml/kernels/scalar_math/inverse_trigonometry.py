"""asin, acos, atan, atan2: odd polynomials on a small interval, and the identities that lead there."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        INF_F64,
        PIO2_F64,
        bits_f32,
        bits_f64,
        copysign_f32,
        copysign_f64,
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        fma_f32,
        fma_f64,
        sqrt_f32,
        sqrt_f64,
    )

# Half a turn over 2 and over 4, high and low parts.
PIO2_HIGH_F32 = f32(1.5707964)
PIO2_LOW_F32 = f32(-4.371139e-08)
PIO4_HIGH_F32 = f32(0.7853982)
PIO4_LOW_F32 = f32(-2.1855694e-08)
PIO2_LOW_F64 = f64(6.123233995736766e-17)
PIO4_F64 = f64(0.7853981633974483)
PIO4_LOW_F64 = f64(3.061616997868383e-17)
PI_F64 = f64(3.141592653589793)
PI_LOW_F64 = f64(1.2246467991473532e-16)
TAN_PI_8 = 0.41421356
TAN_3PI_8 = 2.4142135

# (atan(t) - t) / t**3 as a polynomial in t**2, |t| <= tan(pi/8)
ATAN_F32 = (  # error 2^-28.8
    f32(-0.33333316),
    f32(0.19998485),
    f32(-0.14243743),
    f32(0.10595171),
    f32(-0.060812287),
)
ATAN_F64 = (  # error 2^-58.5
    f64(-0.33333333333333326),
    f64(0.1999999999999767),
    f64(-0.14285714285388204),
    f64(0.11111111088188487),
    f64(-0.09090908144868422),
    f64(0.07692282765483671),
    f64(-0.06666226847390477),
    f64(0.05877022589683553),
    f64(-0.05218408981546901),
    f64(0.04503566290300881),
    f64(-0.03347481159250203),
    f64(0.015195478366941396),
)
# (asin(s) - s) / s**3 as a polynomial in s**2, |s| <= 1/2
ASIN_F32 = (  # error 2^-27.2
    f32(0.16666754),
    f32(0.074952334),
    f32(0.04547825),
    f32(0.024141429),
    f32(0.042229813),
)
ASIN_F64 = (  # error 2^-58.9
    f64(0.16666666666666763),
    f64(0.07499999999970078),
    f64(0.044642857175303204),
    f64(0.030381942674527002),
    f64(0.022372215925475114),
    f64(0.017351595175032996),
    f64(0.013981022139646117),
    f64(0.011397265761157703),
    f64(0.01078946282968018),
    f64(0.0036716886602437284),
    f64(0.021791769132760735),
    f64(-0.021118196003012717),
    f64(0.03270302171589449),
)


@device
def asin_parts_f32(a):
    """(s, rest, folded): asin(a) = s + rest, or pi/2 - 2 * (s + rest) where folded; a >= 0."""
    folded = a > f32(0.5)
    half = f32(0.5) * (f32(1.0) - a)
    z = half if folded else a * a
    root = sqrt_f32(half)
    s = root if folded else a
    p = ASIN_F32[4]
    p = fma_f32(p, z, ASIN_F32[3])
    p = fma_f32(p, z, ASIN_F32[2])
    p = fma_f32(p, z, ASIN_F32[1])
    p = fma_f32(p, z, ASIN_F32[0])
    return s, s * (z * p), folded


@device
def asin_parts_f64(a):
    """(s, rest, folded): asin(a) = s + rest, or pi/2 - 2 * (s + rest) where folded; a >= 0."""
    folded = a > f64(0.5)
    half = f64(0.5) * (f64(1.0) - a)
    z = half if folded else a * a
    root = sqrt_f64(half)
    s = root if folded else a
    p = ASIN_F64[12]
    p = fma_f64(p, z, ASIN_F64[11])
    p = fma_f64(p, z, ASIN_F64[10])
    p = fma_f64(p, z, ASIN_F64[9])
    p = fma_f64(p, z, ASIN_F64[8])
    p = fma_f64(p, z, ASIN_F64[7])
    p = fma_f64(p, z, ASIN_F64[6])
    p = fma_f64(p, z, ASIN_F64[5])
    p = fma_f64(p, z, ASIN_F64[4])
    p = fma_f64(p, z, ASIN_F64[3])
    p = fma_f64(p, z, ASIN_F64[2])
    p = fma_f64(p, z, ASIN_F64[1])
    p = fma_f64(p, z, ASIN_F64[0])
    return s, s * (z * p), folded


@device
def m_asin_f32(x):
    s, rest, folded = asin_parts_f32(fabs_f32(x))
    double = s + s
    main = PIO2_HIGH_F32 - double
    lost = (PIO2_HIGH_F32 - main) - double
    far = main + (lost + (PIO2_LOW_F32 - (rest + rest)))
    return copysign_f32(far if folded else s + rest, x)


@device
def m_asin_f64(x):
    s, rest, folded = asin_parts_f64(fabs_f64(x))
    double = s + s
    main = PIO2_F64 - double
    lost = (PIO2_F64 - main) - double
    far = main + (lost + (PIO2_LOW_F64 - (rest + rest)))
    return copysign_f64(far if folded else s + rest, x)


@device
def m_acos_f32(x):
    s, rest, folded = asin_parts_f32(fabs_f32(x))
    negative = x < f32(0.0)
    rest = -rest if (negative & (not folded)) else rest
    s = -s if (negative & (not folded)) else s
    middle = PIO2_HIGH_F32 - (s - (PIO2_LOW_F32 - rest))
    near = s + rest
    back = PIO2_HIGH_F32 - (s + (rest - PIO2_LOW_F32))
    end = back + back if negative else near + near
    return end if folded else middle


@device
def m_acos_f64(x):
    s, rest, folded = asin_parts_f64(fabs_f64(x))
    negative = x < f64(0.0)
    rest = -rest if (negative & (not folded)) else rest
    s = -s if (negative & (not folded)) else s
    middle = PIO2_F64 - (s - (PIO2_LOW_F64 - rest))
    near = s + rest
    back = PIO2_F64 - (s + (rest - PIO2_LOW_F64))
    end = back + back if negative else near + near
    return end if folded else middle


@device
def m_atan_f32(x):
    a = fabs_f32(x)
    steep = a > f32(TAN_3PI_8)  # pi/2 + atan(-1 / a)
    middle = a > f32(TAN_PI_8)  # pi/4 + atan((a - 1) / (a + 1))
    top = a - f32(1.0) if middle else a
    bottom = a + f32(1.0) if middle else f32(1.0)
    base = PIO4_HIGH_F32 if middle else f32(0.0)
    low = PIO4_LOW_F32 if middle else f32(0.0)
    top = f32(-1.0) if steep else top
    bottom = a if steep else bottom
    base = PIO2_HIGH_F32 if steep else base
    low = PIO2_LOW_F32 if steep else low
    t = top / bottom
    z = t * t
    p = ATAN_F32[4]
    p = fma_f32(p, z, ATAN_F32[3])
    p = fma_f32(p, z, ATAN_F32[2])
    p = fma_f32(p, z, ATAN_F32[1])
    p = fma_f32(p, z, ATAN_F32[0])
    return copysign_f32(base + (t + fma_f32(t * z, p, low)), x)


@device
def m_atan_f64(x):
    a = fabs_f64(x)
    steep = a > f64(TAN_3PI_8)
    middle = a > f64(TAN_PI_8)
    top = a - f64(1.0) if middle else a
    bottom = a + f64(1.0) if middle else f64(1.0)
    base = PIO4_F64 if middle else f64(0.0)
    low = PIO4_LOW_F64 if middle else f64(0.0)
    top = f64(-1.0) if steep else top
    bottom = a if steep else bottom
    base = PIO2_F64 if steep else base
    low = PIO2_LOW_F64 if steep else low
    t = top / bottom
    z = t * t
    p = ATAN_F64[11]
    p = fma_f64(p, z, ATAN_F64[10])
    p = fma_f64(p, z, ATAN_F64[9])
    p = fma_f64(p, z, ATAN_F64[8])
    p = fma_f64(p, z, ATAN_F64[7])
    p = fma_f64(p, z, ATAN_F64[6])
    p = fma_f64(p, z, ATAN_F64[5])
    p = fma_f64(p, z, ATAN_F64[4])
    p = fma_f64(p, z, ATAN_F64[3])
    p = fma_f64(p, z, ATAN_F64[2])
    p = fma_f64(p, z, ATAN_F64[1])
    p = fma_f64(p, z, ATAN_F64[0])
    return copysign_f64(base + (t + fma_f64(t * z, p, low)), x)


@device
def m_atan2_f32(y, x):
    """The angle of the point (x, y); float64 inside, so that no quotient or sum over- or underflows."""
    a = f64(fabs_f32(y))
    b = f64(fabs_f32(x))
    over = a > b
    small = b if over else a
    large = a if over else b
    both_infinite = small == INF_F64
    small = f64(1.0) if both_infinite else small
    large = f64(1.0) if (both_infinite | (large == f64(0.0))) else large
    middle = small > f64(TAN_PI_8) * large
    t = (small - large if middle else small) / (small + large if middle else large)
    base = PIO4_F64 if middle else f64(0.0)
    z = t * t
    p = f64(ATAN_F32[4])
    p = fma_f64(p, z, f64(ATAN_F32[3]))
    p = fma_f64(p, z, f64(ATAN_F32[2]))
    p = fma_f64(p, z, f64(ATAN_F32[1]))
    p = fma_f64(p, z, f64(ATAN_F32[0]))
    angle = base + fma_f64(t * z, p, t)
    angle = PIO2_F64 - angle if over else angle
    angle = PI_F64 - angle if bits_f32(x) < 0 else angle
    unordered = (x != x) | (y != y)
    return x + y if unordered else copysign_f32(f32(angle), y)


@device
def m_atan2_f64(y, x):
    """The angle of the point (x, y)."""
    a = fabs_f64(y)
    b = fabs_f64(x)
    over = a > b
    small = b if over else a
    large = a if over else b
    both_infinite = small == INF_F64
    small = f64(1.0) if both_infinite else small
    large = f64(1.0) if (both_infinite | (large == f64(0.0))) else large
    # Away from the ends of the range: the sum below must not overflow, nor the parts be subnormal.
    factor = f64(2.0**-2) if large > f64(2.0**1000) else f64(1.0)
    factor = f64(2.0**200) if large < f64(2.0**-800) else factor
    small = small * factor
    large = large * factor
    middle = small > f64(TAN_PI_8) * large
    t = (small - large if middle else small) / (small + large if middle else large)
    base = PIO4_F64 if middle else f64(0.0)
    low = PIO4_LOW_F64 if middle else f64(0.0)
    z = t * t
    p = ATAN_F64[11]
    p = fma_f64(p, z, ATAN_F64[10])
    p = fma_f64(p, z, ATAN_F64[9])
    p = fma_f64(p, z, ATAN_F64[8])
    p = fma_f64(p, z, ATAN_F64[7])
    p = fma_f64(p, z, ATAN_F64[6])
    p = fma_f64(p, z, ATAN_F64[5])
    p = fma_f64(p, z, ATAN_F64[4])
    p = fma_f64(p, z, ATAN_F64[3])
    p = fma_f64(p, z, ATAN_F64[2])
    p = fma_f64(p, z, ATAN_F64[1])
    p = fma_f64(p, z, ATAN_F64[0])
    rest = fma_f64(t * z, p, low)
    # The signs of base, t and rest follow the octant: base is a multiple of pi/4 with its low part in rest.
    turned = PIO2_F64 - base
    rest = PIO2_LOW_F64 - rest if over else rest
    t = -t if over else t
    base = turned if over else base
    backward = bits_f64(x) < 0
    turned = PI_F64 - base
    rest = PI_LOW_F64 - rest if backward else rest
    t = -t if backward else t
    base = turned if backward else base
    unordered = (x != x) | (y != y)
    return x + y if unordered else copysign_f64(base + (t + rest), y)
