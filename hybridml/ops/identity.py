"""Operations that hand their operand on: a stop to gradients, and a check of values."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.dtypes import bool_
from hybridml.errors import CheckError, NonFiniteError
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


def _eager_check(xp: Any, x: Any, *, message: str) -> Any:
    if x.dtype.kind == "f":
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
    vjps=(lambda g, out, x, *, message: g,),
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
    if not x.all():
        raise CheckError(message)
    return x


CHECK_TRUE = register(Op(
    "check_true", Kind.EFFECT, infer=lambda x, *, message: x, eager=_eager_true, promote=Promote.NO,
    samples=lambda rng: [Sample((np.array([True, True]),), differentiable=False)], reference=lambda x: x,
))  # fmt: skip


@public(CHECK_TRUE)
def check_true(x: Any, message: str = "", /) -> Any:
    """`x` itself, or CheckError (an AssertionError) with the message if an element is false. `assert` on a tensor is this.

    >>> import hybridml as hml
    >>> hml.check_true(hml.asarray([1, 2]) > 0, "counts are positive").tolist()
    [True, True]
    """
    return call(CHECK_TRUE, astype(lift(x), bool_), message=message or "check_true: an element is false")
