"""Elementwise operations: one row each, one scalar text each.

Gradients are written in public ops. The caller sums a gradient back to its operand's shape where broadcasting stretched it, so
no rule here mentions shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops import infer
from hybridml.ops.door import call, lift
from hybridml.ops.halves import in_single, of_ufunc
from hybridml.ops.registry import Kind, Op, Promote, Sample, Saves, composite, public, register
from hybridml.ops.samples import binary_samples, ternary_samples, unary_samples
from hybridml.ops.spec import TensorSpec, is_scalar, spec

Public = Callable[..., Any]


def documented(name: str, doc: str, example: str) -> str:
    """A docstring with a runnable example; `example` reads "arguments -> values"."""
    args, shown = example.split(" -> ")
    return f"{doc}\n\n    >>> import hybridml as hml\n    >>> hml.{name}({args}).tolist()\n    {shown}\n"


def elementwise(
    name: str, scalar: str | Callable[..., str], ufunc: Any, doc: str, example: str, **fields: Any
) -> Public:
    """A row whose eager form is a NumPy ufunc of the same operands, and its public function.

    A row without a ufunc brings its own `eager` and takes one operand.
    """
    eager = fields.pop("eager", None) or of_ufunc(ufunc)
    doc = documented(name, doc, example)
    fields.setdefault("infer", infer.elementwise)
    kind = fields.pop("kind", Kind.ELEMENTWISE)
    op = register(Op(name, kind, eager=eager, scalar=scalar, ufunc=ufunc, doc=doc, **fields))
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

NUMERIC = infer.only("iuf")


def _by_fmod(ufunc: Any) -> Callable[[Any], Callable[[Any, Any, Any], Any]]:
    """The eager form of a quotient: the ufunc, and `f(xp, x, y, what fmod leaves)` for floats on a GPU. CuPy's ufunc rounds x / y first,
    by which 1 // 0.1 is 10, and 5 % inf NaN. float16 is computed in float32, as in NumPy."""
    return lambda f: in_single(lambda xp, x, y: _divided(ufunc, f, xp, x, y), dtypes.bfloat16)


def _divided(ufunc: Any, f: Any, xp: Any, x: Any, y: Any) -> Any:
    if xp is np:
        return ufunc(x, y)
    dtype = next(v.dtype for v in (x, y) if isinstance(v, xp.ndarray))
    if dtype.kind != "f":
        return getattr(xp, ufunc.__name__)(x, y)
    wide = np.promote_types(dtype, np.float32)
    x, y = (v.astype(wide) if isinstance(v, xp.ndarray) else xp.asarray(dtype.type(v), wide) for v in (x, y))
    return f(xp, x, y, xp.fmod(x, y)).astype(dtype)


@_by_fmod(np.floor_divide)
def _floor_divide(xp: Any, x: Any, y: Any, rest: Any) -> Any:
    quotient = (x - rest) / y
    quotient = xp.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)
    below = xp.floor(quotient)
    below = xp.where(quotient - below > 0.5, below + 1, below)
    return xp.where(y == 0, x / y, xp.where(quotient == 0, xp.copysign(quotient, x / y), below))


@_by_fmod(np.remainder)
def _remainder(xp: Any, x: Any, y: Any, rest: Any) -> Any:
    moved = xp.where((rest < 0) != (y < 0), rest + y, rest)
    return xp.where(rest == 0, xp.copysign(rest, y), moved)


