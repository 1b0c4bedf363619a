"""Random access to the elements of a dataset, the same eagerly and in a trace.

A view is one iteration's: a shuffled one has drawn its order. An index is a Python int or slice, or an integer tensor of no or one
dimension, which a loop in a graph has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import hybridml as hml
from hybridml import pytree
from hybridml.data import nests


class View(NamedTuple):
    """`get(index)` is an element, or several stacked. The first `uniform` of `length` elements have one spec, any index reaches them;
    those after it only an int or a slice does."""

    length: int
    uniform: int
    get: Callable[[Any], Any]


def is_tensor(index: Any) -> bool:
    return hasattr(index, "dtype")


def span(index: slice, length: int) -> tuple[int, int]:
    start, stop, _ = index.indices(length)
    return start, max(start, stop)


def pick(x: Any, index: Any) -> Any:
    """Rows of a tensor."""
    return hml.take(x, index, axis=0) if is_tensor(index) else x[index]


def of_tensors(data: Any, n: int) -> View:
    return View(n, n, lambda index: pytree.map(lambda x: pick(x, index), data))


def ordered(view: View, order: Any) -> View:
    """In another order; all elements must be uniform."""
    return view._replace(get=lambda index: view.get(pick(order, index)))


def shifted(view: View, start: int, length: int) -> View:
    def get(index: Any) -> Any:
        if isinstance(index, slice):
            a, b = span(index, length)
            return view.get(slice(a + start, b + start))
        return view.get(index + start)

    return View(length, max(0, min(view.uniform - start, length)), get)


def batched(view: View, size: int, drop: bool) -> View:
    whole = min(view.uniform, view.length) // size
    length = whole if drop else -(-view.length // size)

    def get(index: Any) -> Any:
        if is_tensor(index):
            numbers = hml.expand_dims(index * size, axis=-1) + hml.arange(size)
            if index.ndim == 0:
                return view.get(numbers)
            flat = view.get(hml.reshape(numbers, (-1,)))
            return pytree.map(lambda x: hml.reshape(x, (index.shape[0], size, *x.shape[1:])), flat)
        if isinstance(index, slice):
            a, b = span(index, length)
            return nests.stack([get(i) for i in range(a, b)])
        return view.get(slice(index * size, min((index + 1) * size, view.length)))

    return View(length, whole, get)


def mapped(view: View, f: Callable[..., Any]) -> View:
    def one(index: Any) -> Any:
        return nests.applied(f, view.get(index))

    def get(index: Any) -> Any:
        if isinstance(index, slice):
            a, b = span(index, view.length)
            return nests.stack([one(i) for i in range(a, b)])
        return hml.map_fn(one, index) if is_tensor(index) and index.ndim else one(index)

    return view._replace(get=get)


def zipped(form: pytree.Structure, views: list[View]) -> View:
    def get(index: Any) -> Any:
        return pytree.unflatten(form, [v.get(index) for v in views])

    return View(min(v.length for v in views), min(v.uniform for v in views), get)


def counting(n: int, start: int) -> View:
    def get(index: Any) -> Any:
        if isinstance(index, slice):
            a, b = span(index, n)
            return hml.arange(a + start, b + start)
        return hml.asarray(index + start)

    return View(n, n, get)
