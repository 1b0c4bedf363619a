"""Nested structures: flatten to leaves, rebuild from leaves.

Lists, tuples, named tuples, dicts (in sorted key order where keys can be sorted), dataclasses and None are nodes; all else is a
leaf. Other classes join with `register`. (The idea and the name are JAX's `jax.tree_util`.)

Objects that hold state and are changed in place, such as modules, are leaves too: a copy of one is another one. Who asks for the
state in them (`flatten(x, opened=True)`) gets it; `unflatten` gives the object itself back. Their classes join with `register_state`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Protocol

_Flatten = Callable[[Any], tuple[list[Any], Hashable]]
_Rebuild = Callable[[Hashable, list[Any]], Any]


class Form(Protocol):
    """What an object with state is besides the state: two objects of equal forms do the same with equal state."""

    labels: tuple[str, ...]  # of the children, for people: (".kernel", ".bias")

    def __hash__(self) -> int: ...
    def object(self) -> Any:
        """The object that was flattened, held weakly."""

    def difference(self, other: Any) -> tuple[str, str, str] | None:
        """(label, old, new) of the first thing in which another form of the same class differs."""

    def contents(self) -> Iterator[tuple[dict[Any, Any] | list[Any], list[Any]]]:
        """(container, what it holds) of everything below the object that can be changed in place: as long as each holds the very same
        objects, the object has this form and this state."""

    def watched(self) -> Iterator[tuple[str, Any, Callable[..., Any]]]:
        """(path, object, the function that calling it runs) of the object and of every object with state below it."""


_REGISTRY: dict[type, tuple[_Flatten, _Rebuild]] = {}
_STATE: dict[type, Callable[[Any], tuple[list[Any], Form]]] = {}
_LEAVES: set[type] = set()  # types known to be leaves, so that a walk over many of them asks once


def register(cls: type, flatten: _Flatten, rebuild: _Rebuild) -> None:
    """Make `cls` a node: `flatten(x) -> (children, aux)` and `rebuild(aux, children) -> x`; `aux` is hashable."""
    _REGISTRY[cls] = (flatten, rebuild)
    _LEAVES.clear()


def register_state(cls: type, flatten: Callable[[Any], tuple[list[Any], Form]]) -> None:
    """Make `cls` and its subclasses objects with state: `flatten(x) -> (state, form)`."""
    _STATE[cls] = flatten
    _LEAVES.clear()


def is_state(x: Any) -> bool:
    """True for an object with state."""
    return isinstance(x, tuple(_STATE))


def is_container(cls: type) -> bool:
    """True for lists, tuples, dictionaries and named tuples: all that is in them is their items."""
    return cls in (list, tuple, dict) or (
        issubclass(cls, tuple) and hasattr(cls, "_fields") and cls not in _REGISTRY
    )


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
        if self.node is type(None):
            return "None"
        inner = ", ".join([str(c) for c in self.children])  # `map` is this module's own
        return f"{self.node.__name__}({inner})"


LEAF = Structure(None)


def labels(s: Structure) -> list[str]:
    """What to write behind a name to mean each of its children: `[0]`, `['key']`, `.field`."""
    if hasattr(s.aux, "labels"):
        return list(s.aux.labels)
    if isinstance(s.aux, tuple):
        return [f"[{k!r}]" for k in s.aux]
    return [f"[{i}]" for i in range(len(s.children))]


def difference(a: Structure, b: Structure) -> tuple[str, str, str] | None:
    """(path, old, new) of the first object with state that is in the same place of both and has another form; else None."""
    if a.node is not b.node:
        return None
    if hasattr(a.aux, "difference"):
        return None if a.aux == b.aux else a.aux.difference(b.aux)
    if a.aux != b.aux:
        return None
    for label, x, y in zip(labels(a), a.children, b.children, strict=False):
        found = difference(x, y)
        if found is not None:
            return (label + found[0], *found[1:])
    return None


def _children(x: Any, opened: bool = False) -> tuple[list[Any], Hashable] | None:
    cls = type(x)
    if cls in _LEAVES:
        return None
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
    if opened:
        for base, open_ in _STATE.items():
            if isinstance(x, base):
                return open_(x)
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
    if not is_state(x):  # which may be opened the next time
        _LEAVES.add(cls)
    return None


def flatten(x: Any, opened: bool = False) -> tuple[list[Any], Structure]:
    """Leaves in order, and the structure that `unflatten` needs. `opened`: objects with state are nodes too.

    >>> flatten({"b": 1, "a": (2, [3])})[0]
    [2, 3, 1]
    """
    leaves: list[Any] = []
    return leaves, _flatten_into(x, leaves, opened)


def _flatten_into(x: Any, leaves: list[Any], opened: bool) -> Structure:
    split = _children(x, opened)
    if split is None:
        leaves.append(x)
        return LEAF
    children, aux = split
    return Structure(type(x), aux, tuple([_flatten_into(c, leaves, opened) for c in children]))


def leaves(x: Any) -> list[Any]:
    return flatten(x)[0]


def leaves_of(x: Any, structure: Structure) -> list[Any] | None:
    """The leaves of `x`, opened, if it has this structure, else None: cheaper than to flatten it and compare.

    >>> nest = flatten([1, {"a": 2}])[1]
    >>> leaves_of([3, {"a": 4}], nest), leaves_of([3, {"b": 4}], nest)
    ([3, 4], None)
    """
    found: list[Any] = []
    return found if _collect(x, structure, found) else None


def _collect(x: Any, s: Structure, found: list[Any]) -> bool:
    cls, node = type(x), s.node
    if node is None:
        if _children(x) is not None:
            return False
        found.append(x)
        return True
    if cls is not node:
        return False
    if cls is list or cls is tuple:
        if len(x) != len(s.children):
            return False
        return all([_collect(c, child, found) for c, child in zip(x, s.children, strict=True)])
    if cls is dict:
        keys: Any = s.aux
        if len(x) != len(keys):
            return False
        return all(
            [k in x and _collect(x[k], child, found) for k, child in zip(keys, s.children, strict=True)]
        )
    leaves, structure = flatten(x, opened=True)
    found += leaves
    return structure == s


def unflatten(structure: Structure, values: Iterable[Any]) -> Any:
    """The nest of that structure with these leaves."""
    return builder(structure)(iter(values))


def builder(s: Structure) -> Callable[[Iterator[Any]], Any]:
    """`unflatten` of one structure, made once for many calls: a function of an iterator over the leaves.

    >>> pair = builder(flatten({"a": 1, "b": [2]})[1])
    >>> pair(iter("xy"))
    {'a': 'x', 'b': ['y']}
    """
    cls: Any = s.node
    if cls is None:
        return next
    if cls is type(None):
        return lambda values: None
    if issubclass(cls, tuple(_STATE)):
        return _given_back(s.aux, s.n_leaves)
    if cls in (list, tuple) and all(c.node is None for c in s.children):
        return lambda values: cls(itertools.islice(values, len(s.children)))
    parts, keys = [builder(c) for c in s.children], s.aux
    if cls is list:
        return lambda values: [part(values) for part in parts]
    if cls is tuple:
        return lambda values: tuple([part(values) for part in parts])
    if cls is dict:
        return lambda values: {key: part(values) for key, part in zip(keys, parts, strict=True)}  # type: ignore[call-overload]
    for base in cls.__mro__:
        if base in _REGISTRY:
            rebuild = _REGISTRY[base][1]
            return lambda values: rebuild(keys, [part(values) for part in parts])
    if issubclass(cls, tuple):
        return lambda values: cls(*[part(values) for part in parts])
    return lambda values: cls(**{key: part(values) for key, part in zip(keys, parts, strict=True)})  # type: ignore[call-overload]


def _given_back(form: Any, n: int) -> Callable[[Iterator[Any]], Any]:
    """An object with state, as it is: what the leaves would be is passed over."""

    def give(values: Iterator[Any]) -> Any:
        for _ in itertools.islice(values, n):
            pass
        return form.object()

    return give


def map(f: Callable[..., Any], x: Any, *rest: Any) -> Any:
    """`f` over corresponding leaves.

    >>> map(lambda a, b: a + b, {"x": 1}, {"x": 2})
    {'x': 3}
    """
    first, structure = flatten(x)
    others = [flatten(r)[0] for r in rest]
    return unflatten(structure, [f(*group) for group in zip(first, *others, strict=True)])
