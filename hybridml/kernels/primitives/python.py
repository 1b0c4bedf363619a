"""Primitives of the plain-Python target: NumPy scalars, the same rounding as the compiled targets.

It is the definition in its slowest form, used by CUDA's simulator, for debugging and for checking the other
targets. Overflow and invalid operations are meant where they occur, so each function runs with NumPy's
warnings off.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from hybridml import dtypes

from . import HALVES


def device(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, with NumPy's floating-point and overflow warnings off while it runs."""

    @functools.wraps(function)
    def quiet(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return quiet


def _fma(a: Any, b: Any, c: Any) -> Any:
    """a * b + c in the arguments' type, rounded once (float32: in float64, and again on the way back)."""
    kind = type(a)
    with np.errstate(all="ignore"):
        if kind is np.float32:
            return kind(np.float64(a) * np.float64(b) + np.float64(c))
        plain = a * b + c
        if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c)):
            return plain
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        if exact == 0:
            return plain if plain == 0 else kind(0)
        try:
            return kind(float(exact))
        except OverflowError:
            return kind(math.inf if exact > 0 else -math.inf)


def _typed(function: Callable[..., Any], kind: type) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return kind(function(*args))

    return call


def _view(source: type, result: type) -> Callable[[Any], Any]:
    return lambda x: source(x).view(result)


def _nearest(half: np.dtype) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.float32(np.float32(x).astype(half))

    return call


def namespace() -> dict[str, Any]:
    """A fresh namespace with every name of `hybridml.kernels.primitives.NAMES`."""
    names: dict[str, Any] = {
        "device": device,
        **{f"i{bits}": getattr(np, f"int{bits}") for bits in (8, 16, 32, 64)},
        **{f"u{bits}": getattr(np, f"uint{bits}") for bits in (8, 16, 32, 64)},
    }
    names |= {f"nearest_{suffix}": _nearest(dtypes.as_dtype(name)) for suffix, name in HALVES.items()}
    for kind, float_type, int_type in (("f32", np.float32, np.int32), ("f64", np.float64, np.int64)):
        names[kind] = float_type
        for name in ("sqrt", "floor", "ceil", "rint", "trunc", "fabs", "copysign", "fmod"):
            names[f"{name}_{kind}"] = _typed(getattr(np, name), float_type)
        names[f"fma_{kind}"] = _fma
        names[f"bits_{kind}"] = _view(float_type, int_type)
        names[f"float_from_bits_{kind}"] = _view(int_type, float_type)
    return names
