"""What hangs on a module: its attributes, those of the modules among them, and what lists, tuples and dicts hold, each by a path."""

from __future__ import annotations

import operator
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


class Walk:
    """What a walk over a module found, and what it looked at, to tell whether it would still find the same.

    found  (path, value) of everything below the module, in the order of assignment: `("layers.0.kernel", Variable(...))`. Lists, tuples,
           dicts and modules are entered; a module comes before its attributes, and the second time as `Again`
    """

    __slots__ = ("_form", "_paths", "found", "looked_at", "variables")

    def __init__(self, module: Any) -> None:
        self.found: list[tuple[str, Any]] = []
        self.looked_at: list[
            tuple[Any, list[Any] | None, list[Any]]
        ] = []  # a dict or a list, its keys, its values
        self._paths = {id(module): ""}
        self._attributes("", module)
        self.variables = [x for _, x in self.found if isinstance(x, hml.Variable)]
        self._form: Form | None = None

    def _attributes(self, path: str, module: Any) -> None:
        attributes = vars(module)
        self.looked_at.append((attributes, list(attributes), list(attributes.values())))
        for name, x in list(attributes.items()):
            if name != RECORD:
                self._visit(f"{path}{name}", x)

    def _visit(self, path: str, x: Any) -> None:
        cls = type(x)
        if cls is list or cls is tuple:
            if cls is list:
                self.looked_at.append((x, None, list(x)))
            for i, y in enumerate(x):
                self._visit(f"{path}.{i}", y)
        elif cls is dict:
            self.looked_at.append((x, list(x), list(x.values())))
            for k, y in x.items():
                self._visit(f"{path}.{k}", y)
        elif not pytree.is_state(x):
            self.found.append((path, x))
        elif id(x) in self._paths:
            self.found.append((path, Again(self._paths[id(x)])))
        else:
            self._paths[id(x)] = path
            self.found.append((path, x))
            self._attributes(f"{path}.", x)

    @property
    def holds(self) -> bool:
        """True if nothing was assigned, added or taken away since."""
        for container, keys, values in self.looked_at:
            if len(container) != len(values):
                return False
            if keys is None:
                if not all(map(operator.is_, container, values)):
                    return False
            elif not all(map(operator.is_, container.values(), values)) or list(container) != keys:
                return False
        return True

    def form(self, module: Any) -> Form:
        if self._form is None:
            left_out = (
                hml.Variable,
                hml.initializers.Initializer,
            )  # the state itself, and what only `build` reads
            labels = tuple([f".{path}" for path, x in self.found if isinstance(x, hml.Variable)])
            statics = [(path, _key(x)) for path, x in self.found if not isinstance(x, left_out)]
            self._form = Form(module, labels, tuple(statics))
        return self._form


def walk(module: Any) -> Walk:
    """The walk over a module, a new one only where the last does not hold any more."""
    record = getattr(module, RECORD)
    known = record.walk
    if known is None or not known.holds:
        known = record.walk = Walk(module)
    return known


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

    def contents(self) -> Iterator[tuple[Any, list[Any]]]:
        for container, _, values in walk(self.object()).looked_at:
            yield container, values

    def watched(self) -> Iterator[tuple[str, Any, Any]]:
        module = self.object()
        for path, x in [("", module), *walk(module).found]:
            if pytree.is_state(x):
                yield path, x, x.call

    def __eq__(self, other: Any) -> bool:
        return self is other or (
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
    found = walk(module)
    return list(found.variables), found.form(module)


def register(cls: type) -> None:
    pytree.register_state(cls, opened)
