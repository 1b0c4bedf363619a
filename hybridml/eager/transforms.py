"""Gradients as functions of functions, on top of the tape: each is a few lines, so each works traced and at any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import ones_like, zeros
from hybridml.eager.dispatch import lift
from hybridml.eager.state import traced_form
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.errors import ShapeError
from hybridml.ops.elementwise import positive

Argnums = int | Sequence[int]


def _select(args: tuple[Any, ...], argnums: Argnums) -> Any:
    return args[argnums] if isinstance(argnums, int) else tuple([args[i] for i in argnums])


def _fresh(args: tuple[Any, ...], argnums: Argnums) -> tuple[Any, ...]:
    """The arguments with those to be differentiated as tensors of their own, so that no two share a gradient."""
    chosen = {argnums} if isinstance(argnums, int) else set(argnums)
    chosen = {i % len(args) for i in chosen}
    return tuple([pytree.map(_own, a) if i in chosen else a for i, a in enumerate(args)])


def _own(x: Any) -> Any:
    """An alias under its own name that outer tapes still follow."""
    x = lift(x)
    return positive(x) if dtypes.is_float(x.dtype) else x


def value_and_grad(
    f: Callable[..., Any], argnums: Argnums = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns f's value and its gradient with respect to the arguments `argnums`.

    f returns one element; with `has_aux` it returns (that, anything else), and so does the value. Arguments may be nested
    structures; the gradient has their structure, with zeros where f does not depend on them.

    >>> import hybridml as hml
    >>> value, g = hml.value_and_grad(lambda x: (x * x).sum())(hml.asarray([1., 2.]))
    >>> float(value), g.tolist()
    (5.0, [2.0, 4.0])
    """

    def with_gradient(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        args = _fresh(args, argnums)
        sources = _select(args, argnums)
        with GradientTape() as tape:
            tape.watch(sources)
            out = traced_form(f)(*args, **kwargs)
        target = out[0] if has_aux else out
        if not isinstance(target, Tensor):
            raise TypeError(
                f"the function must return a tensor to be differentiated, got {type(target).__name__}"
            )
        if target.size != 1:
            raise ShapeError(
                f"grad needs a function of one element, got shape {target.shape}; use hml.jacobian or hml.vjp"
            )
        return out, tape.gradient(target, sources, unconnected_gradients="zero")

    return with_gradient


def grad(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """A function that returns f's gradient with respect to the arguments `argnums`.

    >>> import hybridml as hml
    >>> float(hml.grad(hml.grad(lambda x: x**3))(hml.asarray(2.0)))
    12.0
    """
    with_gradient = value_and_grad(f, argnums)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        return with_gradient(*args, **kwargs)[1]

    return gradient


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """f(*primals), and the function that takes a cotangent of that to the cotangents of the primals.

    >>> import hybridml as hml
    >>> y, pull = hml.vjp(lambda x: x * x, hml.asarray([1., 2.]))
    >>> pull(hml.asarray([1., 10.]))[0].tolist()
    [2.0, 40.0]
    """
    primals = _fresh(primals, tuple(range(len(primals))))
    with GradientTape(persistent=True) as tape:
        tape.watch(primals)
        out = traced_form(f)(*primals)

    def pull(cotangent: Any) -> tuple[Any, ...]:
        return tape.gradient(out, primals, output_gradients=cotangent, unconnected_gradients="zero")

    return out, pull


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """f(*primals), and its derivative along the tangents: shape for shape that of the result.

    The vjp is linear in its cotangent, so its own vjp is the jvp: two backward walks and no forward rules.

    >>> import hybridml as hml
    >>> y, dy = hml.jvp(lambda x: x * x, (hml.asarray(3.0),), (hml.asarray(1.0),))
    >>> float(y), float(dy)
    (9.0, 6.0)
    """
    ins = tuple(primals)
    directions = [lift(t) for t in pytree.leaves(tuple(tangents))]
    shapes = [lift(p).shape for p in pytree.leaves(ins)]
    if [t.shape for t in directions] != shapes:
        raise ShapeError(f"tangents of shapes {[t.shape for t in directions]} for primals of shapes {shapes}")
    with GradientTape(persistent=True, watch_accessed_variables=False) as outer:
        out, pull = vjp(f, *ins)
        dummies = pytree.map(ones_like, out)
        outer.watch(dummies)
        rows = pytree.leaves(pull(dummies))
    # A row that does not depend on the dummies (a zero) contributes nothing.
    tangent = outer.gradient(rows, dummies, output_gradients=directions, unconnected_gradients="zero")
    return out, tangent


def jacobian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """A function that returns d f / d argument, of shape f's shape + the argument's shape.

    >>> import hybridml as hml
    >>> hml.jacobian(lambda x: x * x)(hml.asarray([1., 2.])).tolist()
    [[2.0, 0.0], [0.0, 4.0]]
    """

    def rows(*args: Any, **kwargs: Any) -> Any:
        args = _fresh(args, argnums)
        sources = _select(args, argnums)
        with GradientTape(persistent=True) as tape:
            tape.watch(sources)
            out = traced_form(f)(*args, **kwargs)
        if out.size == 0:
            return pytree.map(lambda s: zeros((*out.shape, *s.shape), dtype=s.dtype), sources)
        return tape.jacobian(out, sources, unconnected_gradients="zero")

    return rows


def hessian(f: Callable[..., Any], argnums: Argnums = 0) -> Callable[..., Any]:
    """A function that returns the second derivatives of a function of one element.

    >>> import hybridml as hml
    >>> hml.hessian(lambda x: (x**3).sum())(hml.asarray([1., 2.])).tolist()
    [[6.0, 0.0], [0.0, 12.0]]
    """
    return jacobian(grad(f, argnums), argnums)