add = elementwise(
    "add", "{0} + {1}", np.add, "x + y, elementwise.", "[1., 2.], 1 -> [2.0, 3.0]", operator="add", neutral={0: 0, 1: 0},
    vjps=(lambda g, out, x, y: g, lambda g, out, x, y: g),
    samples=binary_samples(-3, 3),
)  # fmt: skip
subtract = elementwise(
    "subtract", "{0} - {1}", np.subtract, "x - y, elementwise.", "[1., 2.], 1 -> [0.0, 1.0]", infer=NUMERIC,
    promote=Promote.NUMBER, operator="sub", neutral={1: 0},
    vjps=(lambda g, out, x, y: g, lambda g, out, x, y: -g),
    samples=binary_samples(-3, 3),
)  # fmt: skip
multiply = elementwise(
    "multiply", "{0} * {1}", np.multiply, "x * y, elementwise.", "[1., 2.], 3 -> [3.0, 6.0]",
    operator="mul", neutral={0: 1, 1: 1},
    vjps=(lambda g, out, x, y: g * y, lambda g, out, x, y: g * x), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3),
)  # fmt: skip
divide = elementwise(
    "divide", "{0} / {1}", np.divide, "x / y, elementwise; integers are divided as floats.", "[1, 2], 2 -> [0.5, 1.0]",
    vjps=(lambda g, out, x, y: g / y, lambda g, out, x, y: -g * out / y), saves=Saves.BOTH, operator="truediv", neutral={1: 1},
    promote=Promote.FLOAT, samples=binary_samples(0.5, 3),
)  # fmt: skip
floor_divide = elementwise(
    "floor_divide", "m_floor_divide({0}, {1})", np.floor_divide,
    "x / y rounded towards minus infinity; no gradient. An integer divided by zero gives 0, as in NumPy.",
    "[7, -7], 2 -> [3, -4]", infer=NUMERIC, promote=Promote.NUMBER, operator="floordiv",
    eager=_floor_divide,
    samples=binary_samples(0.5, 9, differentiable=False),
)  # fmt: skip
remainder = elementwise(
    "remainder", "m_remainder({0}, {1})", np.remainder,
    "x - y * floor(x / y): what is left of the division, with the sign of y. An integer modulo zero gives 0, as in NumPy.",
    "[7, -7], 3 -> [1, 2]", infer=NUMERIC, promote=Promote.NUMBER, operator="mod",
    eager=_remainder,
    vjps=(lambda g, out, x, y: g, lambda g, out, x, y: -g * floor_divide(x, y)), saves=Saves.INPUTS,
    samples=binary_samples(0.5, 9),
)  # fmt: skip
negative = elementwise(
    "negative", "-{0}", np.negative, "-x, elementwise.", "[1., -2.] -> [-1.0, 2.0]", infer=NUMERIC,
    promote=Promote.NUMBER, operator="neg", involution=True,
    vjps=(lambda g, out, x: -g,), samples=unary_samples(-3, 3),
)  # fmt: skip
positive = elementwise(
    "positive", "{0}", np.positive, "+x: x itself.", "[1., -2.] -> [1.0, -2.0]", infer=NUMERIC, promote=Promote.NUMBER,
    kind=Kind.VIEW, eager=lambda xp, x: x, view=lambda layout: layout, operator="pos",
    vjps=(lambda g, out, x: g,), samples=unary_samples(-3, 3),
)  # fmt: skip
COPY = register(Op(
    "copy", Kind.ELEMENTWISE, infer=infer.elementwise, eager=lambda xp, x: xp.ascontiguousarray(x).reshape(x.shape),
    vjps=(lambda g, out, x: g,), promote=Promote.NO, scalar="{0}", samples=unary_samples(-3, 3), reference=np.copy,
))  # fmt: skip


@public(COPY)
def copy(x: Any, /) -> Any:
    """The same values in a buffer of their own, in row-major order.

    >>> import hybridml as hml
    >>> hml.copy([1., 2.]).tolist()
    [1.0, 2.0]
    """
    return call(COPY, lift(x))


abs = elementwise(
    "abs", "m_abs({0})", np.absolute, "|x|, elementwise; the gradient at 0 is 0.", "[1., -2.] -> [1.0, 2.0]",
    infer=NUMERIC, promote=Promote.NUMBER, operator="abs", method=True, vjps=(lambda g, out, x: g * sign(x),),
    saves=Saves.INPUTS,
    samples=unary_samples(-3, 3, special=True),
)  # fmt: skip
sign: Public = elementwise(
    "sign", "m_sign({0})", np.sign, "-1, 0 or 1 by the sign of x; NaN stays NaN; no gradient.",
    "[3., -2., 0.] -> [1.0, -1.0, 0.0]",
    infer=NUMERIC, promote=Promote.NUMBER, samples=unary_samples(-3, 3, special=True),
)  # fmt: skip
square = elementwise(
    "square", "{0} * {0}", np.square, "x * x, elementwise.", "[3., -2.] -> [9.0, 4.0]", infer=NUMERIC, promote=Promote.NUMBER,
    vjps=(lambda g, out, x: g * (x * 2),), saves=Saves.INPUTS, samples=unary_samples(-3, 3, special=True),
)  # fmt: skip


