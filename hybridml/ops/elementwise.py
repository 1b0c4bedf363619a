"""Elementwise operations: one row each, one scalar text each.

Gradients are written in public ops. The caller sums a gradient back to its operand's shape where broadcasting stretched it, so
no rule here mentions shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.registry import Kind, Op, Promote, Saves, public, register
from hybridml.ops.samples import binary_samples, ternary_samples, unary_samples
from hybridml.ops.spec import TensorSpec, spec

Public = Callable[..., Any]


def elementwise(name: str, scalar: str | Callable[..., str], ufunc: Any, doc: str, **fields: Any) -> Public:
    """A row whose eager form is a NumPy ufunc of the same operands, and its public function."""
    eager = fields.pop("eager", None) or (lambda xp, *xs: getattr(xp, ufunc.__name__)(*xs))
    fields.setdefault("infer", infer.elementwise)
    op = register(Op(name, Kind.ELEMENTWISE, eager=eager, scalar=scalar, ufunc=ufunc, doc=doc, **fields))
    n = 1 if ufunc is None else ufunc.nin
    if n == 1:

        def f(x: Any, /) -> Any:
            return call(op, x)
    else:

        def f(x: Any, y: Any, /) -> Any:  # type: ignore[misc]
            return call(op, x, y)

    f.__name__ = f.__qualname__ = name
    f.__module__ = __name__
    f.__doc__ = doc
    return public(op)(f)


# Arithmetic

add = elementwise(
    "add", "{0} + {1}", np.add, "x + y, elementwise.", operator="add", neutral={0: 0, 1: 0},
    vjps=(lambda g, out, x, y: g, lambda g, out, x, y: g),
    samples=binary_samples(-3, 3),
)  # fmt: skip
subtract = elementwise(
    "subtract", "{0} - {1}", np.subtract, "x - y, elementwise.", operator="sub", neutral={1: 0},
    vjps=(lambda g, out, x, y: g, lambda g, out, x, y: -g),
    samples=binary_samples(-3, 3),
)  # fmt: skip
multiply = elementwise(
    "multiply", "{0} * {1}", np.multiply, "x * y, elementwise.", operator="mul", neutral={0: 1, 1: 1},
    vjps=(lambda g, out, x, y: g * y, lambda g, out, x, y: g * x), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3),
)  # fmt: skip
divide = elementwise(
    "divide", "{0} / {1}", np.divide, "x / y, elementwise; integers are divided as floats.", operator="truediv", neutral={1: 1},
    vjps=(lambda g, out, x, y: g / y, lambda g, out, x, y: -g * out / y), saves=Saves.BOTH,
    promote=Promote.FLOAT, samples=binary_samples(0.5, 3),
)  # fmt: skip
negative = elementwise(
    "negative", "-{0}", np.negative, "-x, elementwise.", infer=infer.only("iuf"), operator="neg", involution=True,
    vjps=(lambda g, out, x: -g,), samples=unary_samples(-3, 3),
)  # fmt: skip

COPY = register(Op(
    "copy", Kind.ELEMENTWISE, infer=infer.elementwise, eager=lambda xp, x: xp.ascontiguousarray(x).reshape(x.shape),
    vjps=(lambda g, out, x: g,), promote=Promote.NO, scalar="{0}", samples=unary_samples(-3, 3),
    doc="The same values in a buffer of their own, in row-major order.",
))  # fmt: skip


@public(COPY)
def copy(x: Any, /) -> Any:
    """The same values in a buffer of their own."""
    return call(COPY, lift(x))


# Exponentials

exp = elementwise(
    "exp", "m_exp({0})", np.exp, "e to the power x, elementwise.", method=True,
    vjps=(lambda g, out, x: g * out,), saves=Saves.OUTPUT, promote=Promote.FLOAT,
    samples=unary_samples(-5, 5, special=True),
)  # fmt: skip
log = elementwise(
    "log", "m_log({0})", np.log, "Natural logarithm, elementwise.", method=True,
    vjps=(lambda g, out, x: g / x,), saves=Saves.INPUTS, promote=Promote.FLOAT,
    samples=unary_samples(0.1, 5, special=True),
)  # fmt: skip
tanh = elementwise(
    "tanh", "m_tanh({0})", np.tanh, "Hyperbolic tangent, elementwise.", method=True,
    vjps=(lambda g, out, x: g * (1 - out * out),), saves=Saves.OUTPUT, promote=Promote.FLOAT,
    samples=unary_samples(-5, 5, special=True),
)  # fmt: skip

# Comparison and selection

equal = elementwise(
    "equal", "{0} == {1}", np.equal, "x == y, elementwise.", infer=infer.predicate, operator="eq",
    samples=binary_samples(-3, 3, ties=True),
)  # fmt: skip
greater = elementwise(
    "greater", "{0} > {1}", np.greater, "x > y, elementwise.", infer=infer.predicate, operator="gt",
    samples=binary_samples(-3, 3, ties=True),
)  # fmt: skip
maximum = elementwise(
    "maximum", "m_maximum({0}, {1})", np.maximum,
    "The larger of x and y, elementwise; NaN if either is NaN. Where they are equal the gradient is shared equally.",
    vjps=(lambda g, out, x, y: g * pick(x, y), lambda g, out, x, y: g * pick(y, x)), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3, special=True),
)  # fmt: skip


def pick(x: Any, y: Any) -> Any:
    """The weight of x in the gradient of maximum(x, y): 1, 0, or a half where they are equal."""
    return where(x > y, 1.0, where(equal(x, y), 0.5, 0.0))


def _infer_where(condition: TensorSpec, x: Any, y: Any) -> TensorSpec:
    shape, _ = infer.common(condition, x, y)
    return spec(shape, infer.common(x, y)[1])


WHERE = register(Op(
    "where", Kind.ELEMENTWISE, infer=_infer_where, eager=lambda xp, c, x, y: xp.where(c, x, y),
    vjps=(None, lambda g, out, c, x, y: where(c, g, 0), lambda g, out, c, x, y: where(c, 0, g)),
    saves=Saves.INPUTS, fixed=1, scalar="{1} if {0} else {2}", samples=ternary_samples(-3, 3),
    doc="x where condition is true, else y, elementwise.",
))  # fmt: skip


@public(WHERE)
def where(condition: Any, x: Any, y: Any, /) -> Any:
    """x where condition is true, else y, elementwise.

    >>> import hybridml as hml
    >>> hml.where([True, False], [1., 2.], 0.).numpy()
    array([1., 0.], dtype=float32)
    """
    return call(WHERE, astype(condition, dtypes.bool_), x, y)


def _cast_text(operands: tuple[np.dtype, ...], out: np.dtype, **_: Any) -> str:
    return "{0} != 0" if out == dtypes.bool_ else "{out}({0})"


CAST = register(Op(
    "cast", Kind.ELEMENTWISE, infer=lambda x, *, dtype: spec(x.shape, dtype),
    eager=lambda xp, x, *, dtype: x.astype(dtype),
    vjps=(lambda g, out, x, *, dtype: astype(g, x.dtype),), promote=Promote.NO, scalar=_cast_text, method=True,
    samples=unary_samples(-3, 3, kwargs={"dtype": dtypes.float64}), doc="The same values in another dtype.",
))  # fmt: skip


@public(CAST)
def astype(x: Any, dtype: Any, /) -> Any:
    """The same values in another dtype; floats are cut towards zero on the way to integers.

    >>> import hybridml as hml
    >>> hml.astype([1.7, -1.7], hml.int32).numpy()
    array([ 1, -1], dtype=int32)
    """
    x, dtype = lift(x), dtypes.as_dtype(dtype)
    return x if x.dtype is dtype else call(CAST, x, dtype=dtype)
