"""abs, sign, floor, ceil, round, trunc, maximum, minimum of floating-point numbers, as NumPy defines them; rounding to half precision."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import (  # fmt: skip
        ceil_f32,
        ceil_f64,
        device,
        f32,
        f64,
        fabs_f32,
        fabs_f64,
        floor_f32,
        floor_f64,
        nearest_bf16,
        nearest_f16,
        rint_f32,
        rint_f64,
        trunc_f32,
        trunc_f64,
    )


@device
def m_abs_f32(x):
    return fabs_f32(x)


@device
def m_abs_f64(x):
    return fabs_f64(x)


@device
def m_sign_f32(x):
    """-1, 0 or 1; NaN for NaN."""
    y = f32(1.0) if x > f32(0.0) else f32(0.0)
    y = f32(-1.0) if x < f32(0.0) else y
    return x if x != x else y


@device
def m_sign_f64(x):
    """-1, 0 or 1; NaN for NaN."""
    y = f64(1.0) if x > f64(0.0) else f64(0.0)
    y = f64(-1.0) if x < f64(0.0) else y
    return x if x != x else y


@device
def m_floor_f32(x):
    return floor_f32(x)


@device
def m_floor_f64(x):
    return floor_f64(x)


@device
def m_ceil_f32(x):
    return ceil_f32(x)


@device
def m_ceil_f64(x):
    return ceil_f64(x)


@device
def m_round_f32(x):
    """The nearest integer; halves go to the even one."""
    return rint_f32(x)


@device
def m_round_f64(x):
    """The nearest integer; halves go to the even one."""
    return rint_f64(x)


@device
def m_trunc_f32(x):
    return trunc_f32(x)


@device
def m_trunc_f64(x):
    return trunc_f64(x)


@device
def m_maximum_f32(x, y):
    """The larger one; NaN if either is."""
    return x if (x >= y) | (x != x) else y


@device
def m_maximum_f64(x, y):
    """The larger one; NaN if either is."""
    return x if (x >= y) | (x != x) else y


@device
def m_minimum_f32(x, y):
    """The smaller one; NaN if either is."""
    return x if (x <= y) | (x != x) else y


@device
def m_minimum_f64(x, y):
    """The smaller one; NaN if either is."""
    return x if (x <= y) | (x != x) else y


@device
def m_nearest_f16(x):
    """The nearest float16, as a float32."""
    return nearest_f16(x)


@device
def m_nearest_bf16(x):
    """The nearest bfloat16, as a float32."""
    return nearest_bf16(x)