def _pow_x(g: Any, out: Any, x: Any, y: Any) -> Any:
    """g * y * x**(y - 1), and 0 where y is 0 whatever x is."""
    if is_scalar(y):
        return g * (x * 2) if y == 2 else g if y == 1 else g * 0 if y == 0 else g * (pow(x, y - 1) * y)
    zero = equal(y, 0)
    return g * where(zero, 0, y * pow(x, where(zero, 1, y - 1)))


def _pow_y(g: Any, out: Any, x: Any, y: Any) -> Any:
    """g * out * log(x), and 0 where x is 0. A scalar's logarithm is taken in full precision."""
    from hybridml.ops.transcendental import log

    if is_scalar(x):
        return g * out * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
    return g * out * log(where(equal(x, 0), 1, x))


pow = elementwise(
    "pow", "m_pow({0}, {1})", np.power, "x to the power y, elementwise.", "[2., 3.], 2 -> [4.0, 9.0]", infer=NUMERIC,
    promote=Promote.NUMBER, operator="pow",
    vjps=(_pow_x, _pow_y), saves=Saves.BOTH, samples=binary_samples(0.5, 3),
)  # fmt: skip

# Comparison and selection

equal = elementwise(
    "equal", "{0} == {1}", np.equal, "x == y, elementwise.", "[1, 2], 2 -> [False, True]", infer=infer.predicate, operator="eq",
    samples=binary_samples(-3, 3, ties=True),
)  # fmt: skip
not_equal = elementwise(
    "not_equal", "{0} != {1}", np.not_equal, "x != y, elementwise.", "[1, 2], 2 -> [True, False]",
    infer=infer.predicate, operator="ne", samples=binary_samples(-3, 3, ties=True, special=True),
)  # fmt: skip
less = elementwise(
    "less", "{0} < {1}", np.less, "x < y, elementwise.", "[1, 2], 2 -> [True, False]", infer=infer.predicate, operator="lt",
    samples=binary_samples(-3, 3, ties=True, special=True),
)  # fmt: skip
less_equal = elementwise(
    "less_equal", "{0} <= {1}", np.less_equal, "x <= y, elementwise.", "[1, 3], 2 -> [True, False]",
    infer=infer.predicate, operator="le", samples=binary_samples(-3, 3, ties=True, special=True),
)  # fmt: skip
greater = elementwise(
    "greater", "{0} > {1}", np.greater, "x > y, elementwise.", "[1, 3], 2 -> [False, True]",
    infer=infer.predicate, operator="gt", samples=binary_samples(-3, 3, ties=True),
)  # fmt: skip
greater_equal = elementwise(
    "greater_equal", "{0} >= {1}", np.greater_equal, "x >= y, elementwise.", "[1, 2], 2 -> [False, True]",
    infer=infer.predicate, operator="ge", samples=binary_samples(-3, 3, ties=True, special=True),
)  # fmt: skip
maximum = elementwise(
    "maximum", lambda operands, out, **_: "{0} | {1}" if out.kind == "b" else "m_maximum({0}, {1})", np.maximum,
    "The larger of x and y, elementwise; NaN if either is NaN. Where they are equal the gradient is shared equally.",
    "[1, 3], 2 -> [2, 3]",
    vjps=(lambda g, out, x, y: g * pick(x, y), lambda g, out, x, y: g * pick(y, x)), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3, special=True),
)  # fmt: skip
minimum = elementwise(
    "minimum", lambda operands, out, **_: "{0} & {1}" if out.kind == "b" else "m_minimum({0}, {1})", np.minimum,
    "The smaller of x and y, elementwise; NaN if either is NaN. Where they are equal the gradient is shared equally.",
    "[1, 3], 2 -> [1, 2]",
    vjps=(lambda g, out, x, y: g * pick(y, x), lambda g, out, x, y: g * pick(x, y)), saves=Saves.INPUTS,
    samples=binary_samples(-3, 3, special=True),
)  # fmt: skip


