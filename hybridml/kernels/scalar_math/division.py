"""floor_divide and remainder of floating-point numbers, rounded exactly where NumPy rounds."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        INF_F32,
        NAN_F64,
        bits_f64,
        copysign_f32,
        copysign_f64,
        device,
        f32,
        f64,
        fabs_f32,
        float_from_bits_f64,
        floor_f32,
        floor_f64,
        fma_f64,
        fmod_f64,
        i64,
        trunc_f64,
    )

# Keeps 25 significant bits of a float64: times a float32 that is exact in float64.
TOP_25_BITS = i64(-(1 << 28))


@device
def fmod_step(r, inverse, b):
    """r minus a multiple of b, exactly: the multiple is r / b cut to 25 bits."""
    q = float_from_bits_f64(bits_f64(r * inverse) & TOP_25_BITS)
    q = trunc_f64(q)
    return fma_f64(-q, b, r)


@device
def remainder_exact_f32(x, y):
    """x - trunc(x / y) * y as an exact float64, with the sign of x (zero may have either).

    The quotient of two float32 numbers has at most 277 bits and each step takes off 24, so thirteen steps
    always do.
    """
    a = fabs_f32(x)
    b = fabs_f32(y)
    d = f64(b)
    inverse = f64(1.0) / d
    r = f64(a)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    r = fmod_step(r, inverse, d)
    # The inverse is rounded, so the last quotient may be one off either way.
    r = r + d if r < f64(0.0) else r
    r = r - d if r >= d else r
    r = f64(a) if (b == INF_F32) & (a < INF_F32) else r
    r = f64(NAN_F64) if (a == INF_F32) | (b == f32(0.0)) | (x != x) | (y != y) else r
    return -r if x < f32(0.0) else r


@device
def m_divide_f32(x, y):
    """x / y, for kernels that may take an approximation in its place."""
    return x / y


@device
def m_remainder_f32(x, y):
    """x - floor(x / y) * y, with the sign of y; NaN where y is 0."""
    r = remainder_exact_f32(x, y)
    d = f64(y)
    opposite = (r != f64(0.0)) & ((r < f64(0.0)) != (d < f64(0.0)))
    moved = f32(f32(r) + y)
    z = moved if opposite else f32(r)
    return copysign_f32(f32(0.0), y) if r == f64(0.0) else z


@device
def m_floor_divide_f32(x, y):
    """floor(x / y), from the exact remainder; x / y (an infinity or NaN) where y is 0."""
    r = remainder_exact_f32(x, y)
    opposite = (r != f64(0.0)) & ((r < f64(0.0)) != (y < f32(0.0)))
    quotient = (x - f32(r)) / y
    quotient = quotient - f32(1.0) if opposite else quotient
    below = floor_f32(quotient)
    below = below + f32(1.0) if quotient - below > f32(0.5) else below
    plain = x / y
    z = copysign_f32(f32(0.0), plain) if quotient == f32(0.0) else below
    return plain if y == f32(0.0) else z


@device
def m_remainder_f64(x, y):
    """x - floor(x / y) * y, with the sign of y; NaN where y is 0. Calls C's fmod: exact, not vectorised."""
    r = fmod_f64(x, y)
    opposite = (r != f64(0.0)) & ((r < f64(0.0)) != (y < f64(0.0)))
    z = r + y if opposite else r
    return copysign_f64(f64(0.0), y) if r == f64(0.0) else z


@device
def m_floor_divide_f64(x, y):
    """floor(x / y), from the exact remainder; x / y (an infinity or NaN) where y is 0."""
    r = fmod_f64(x, y)
    opposite = (r != f64(0.0)) & ((r < f64(0.0)) != (y < f64(0.0)))
    quotient = (x - r) / y
    quotient = quotient - f64(1.0) if opposite else quotient
    below = floor_f64(quotient)
    below = below + f64(1.0) if quotient - below > f64(0.5) else below
    plain = x / y
    z = copysign_f64(f64(0.0), plain) if quotient == f64(0.0) else below
    return plain if y == f64(0.0) else z
