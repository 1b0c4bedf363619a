"""Operations that hand their operand on: a stop to gradients, a gradient sent elsewhere, and a check of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import CheckError, DTypeError, NonFiniteError, ShapeError
from hybridml.ops.batching import stretched
from hybridml.ops.door import call, lift
from hybridml.ops.elementwise import astype
from hybridml.ops.registry import Kind, Op, Promote, Sample, public, register
from hybridml.ops.samples import unary_samples

STOP_GRADIENT = register(Op(
    "stop_gradient", Kind.VIEW, infer=lambda x: x, eager=lambda xp, x: x, view=lambda layout: layout, promote=Promote.NO,
    samples=lambda rng: [Sample(s.args, differentiable=False, label=s.label) for s in unary_samples(-3, 3)(rng)],
    reference=lambda x: x,
))  # fmt: skip


@public(STOP_GRADIENT)
def stop_gradient(x: Any, /) -> Any:
    """The same values, constant to every gradient.

    >>> import hybridml as hml
    >>> x = hml.asarray(3.0)
    >>> float(hml.grad(lambda x: x * hml.stop_gradient(x))(x))
    3.0
    """
    return call(STOP_GRADIENT, lift(x))


# A recomputation reads its operands through this: it is then no copy of the first computation, and no part of it can begin before
# the gradient that it is for. It takes no time and no memory.
RECOMPUTE = register(Op(
    "recompute", Kind.VIEW, infer=lambda x, after: x, eager=lambda xp, x, after: x, view=lambda layout: layout, promote=Promote.NO,
    vjps=(lambda g, out, x, after: g, None),
    batch=lambda operands, mapped, size, attrs: stretched(operands[0], mapped[0], size),
))  # fmt: skip


def _infer_straight_through(x: Any, source: Any) -> Any:
    if x.shape != source.shape:
        raise ShapeError(
            f"a value of shape {x.shape} and a source of shape {source.shape}; they must be equal"
        )
    if x.dtype != source.dtype:
        raise DTypeError(
            f"a value of dtype {x.dtype.name} and a source of dtype {source.dtype.name}; they must be equal"
        )
    return x


STRAIGHT_THROUGH = register(Op(
    "straight_through", Kind.ELEMENTWISE, infer=_infer_straight_through,
    eager=lambda xp, x, source: _infer_straight_through(x, source), scalar="{0}",
    expand=lambda x, source: x, vjps=(None, lambda g, out, x, source: g), promote=Promote.NO,
    # The gradient is not the derivative; only where there are no elements do the two agree.
    samples=lambda rng: [
        Sample((rng.normal(size=s), rng.normal(size=s)), differentiable=0 in s, label=f"shape {s}") for s in ((3, 5), (), (0, 3))
    ],
    reference=lambda x, source: x,
))  # fmt: skip


@public(STRAIGHT_THROUGH)
def straight_through(x: Any, source: Any, /) -> Any:
    """The values of `x`, whose gradient goes to `source` as if they were its own: for rounding and other steps without a slope.

    `x` and `source` have one shape and dtype.

    >>> import hybridml as hml
    >>> x = hml.asarray([0.4, 1.6])
    >>> hml.grad(lambda x: (hml.straight_through(hml.round(x), x) ** 2).sum())(x).tolist()
    [0.0, 4.0]
    """
    return call(STRAIGHT_THROUGH, lift(x, source), lift(source, x))


def _eager_check(xp: Any, x: Any, *, message: str) -> Any:
    if dtypes.is_float(x.dtype):
        bad = ~xp.isfinite(x)
        n = int(bad.sum())
        if n:
            first = tuple(int(i) for i in np.unravel_index(int(bad.reshape(-1).argmax()), x.shape))
            raise NonFiniteError(
                f"{message or 'check_finite'}: {n} of {x.size} elements are not finite, the first at {first} is {x[first]}"
            )
    return x


CHECK_FINITE = register(Op(
    "check_finite", Kind.EFFECT, provider="check_finite", infer=lambda x, *, message: x, eager=_eager_check, promote=Promote.NO,
    vjps=(lambda g, out, x, *, message: g,), batch=lambda operands, mapped, size, attrs: check_finite(operands[0], attrs["message"]),
    samples=lambda rng: unary_samples(-3, 3)(rng), reference=lambda x: x,
))  # fmt: skip


@public(CHECK_FINITE)
def check_finite(x: Any, message: str = "", /) -> Any:
    """`x` itself, or NonFiniteError with the message if an element is NaN or infinite.

    >>> import hybridml as hml
    >>> hml.check_finite([1., 2.], "the loss").tolist()
    [1.0, 2.0]
    """
    return call(CHECK_FINITE, lift(x), message=message)


def _eager_true(xp: Any, x: Any, *, message: str) -> Any:
    if not bool(x.all()):
        raise CheckError(message)
    return x


CHECK_TRUE = register(Op(
    "check_true", Kind.EFFECT, provider="check_true", infer=lambda x, *, message: x, eager=_eager_true, promote=Promote.NO,
    samples=lambda rng: [Sample((np.array([True, True]),), differentiable=False)], reference=lambda x: x,
))  # fmt: skip


@public(CHECK_TRUE)
def check_true(x: Any, message: str = "", /) -> Any:
    """`x` itself, or CheckError (an AssertionError) with the message if an element is false. `assert` on a tensor is this.

    >>> import hybridml as hml
    >>> hml.check_true(hml.asarray([1, 2]) > 0, "counts are positive").tolist()
    [True, True]
    """
    return call(
        CHECK_TRUE, astype(lift(x), dtypes.bool_), message=message or "check_true: an element is false"
    )
