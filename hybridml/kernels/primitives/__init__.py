"""What each target must supply before the scalar math can be executed for it.

The names, the same in `cpu`, `cuda` and `python`; the scalar math uses these and plain arithmetic, and
nothing else:

- `device`: decorator that turns a Python function into one the target's kernels can call (and inline);
- `f32 f64 i8 i16 i32 i64 u8 u16 u32 u64`: casts (a cast to a narrower integer keeps the low bits);
- `bits_f32(x) -> i32`, `float_from_bits_f32(i32) -> f32`, and `_f64` with `i64`: the same bits under the
  other type;
- `fma_f32(a, b, c)`, `fma_f64`: a * b + c rounded once;
- `nearest_f16(x)`, `nearest_bf16(x)`: a float32 rounded to the nearest number of half precision, as a float32;
- `sqrt_`, `floor_`, `ceil_`, `rint_` (half to even), `trunc_`, `fabs_`, `copysign_`, `fmod_`, each `_f32` and
  `_f64`.
"""

from __future__ import annotations

CASTS = ("f32", "f64", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
UNARY = ("sqrt_", "floor_", "ceil_", "rint_", "trunc_", "fabs_")
BINARY = ("copysign_", "fmod_")
HALVES = {"f16": "float16", "bf16": "bfloat16"}
NAMES = (
    "device",
    *CASTS,
    *(f"nearest_{suffix}" for suffix in HALVES),
    *(f"{name}{suffix}" for name in UNARY + BINARY for suffix in ("f32", "f64")),
    *(f"{name}_{suffix}" for name in ("bits", "float_from_bits", "fma") for suffix in ("f32", "f64")),
)
