"""Exponentials, logarithms, roots, trigonometry and rounding: elementwise rows on floats.

Gradients prefer the output where it is enough, so that the tape can let go of the input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import documented, elementwise
from hybridml.ops.halves import in_single, of_ufunc
from hybridml.ops.registry import Kind, Op, Promote, Saves, public, register
from hybridml.ops.samples import binary_samples, unary_samples

FLOAT = infer.only("f")


def function(name: str, ufunc: Any, doc: str, example: str, low: float, high: float, **fields: Any) -> Any:
    """A unary row on floats with a method, whose kernel text is the scalar function of its name."""
    return elementwise(
        name, f"m_{name}({{0}})", ufunc, doc, example, infer=FLOAT, promote=Promote.FLOAT, method=True,
        samples=unary_samples(low, high, special=True), **fields,
    )  # fmt: skip


# Exponentials and logarithms

exp = function(
    "exp", np.exp, "e to the power x, elementwise.", "[0., float('-inf')] -> [1.0, 0.0]", -5, 5,
    vjps=(lambda g, out, x: g * out,), saves=Saves.OUTPUT,
)  # fmt: skip
exp2 = function(
    "exp2", np.exp2, "2 to the power x, elementwise.", "[0., 3.] -> [1.0, 8.0]", -5, 5,
    vjps=(lambda g, out, x: g * (out * math.log(2)),), saves=Saves.OUTPUT,
)  # fmt: skip
expm1 = function(
    "expm1", np.expm1, "e to the power x, less one, without cancellation near 0.", "[0.] -> [0.0]", -5, 5,
    vjps=(lambda g, out, x: g * (out + 1),), saves=Saves.OUTPUT,
)  # fmt: skip
log = function(
    "log", np.log, "Natural logarithm, elementwise.", "[1., 0.] -> [0.0, -inf]", 0.1, 5,
    vjps=(lambda g, out, x: g / x,), saves=Saves.INPUTS,
)  # fmt: skip
log1p = function(
    "log1p", np.log1p, "log(1 + x) without cancellation near 0.", "[0., -1.] -> [0.0, -inf]", -0.5, 5,
    vjps=(lambda g, out, x: g / (x + 1),), saves=Saves.INPUTS,
)  # fmt: skip
log2 = function(
    "log2", np.log2, "Logarithm to base 2, elementwise.", "[1., 8.] -> [0.0, 3.0]", 0.1, 5,
    vjps=(lambda g, out, x: g / (x * math.log(2)),), saves=Saves.INPUTS,
)  # fmt: skip
log10 = function(
    "log10", np.log10, "Logarithm to base 10, elementwise.", "[1., 0.] -> [0.0, -inf]", 0.1, 5,
    vjps=(lambda g, out, x: g / (x * math.log(10)),), saves=Saves.INPUTS,
)  # fmt: skip
logaddexp = elementwise(
    "logaddexp", "m_logaddexp({0}, {1})", np.logaddexp, "log(exp(x) + exp(y)) without overflow.",
    "[float('-inf'), 1000.], [0., 0.] -> [0.0, 1000.0]", infer=FLOAT, promote=Promote.FLOAT,
    vjps=(lambda g, out, x, y: g * sigmoid(x - y), lambda g, out, x, y: g * sigmoid(y - x)), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3, special=True),
)  # fmt: skip

# Roots

sqrt = function(
    "sqrt", np.sqrt, "Square root, elementwise.", "[4., 0.] -> [2.0, 0.0]", 0.1, 5,
    vjps=(lambda g, out, x: g * 0.5 / out,), saves=Saves.OUTPUT,
)  # fmt: skip
rsqrt = function(
    "rsqrt", None, "1 / sqrt(x), elementwise.", "[4., 0.] -> [0.5, inf]", 0.1, 5,
    eager=in_single(lambda xp, x: xp.reciprocal(xp.sqrt(x))), reference=lambda x: 1 / np.sqrt(np.asarray(x, np.float64)),
    vjps=(lambda g, out, x: g * (out * out * out * -0.5),), saves=Saves.OUTPUT,
)  # fmt: skip

# Sigmoid functions


def _sigmoid(xp: Any, x: Any) -> Any:
    # Neither exponential is above 1, so nothing overflows; a choice between two forms costs ten times as much.
    return xp.exp(xp.minimum(x, 0)) / (1 + xp.exp(-xp.abs(x)))


def _reference_sigmoid(x: Any) -> Any:
    from scipy.special import expit

    return expit(np.asarray(x, np.float64))


def _erf(xp: Any, x: Any) -> Any:
    from importlib import import_module

    special = import_module("scipy.special" if xp is np else "cupyx.scipy.special")
    return special.erf(x)


tanh = function(
    "tanh", np.tanh, "Hyperbolic tangent, elementwise.", "[0., float('inf')] -> [0.0, 1.0]", -5, 5,
    vjps=(lambda g, out, x: g * (1 - out * out),), saves=Saves.OUTPUT,
)  # fmt: skip
sigmoid: Any = function(
    "sigmoid", None, "1 / (1 + exp(-x)), elementwise, without overflow.", "[0., float('-inf')] -> [0.5, 0.0]", -5, 5,
    eager=in_single(_sigmoid), reference=_reference_sigmoid,
    vjps=(lambda g, out, x: g * (out * (1 - out)),), saves=Saves.OUTPUT,
)  # fmt: skip
erf = function(
    "erf", None, "The error function, elementwise.", "[0., float('inf')] -> [0.0, 1.0]", -3, 3,
    eager=in_single(_erf), reference=np.vectorize(math.erf, otypes=[np.float64]),
    vjps=(lambda g, out, x: g * (exp(-(x * x)) * (2 / math.sqrt(math.pi))),), saves=Saves.INPUTS,
)  # fmt: skip

# Trigonometry

sin = function(
    "sin", np.sin, "Sine, elementwise.", "[0.] -> [0.0]", -5, 5, vjps=(lambda g, out, x: g * cos(x),), saves=Saves.INPUTS
)  # fmt: skip
cos: Any = function(
    "cos", np.cos, "Cosine, elementwise.", "[0.] -> [1.0]", -5, 5, vjps=(lambda g, out, x: -g * sin(x),), saves=Saves.INPUTS
)  # fmt: skip
tan = function(
    "tan", np.tan, "Tangent, elementwise.", "[0.] -> [0.0]", -1.2, 1.2,
    vjps=(lambda g, out, x: g * (1 + out * out),), saves=Saves.OUTPUT,
)  # fmt: skip
asin = function(
    "asin", np.arcsin, "Inverse sine, elementwise; NaN outside [-1, 1].", "[0.] -> [0.0]", -0.9, 0.9,
    vjps=(lambda g, out, x: g * rsqrt(1 - x * x),), saves=Saves.INPUTS,
)  # fmt: skip
acos = function(
    "acos", np.arccos, "Inverse cosine, elementwise; NaN outside [-1, 1].", "[1.] -> [0.0]", -0.9, 0.9,
    vjps=(lambda g, out, x: -g * rsqrt(1 - x * x),), saves=Saves.INPUTS,
)  # fmt: skip
atan = function(
    "atan", np.arctan, "Inverse tangent, elementwise.", "[0.] -> [0.0]", -5, 5,
    vjps=(lambda g, out, x: g / (1 + x * x),), saves=Saves.INPUTS,
)  # fmt: skip
sinh = function(
    "sinh", np.sinh, "Hyperbolic sine, elementwise.", "[0.] -> [0.0]", -3, 3,
    vjps=(lambda g, out, x: g * cosh(x),), saves=Saves.INPUTS,
)  # fmt: skip
cosh: Any = function(
    "cosh", np.cosh, "Hyperbolic cosine, elementwise.", "[0.] -> [1.0]", -3, 3,
    vjps=(lambda g, out, x: g * sinh(x),), saves=Saves.INPUTS,
)  # fmt: skip
atan2 = elementwise(
    "atan2", "m_atan2({0}, {1})", np.arctan2,
    "The angle of the point (x, y), given as y and x: the inverse tangent of y / x in the right quadrant.",
    "[0., 0.], [1., 2.] -> [0.0, 0.0]", infer=FLOAT, promote=Promote.FLOAT,
    vjps=(lambda g, out, y, x: g * x / (x * x + y * y), lambda g, out, y, x: -g * y / (x * x + y * y)), saves=Saves.INPUTS,
    samples=binary_samples(0.5, 3, special=True),
)  # fmt: skip

# Rounding: the gradient is zero wherever there is one, so there is none


def rounding(name: str, ufunc: Any, doc: str, example: str) -> Any:
    """A rounding row on floats; integers are returned as they are."""
    doc = documented(name, doc + " Integers stay as they are; no gradient.", example)
    op = register(Op(
        name, Kind.ELEMENTWISE, infer=FLOAT, eager=of_ufunc(ufunc), scalar=f"m_{name}({{0}})",
        ufunc=ufunc, method=True, doc=doc, samples=unary_samples(-5, 5, special=True),
    ))  # fmt: skip

    def f(x: Any, /) -> Any:
        x = lift(x)
        return call(op, x) if dtypes.is_float(x.dtype) else x

    f.__name__ = f.__qualname__ = name
    f.__module__, f.__doc__ = __name__, doc
    return public(op)(f)


floor = rounding("floor", np.floor, "The nearest whole number below.", "[1.5, -1.5] -> [1.0, -2.0]")
ceil = rounding("ceil", np.ceil, "The nearest whole number above.", "[1.5, -1.5] -> [2.0, -1.0]")
round = rounding(
    "round", np.rint, "The nearest whole number, halves to the even one.", "[1.5, 2.5] -> [2.0, 2.0]"
)
trunc = rounding("trunc", np.trunc, "The nearest whole number towards zero.", "[1.5, -1.5] -> [1.0, -1.0]")
