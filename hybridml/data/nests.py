"""Elements are nests of tensors: tuples, lists and dicts with tensors at the ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hybridml as hml
from hybridml import pytree
from hybridml.errors import ShapeError


def tensors(x: Any) -> Any:
    """A nest of tuples and dicts with its ends as tensors; a list is data."""
    if isinstance(x, tuple):
        made = [tensors(y) for y in x]
        return type(x)(*made) if hasattr(x, "_fields") else tuple(made)
    if isinstance(x, dict):
        return {k: tensors(y) for k, y in x.items()}
    return hml.asarray(x)


def rows(x: Any) -> int:
    """How many rows the tensors of a nest have. Raises ShapeError where they differ or have no axes."""
    leaves = pytree.leaves(x)
    sizes = {t.shape[0] if t.ndim else -1 for t in leaves}
    if len(sizes) != 1 or -1 in sizes:
        raise ShapeError(
            f"a dataset's tensors need equal first axes, one row an element; got the shapes {[t.shape for t in leaves]}"
        )
    return sizes.pop()


def stack(elements: Sequence[Any]) -> Any:
    """One nest with a new first axis. Raises ShapeError, as `hml.stack`, where elements differ."""
    first, form = pytree.flatten(elements[0])
    columns: list[list[Any]] = [[] for _ in first]
    for e in elements:
        leaves, structure = pytree.flatten(e)
        if structure != form:
            raise ShapeError(f"elements of one batch must be nested alike, got {form} and {structure}")
        for column, x in zip(columns, leaves, strict=True):
            column.append(hml.asarray(x))
    return pytree.unflatten(form, [hml.stack(c) for c in columns])


def specs(x: Any) -> Any:
    return pytree.map(lambda t: hml.asarray(t).spec, x)


def applied(f: Callable[..., Any], element: Any) -> Any:
    """`f` of an element; a tuple is several arguments."""
    f = hml.traced_form(f)
    return f(*element) if type(element) is tuple else f(element)
