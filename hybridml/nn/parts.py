"""What hangs on a module: its attributes, those of the modules among them, and what lists, tuples and dicts hold, each by a path."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import hybridml as hml
from hybridml import pytree

RECORD = "_module"  # the attribute in which a module keeps what is nobody's business but its own
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Again:
    """A module that is met a second time, by the path of the first."""

    def __init__(self, path: str) -> None:
        self.path = path


def walk(module: Any) -> Iterator[tuple[str, Any]]:
    """(path, value) of everything below a module, in the order of assignment: `("layers.0.kernel", Variable(...))`.

    Lists, tuples, dicts and modules are entered; a module comes before its attributes, and the second time as `Again`.
    """
    found: list[tuple[str, Any]] = []
    seen = {id(module): ""}
    for name, x in vars(module).items():
        if name != RECORD:
            _visit(name, x, seen, found)
    return iter(found)


def _visit(path: str, x: Any, seen: dict[int, str], found: list[tuple[str, Any]]) -> None:
    cls = type(x)
    if cls in _PLAIN:
        found.append((path, x))
    elif cls is list or cls is tuple:
        for i, y in enumerate(x):
            _visit(f"{path}.{i}", y, seen, found)
    elif cls is dict:
        for k, y in x.items():
            _visit(f"{path}.{k}", y, seen, found)
    elif pytree.is_state(x):
        if id(x) in seen:
            found.append((path, Again(seen[id(x)])))
            return
        seen[id(x)] = path
        found.append((path, x))
        for name, y in vars(x).items():
            if name != RECORD:
                _visit(f"{path}.{name}", y, seen, found)
    else:
        found.append((path, x))


class Same:
    """Stands for an object in a key: equal to what stands for the same object, which it does not keep alive."""

    __slots__ = ("_id", "_name", "_ref")

    def __init__(self, x: Any) -> None:
        self._id, self._name = id(x), getattr(x, "__name__", f"{type(x).__name__} object")
        try:
            self._ref: Callable[[], Any] = weakref.ref(x)
        except TypeError:
            self._ref = lambda: x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._id == other._id and self._ref() is other._ref() is not None

    def __hash__(self) -> int:
        return self._id

    def __repr__(self) -> str:
        return self._name


class Form:
    """What a module is besides its variables: the classes below it, numbers and strings by value, other objects by identity."""

    __slots__ = ("_hash", "_ref", "labels", "statics")

    def __init__(self, module: Any, labels: tuple[str, ...], statics: tuple[tuple[str, Any], ...]) -> None:
        self._ref = weakref.ref(module)
        self.labels, self.statics = labels, statics
        self._hash = hash((labels, statics))

    def object(self) -> Any:
        return self._ref()

    def watched(self) -> Iterator[tuple[str, Any, Any]]:
        module = self.object()
        for path, x in [("", module), *walk(module)]:
            if pytree.is_state(x):
                yield path, x, x.call

    def __eq__(self, other: Any) -> bool:
        return (
            isinstance(other, Form)
            and self._hash == other._hash
            and self.labels == other.labels
            and self.statics == other.statics
        )

    def __hash__(self) -> int:
        return self._hash

    def difference(self, other: Form) -> tuple[str, str, str] | None:
        mine, its = ({path: key for path, key in f.statics} for f in (self, other))
        for path in dict.fromkeys([*mine, *its]):
            if mine.get(path) != its.get(path):
                return (
                    f".{path}",
                    _said(mine[path]) if path in mine else "not there",
                    _said(its[path]) if path in its else "not there",
                )
        return ("", f"a module of variables {list(self.labels)}", f"one of variables {list(other.labels)}")


def _said(key: Any) -> str:
    return key[1] if isinstance(key, tuple) else repr(key)


def _key(x: Any) -> Any:
    if type(x) in _PLAIN:
        return (type(x), repr(x))  # 1, 1.0 and True are three; NaN is itself
    if isinstance(x, Again):
        return (Again, x.path)
    return (type(x), type(x).__name__) if pytree.is_state(x) else Same(x)


def opened(module: Any) -> tuple[list[Any], Form]:
    """A module as state and form, for `hybridml.pytree`."""
    variables, labels, statics = [], [], []
    for path, x in walk(module):
        if isinstance(x, hml.Variable):
            variables.append(x)
            labels.append(f".{path}")
        elif not isinstance(x, hml.initializers.Initializer):  # only `build` reads those
            statics.append((path, _key(x)))
    return variables, Form(module, tuple(labels), tuple(statics))


def register(cls: type) -> None:
    pytree.register_state(cls, opened)
