"""vmap: a function of one example as a function of many, without a loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hybridml import pytree
from hybridml.eager.batch_tensor import BatchTensor, Level
from hybridml.eager.dispatch import lift
from hybridml.eager.state import traced_form
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import ShapeError
from hybridml.ops.spec import all_equal, normalize_axis
from hybridml.ops.view import moveaxis
from hybridml.symbolic import is_number

Axes = Any  # int, None, or a nest of them


def vmap(f: Callable[..., Any], in_axes: Axes = 0, out_axes: Axes = 0) -> Callable[..., Any]:
    """A function that applies `f` to every example of its arguments, all in one go, and puts the results side by side.

    in_axes: the axis of each positional argument that counts the examples; None hands the argument on whole. One number is for all
    tensors among the arguments; a tuple has one for each argument, which may be a nest (a prefix of the argument's). Tensors among
    keyword arguments are mapped along axis 0.
    out_axes: the axis of each result along which the examples are put, a number or a nest likewise; None for a result that does not
    depend on the examples.

    Equals a loop over the examples: random numbers are drawn for each of them. Works eagerly and traced, nested, around and under
    gradients. Raises ShapeError where the axes disagree on the number of examples, ValueError where nothing is mapped.

    >>> import hybridml as hml
    >>> rows, w = hml.asarray([[1., 2.], [3., 4.]]), hml.asarray([1., 10.])
    >>> hml.vmap(lambda x, w: (x * w).sum(), in_axes=(0, None))(rows, w).tolist()
    [21.0, 43.0]
    >>> hml.vmap(hml.grad(lambda x: (x ** 2).sum()))(rows).tolist()  # a gradient for each example
    [[2.0, 4.0], [6.0, 8.0]]
    """

    @functools.wraps(f, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = pytree.flatten((args, kwargs))
        axes = _spread(tuple(in_axes) if isinstance(in_axes, list) else in_axes, args, "in_axes")
        given = (
            len(axes) if isinstance(in_axes, (tuple, list)) else 0
        )  # the others are tensors, or handed on as they are
        axes += [0] * (len(leaves) - len(axes))
        axes = [
            a if i < given or _is_tensor(x) else None
            for i, (x, a) in enumerate(zip(leaves, axes, strict=True))
        ]
        sizes: list[Any] = []
        moved: list[Any] = []
        for x, axis in zip(leaves, axes, strict=True):
            if axis is not None:
                x = _tensor(x)
                if x.ndim == 0:
                    raise ShapeError(
                        "vmap maps along an axis, but an argument has no dimensions; give it in_axes None"
                    )
                axis = normalize_axis(axis, x.ndim)
                sizes.append(x.shape[axis])
                x = moveaxis(x, axis, 0)
            moved.append(x)
        if not sizes or not all_equal(sizes):
            if not sizes:
                raise ValueError(
                    "vmap has nothing to map: every axis in in_axes is None, or there are no tensors"
                )
            shapes = [x.shape for x, a in zip(leaves, axes, strict=True) if a is not None]
            raise ShapeError(
                f"vmap found different numbers of examples, {sorted(set(sizes))}: arguments of shapes {shapes} along axes "
                f"{[a for a in axes if a is not None]}"
            )
        with Level(sizes[0]).entered() as level:
            examples = [x if a is None else level.wrap(x) for x, a in zip(moved, axes, strict=True)]
            inner_args, inner_kwargs = pytree.unflatten(structure, examples)
            out, shape = pytree.flatten(traced_form(f)(*inner_args, **inner_kwargs))
            places = _spread(out_axes, pytree.unflatten(shape, out), "out_axes")
            return pytree.unflatten(shape, [_result(level, x, a) for x, a in zip(out, places, strict=True)])

    return mapped


def _is_tensor(x: Any) -> bool:
    return isinstance(x, (Tensor, Variable)) or hasattr(x, "__array__")


def _tensor(x: Any) -> Tensor:
    if _is_tensor(x):
        return lift(x)
    raise TypeError(
        f"vmap can map over tensors only, got {type(x).__name__} {x!r}; give it in_axes None to hand it on as it is"
    )


def _result(level: Level, x: Any, axis: int | None) -> Any:
    """A result with its examples along `axis`."""
    if isinstance(x, Variable):
        x = x.value()
    mapped = isinstance(x, BatchTensor) and x._level is level
    if axis is None:
        if mapped:
            raise ValueError(f"out_axes is None for a result that differs from example to example ({x!r})")
        return x
    if not isinstance(x, Tensor) and not is_number(x):
        return x
    with level.outside():
        wide = level.physical(lift(x))
        return moveaxis(wide, 0, normalize_axis(axis, wide.ndim))


def _spread(axes: Axes, nest: Any, what: str) -> list[int | None]:
    """One axis for each leaf of a nest, of which `axes` is a prefix."""
    if axes is None or (isinstance(axes, int) and not isinstance(axes, bool)):
        return [axes] * len(pytree.leaves(nest))
    children, parts = _children(axes), _children(nest)
    if parts is None or children is None or [k for k, _ in children] != [k for k, _ in parts]:
        raise ValueError(
            f"{what} {axes!r} does not fit {_shown(nest)}: give one axis, or a nest of the same form"
        )
    return [a for (_, x), (_, y) in zip(children, parts, strict=True) for a in _spread(x, y, what)]


def _children(x: Any) -> list[tuple[Any, Any]] | None:
    if isinstance(x, (list, tuple)):
        return list(enumerate(x))
    return sorted(x.items()) if isinstance(x, dict) else None


def _shown(nest: Any) -> str:
    return f"a nest {pytree.flatten(nest)[1]}"
