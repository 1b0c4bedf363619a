"""Scalar functions of the kernels: one source text, executed once per target by `hybridml.kernels.targets`.

The modules named in `SOURCES` are *texts*. They use names they do not import (`device`, `f32`, `fma_f32`).
`for_cpu`, `for_cuda` and `for_python` each fill their own namespace with these names and execute all texts in
it, in order. Importing one of the texts raises NameError. How they are written, and why:

- No data-dependent branch, no loop, no table, no call to the C library: LLVM turns the loop of a kernel into
  vector code only then. `a if c else b` with `a` and `b` already computed becomes a select instruction.
- Each function `m_<name>_<dtype>` is right at NaN, infinities, signed zeros, overflow and subnormal numbers.
- Every constant has its dtype: a bare `0.5` is a float64 to Numba and would widen the whole expression.
  Integer arithmetic is cast back (`i32(a + b)`), since Numba widens it to 64 bits.
- No conversion from float to integer of a value that may not fit: that is undefined in LLVM. Adding
  `1.5 * 2**23` rounds to the nearest integer and leaves it in the low bits of the sum.
- Coefficients come from `tools/minimax.py`. The leading terms stay exact and the polynomial supplies the
  small rest, which is what keeps most functions below one unit in the last place.
"""

from __future__ import annotations

SOURCES = (
    "exponential",
    "hyperbolic",
    "error_function",
    "logarithm",
    "argument_reduction",
    "trigonometry",
    "inverse_trigonometry",
    "power",
    "rounding",
    "division",
    "integers",
    "random",
)