def pick(x: Any, y: Any) -> Any:
    """The weight of x in the gradient of maximum(x, y): 1, 0, or a half where they are equal."""
    return where(greater(x, y), 1.0, where(equal(x, y), 0.5, 0.0))


def _infer_where(condition: TensorSpec, x: Any, y: Any) -> TensorSpec:
    shape, _ = infer.common(condition, x, y)
    return spec(shape, infer.common(x, y)[1])


_BITS = {4: np.int32, 8: np.int64}
_MANY = 4096  # elements


def _eager_where(xp: Any, c: Any, x: Any, y: Any) -> Any:
    """NumPy's `where` branches on every element, and a branch that cannot be foreseen costs 4 ns: many elements are chosen by bits."""
    if xp is np and c.size >= _MANY:
        dtype = np.result_type(x, y)
        if bits := _BITS.get(dtype.itemsize):
            x, y = (np.asarray(v, dtype).view(bits) for v in (x, y))
            return (y ^ ((x ^ y) & -c.astype(bits))).view(dtype)
    return xp.where(c, x, y)


WHERE = register(Op(
    "where", Kind.ELEMENTWISE, infer=_infer_where, eager=in_single(_eager_where, dtypes.bfloat16),
    vjps=(None, lambda g, out, c, x, y: where(c, g, 0), lambda g, out, c, x, y: where(c, 0, g)),
    saves=Saves.INPUTS, fixed=1, scalar="{1} if {0} else {2}", samples=ternary_samples(-3, 3), reference=np.where,
    doc="x where condition is true, else y, elementwise.",
))  # fmt: skip


@public(WHERE)
def where(condition: Any, x: Any, y: Any, /) -> Any:
    """x where condition is true, else y, elementwise.

    >>> import hybridml as hml
    >>> hml.where([True, False], [1., 2.], 0.).numpy()
    array([1., 0.], dtype=float32)
    """
    beside_this = x if hasattr(x, "spec") else y
    return call(WHERE, astype(lift(condition, beside_this), dtypes.bool_), x, y)


def _cast_text(operands: tuple[np.dtype, ...], out: np.dtype, **_: Any) -> str:
    return "{0} != 0" if out == dtypes.bool_ else "{out}({0})"


def _cast_samples(rng: np.random.Generator) -> Any:
    for dtype in (dtypes.float64, dtypes.float32):
        yield from unary_samples(-3, 3)(rng, dtype)
    for dtype in (dtypes.int32, dtypes.bool_, dtypes.uint8):
        yield Sample(
            (np.array([[0.0, 1.7, 2.0], [3.2, 100.0, 0.4]]), dtype), differentiable=False, label=f"to {dtype}"
        )


CAST = register(Op(
    "cast", Kind.ELEMENTWISE, infer=lambda x, *, dtype: spec(x.shape, dtype),
    eager=lambda xp, x, *, dtype: x.astype(dtype),
    vjps=(lambda g, out, x, *, dtype: astype(g, x.dtype),), promote=Promote.NO, scalar=_cast_text, method=True,
    samples=_cast_samples,
    reference=lambda x, dtype: np.asarray(x).astype(dtype), doc="The same values in another dtype.",
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


@composite(method=True)
def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:
    """x held between `min` and `max`, either of which may be None; a bound below the other gives `max`.

    The gradient is that of x where it lies within the bounds (or on them), and of the bound where it does not.

    >>> import hybridml as hml
    >>> hml.clip([-1., 0.5, 3.], 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    if min is not None:
        x = where(less(x, min), min, x)
    return x if max is None else where(greater(x, max), max, x)


@composite()
def reciprocal(x: Any, /) -> Any:
    """1 / x, elementwise.

    >>> import hybridml as hml
    >>> hml.reciprocal([2., 4.]).tolist()
    [0.5, 0.25]
    """
    return divide(1, x)
