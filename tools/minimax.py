"""Minimax polynomials for `hybridml/kernels/scalar_math`, by the Remez exchange in high precision.

`python tools/minimax.py` prints every coefficient list that the scalar math uses, with the largest weighted
error of the polynomial *after* its coefficients were rounded to the working precision. The leading terms of
each function are split off exactly (exp(r) = 1 + r + r*r*q(r)), so rounding the rest costs next to nothing.
Needs mpmath, which is no dependency of hybridml itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np

mp.mp.prec = 200
Real = Any
Function = Callable[[Real], Real]


def chebyshev_points(low: Real, high: Real, count: int) -> list[Real]:
    half, middle = (high - low) / 2, (high + low) / 2
    return sorted(middle + half * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count))


def remez(target: Function, weight: Function, low: Real, high: Real, powers: list[int]) -> list[Real]:
    """Coefficients c of sum c[j] * x**powers[j] with the least max |weight * (p - target)| on [low, high]."""
    count = len(powers)
    points = chebyshev_points(low, high, count + 1)
    grid = chebyshev_points(low, high, 24 * (count + 1))
    on_grid = [(x, target(x), weight(x)) for x in grid]
    coefficients: list[Real] = []
    for _ in range(12):
        rows = mp.matrix(count + 1, count + 1)
        right = mp.matrix(count + 1, 1)
        for i, x in enumerate(points):
            for j, power in enumerate(powers):
                rows[i, j] = x**power
            rows[i, count] = (-1) ** i / weight(x)
            right[i] = target(x)
        solution = mp.lu_solve(rows, right)
        coefficients = [solution[j] for j in range(count)]
        errors = [
            w * (sum(c * x**p for c, p in zip(coefficients, powers, strict=True)) - t) for x, t, w in on_grid
        ]
        # One extremum from each run of equal sign; keep the largest count + 1 consecutive ones.
        peaks: list[int] = []
        for i, error in enumerate(errors):
            if peaks and mp.sign(error) == mp.sign(errors[peaks[-1]]):
                if abs(error) > abs(errors[peaks[-1]]):
                    peaks[-1] = i
            else:
                peaks.append(i)
        while len(peaks) > count + 1:
            peaks.pop(0 if abs(errors[peaks[0]]) < abs(errors[peaks[-1]]) else -1)
        if len(peaks) < count + 1:
            break
        levels = [abs(errors[i]) for i in peaks]
        points = [grid[i] for i in peaks]
        if max(levels) <= min(levels) * mp.mpf("1.01"):
            break
    return coefficients


def fit(
    target: Function,
    low: Any,
    high: Any,
    degree: int,
    bits: int,
    weight: Function | None = None,
) -> tuple[list[float], float]:
    """Coefficients 0..degree rounded to `bits` (24 or 53), and log2 of the largest weighted error."""
    rounded = np.float32 if bits == 24 else np.float64
    low, high = mp.mpf(low), mp.mpf(high)
    given = weight or (lambda x: mp.mpf(1))

    def weight(x: Real) -> Real:  # a weight of zero would leave the exchange's linear system singular
        return max(abs(given(x)), mp.mpf("1e-6"))

    exact = remez(target, weight, low, high, list(range(degree + 1)))
    coefficients = [float(rounded(mp.nstr(c, 30))) for c in exact]
    worst = mp.mpf(0)
    for x in chebyshev_points(low, high, 400):
        error = given(x) * (sum(mp.mpf(c) * x**k for k, c in enumerate(coefficients)) - target(x))
        worst = max(worst, abs(error))
    return coefficients, float(mp.log(worst, 2)) if worst else -mp.inf


def series_safe(function: Function, at_zero: Any) -> Function:
    """`function` with its removable singularity at zero filled in."""
    return lambda x: mp.mpf(at_zero) if abs(x) < mp.mpf(2) ** -60 else function(x)


def root(function: Function) -> Function:
    """f(z) -> f(sqrt z): even and odd functions become polynomials in z = x * x."""
    return lambda z: function(mp.sqrt(z))


def erfc_scaled(a: Real) -> Real:
    return mp.exp(a * a) * mp.erfc(a)


def tasks() -> dict[str, Callable[[], tuple[list[float], float]]]:
    half_ln2 = mp.log(2) / 2 * mp.mpf("1.002")
    quarter_pi = mp.pi / 4 * mp.mpf("1.001")
    third = mp.mpf(1) / 3 + mp.mpf(2) ** -20
    exp_tail = series_safe(lambda r: (mp.expm1(r) - r) / r**2, 0.5)
    exp2_tail = series_safe(lambda r: (mp.expm1(r * mp.log(2)) - r * mp.log(2)) / r**2, mp.log(2) ** 2 / 2)
    log_tail = series_safe(lambda f: (mp.log1p(f) - f + f * f / 2) / f**3, mp.mpf(1) / 3)
    log_atanh = series_safe(root(lambda s: (2 * mp.atanh(s) - 2 * s) / s**3), mp.mpf(2) / 3)
    log_atanh5 = series_safe(root(lambda s: (2 * mp.atanh(s) - 2 * s - 2 * s**3 / 3) / s**5), mp.mpf(2) / 5)
    sin_tail = series_safe(root(lambda x: (mp.sin(x) - x) / x**3), -mp.mpf(1) / 6)
    cos_tail = series_safe(root(lambda x: (mp.cos(x) - 1 + x * x / 2) / x**4), mp.mpf(1) / 24)
    tanh_tail = series_safe(root(lambda x: (mp.tanh(x) - x) / x**3), -mp.mpf(1) / 3)
    sinh_tail = series_safe(root(lambda x: (mp.sinh(x) - x) / x**3), mp.mpf(1) / 6)
    atan_tail = series_safe(root(lambda x: (mp.atan(x) - x) / x**3), -mp.mpf(1) / 3)
    asin_tail = series_safe(root(lambda x: (mp.asin(x) - x) / x**3), mp.mpf(1) / 6)
    erf_ratio = series_safe(root(lambda x: mp.erf(x) / x - 1), 2 / mp.sqrt(mp.pi) - 1)
    tan_eighth2 = mp.tan(mp.pi / 8) ** 2 * mp.mpf("1.001")

    def erfcx_of_t(t: Real) -> Real:  # t = (a - 2) / (a + 2)
        return erfc_scaled(2 * (1 + t) / (1 - t))

    return {
        "EXP_F32": lambda: fit(exp_tail, -half_ln2, half_ln2, 4, 24, lambda r: r * r),
        "EXP_F64": lambda: fit(exp_tail, -half_ln2, half_ln2, 10, 53, lambda r: r * r),
        "EXP2_F32": lambda: fit(exp2_tail, -0.5, 0.5, 4, 24, lambda r: r * r),
        "EXP2_F64": lambda: fit(exp2_tail, -0.5, 0.5, 10, 53, lambda r: r * r),
        "EXP2_SHORT_F64": lambda: fit(exp2_tail, -0.5, 0.5, 5, 53, lambda r: r * r),
        "LOG_F32": lambda: fit(log_tail, -third, third, 8, 24, lambda f: f * f),
        "LOG_F64": lambda: fit(log_atanh, 0, 0.0401, 7, 53, lambda z: z),
        "LOG_SHORT_F64": lambda: fit(log_atanh, 0, 0.0401, 4, 53, lambda z: z),
        "LOG_TAIL_F64": lambda: fit(log_atanh5, 0, 0.0401, 7, 53, lambda z: z * z),
        "SIN_F32": lambda: fit(sin_tail, 0, quarter_pi**2, 2, 24, lambda z: z),
        "COS_F32": lambda: fit(cos_tail, 0, quarter_pi**2, 2, 24, lambda z: z * z),
        "SIN_F64": lambda: fit(sin_tail, 0, quarter_pi**2, 5, 53, lambda z: z),
        "COS_F64": lambda: fit(cos_tail, 0, quarter_pi**2, 5, 53, lambda z: z * z),
        "TANH_F32": lambda: fit(tanh_tail, 0, 0.3026, 4, 24, lambda z: z),
        "SINH_F32": lambda: fit(sinh_tail, 0, 1.01, 3, 24, lambda z: z),
        "ATAN_F32": lambda: fit(atan_tail, 0, tan_eighth2, 4, 24, lambda z: z),
        "ATAN_F64": lambda: fit(atan_tail, 0, tan_eighth2, 11, 53, lambda z: z),
        "ASIN_F32": lambda: fit(asin_tail, 0, 0.2501, 4, 24, lambda z: z),
        "ASIN_F64": lambda: fit(asin_tail, 0, 0.2501, 12, 53, lambda z: z),
        "ERF_F64": lambda: fit(erf_ratio, 0, 1.001, 14, 53),
        # erf = 1 - exp(-a * (1 + g)): an error of g matters times a * erfc, and relative to erf.
        "ERFC_LOG_F32": lambda: fit(
            series_safe(lambda a: -mp.log(mp.erfc(a)) / a - 1, 2 / mp.sqrt(mp.pi) - 1),
            0,
            3.95,
            8,
            24,
            lambda a: a * mp.erfc(a) / mp.erf(a) if a else mp.sqrt(mp.pi) / 2,
        ),
        "ERFCX_F64": lambda: fit(
            erfcx_of_t, -0.3334, 0.5001, 18, 53, lambda t: mp.exp(-((2 * (1 + t) / (1 - t)) ** 2))
        ),
    }


def main(names: list[str]) -> None:
    for name, task in tasks().items():
        if names and name not in names:
            continue
        coefficients, error = task()
        sys.stdout.write(f"# {name}: error 2^{error:.1f}\n{name} = {coefficients!r}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
