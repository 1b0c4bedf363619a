"""Nested structures: flatten to leaves, rebuild from leaves.

Lists, tuples, named tuples, dicts (in sorted key order where keys can be sorted), dataclasses and None are nodes; all else is a
leaf. Other classes join with `register`. (The idea and the name are JAX's `jax.tree_util`.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

_Flatten = Callable[[Any], tuple[list[Any], Hashable]]
_Rebuild = Callable[[Hashable, list[Any]], Any]
_REGISTRY: dict[type, tuple[_Flatten, _Rebuild]] = {}


def register(cls: type, flatten: _Flatten, rebuild: _Rebuild) -> None:
    """Make `cls` a node: `flatten(x) -> (children, aux)` and `rebuild(aux, children) -> x`; `aux` is hashable."""
    _REGISTRY[cls] = (flatten, rebuild)


@dataclasses.dataclass(frozen=True)
class Structure:
    """The shape of a nest without its leaves: hashable, so it can be part of a trace's key."""

    node: type | None  # None is a leaf
    aux: Hashable = None
    children: tuple[Structure, ...] = ()

    @property
    def n_leaves(self) -> int:
        return 1 if self.node is None else sum(c.n_leaves for c in self.children)

    def __str__(self) -> str:
        if self.node is None:
            return "*"
        inner = ", ".join([str(c) for c in self.children])  # `map` is this module's own
        return f"{self.node.__name__}({inner})"


LEAF = Structure(None)


def _children(x: Any) -> tuple[list[Any], Hashable] | None:
    cls = type(x)
    if x is None:
        return [], None
    if cls is list or cls is tuple:
        return list(x), None
    if cls is dict:
        try:
            keys = sorted(x)
        except TypeError:
            keys = list(x)
        return [x[k] for k in keys], tuple(keys)
    if cls in _REGISTRY:
        return _REGISTRY[cls][0](x)
    if isinstance(x, tuple) and hasattr(cls, "_fields"):
        return list(x), None
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        names = tuple(f.name for f in dataclasses.fields(x) if f.init)
        return [getattr(x, n) for n in names], names
    for base, (flatten_base, _) in _REGISTRY.items():
        if isinstance(x, base):
            return flatten_base(x)
    return None


def flatten(x: Any) -> tuple[list[Any], Structure]:
    """Leaves in order, and the structure that `unflatten` needs.

    >>> flatten({"b": 1, "a": (2, [3])})[0]
    [2, 3, 1]
    """
    leaves: list[Any] = []
    return leaves, _flatten_into(x, leaves)


def _flatten_into(x: Any, leaves: list[Any]) -> Structure:
    split = _children(x)
    if split is None:
        leaves.append(x)
        return LEAF
    children, aux = split
    return Structure(type(x), aux, tuple([_flatten_into(c, leaves) for c in children]))


def leaves(x: Any) -> list[Any]:
    return flatten(x)[0]


def unflatten(structure: Structure, values: Iterable[Any]) -> Any:
    """The nest of that structure with these leaves."""
    return _build(structure, iter(values))


def _build(s: Structure, values: Iterator[Any]) -> Any:
    if s.node is None:
        return next(values)
    children = [_build(c, values) for c in s.children]
    cls: Any = s.node
    if cls is type(None):
        return None
    if cls is list:
        return children
    if cls is tuple:
        return tuple(children)
    if cls is dict:
        return dict(zip(s.aux, children, strict=True))  # type: ignore[call-overload]
    for base in cls.__mro__:
        if base in _REGISTRY:
            return _REGISTRY[base][1](s.aux, children)
    if issubclass(cls, tuple):
        return cls(*children)
    return cls(**dict(zip(s.aux, children, strict=True)))  # type: ignore[call-overload]


def map(f: Callable[..., Any], x: Any, *rest: Any) -> Any:
    """`f` over corresponding leaves.

    >>> map(lambda a, b: a + b, {"x": 1}, {"x": 2})
    {'x': 3}
    """
    first, structure = flatten(x)
    others = [flatten(r)[0] for r in rest]
    return unflatten(structure, [f(*group) for group in zip(first, *others, strict=True)])
