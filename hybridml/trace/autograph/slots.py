"""State that a branch or a loop's body may change: a variable's cell, a global, an attribute, the contents of a list or dict.

Every slot is read and set the same way, so that operators can run two branches from one state and join what they leave behind.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class Undefined:
    """Stands for a variable that has no value."""

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = Undefined()
CONTAINERS = (list, dict, deque)  # whose contents are followed


class Slot:
    """One place of state. `name` is what the user calls it."""

    name: str
    key: Any  # the same for slots of the same place
    grows = False

    def get(self) -> Any:
        raise NotImplementedError

    def set(self, value: Any) -> None:
        raise NotImplementedError


class CellSlot(Slot):
    """A variable of the function, or of one around it."""

    def __init__(self, name: str, cell: types.CellType) -> None:
        self.name, self._cell, self.key = name, cell, id(cell)

    def get(self) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError:
            return UNDEFINED

    def set(self, value: Any) -> None:
        if value is UNDEFINED:
            del self._cell.cell_contents
        else:
            self._cell.cell_contents = value


class GlobalSlot(Slot):
    """A name declared `global`."""

    def __init__(self, name: str, names: dict[str, Any]) -> None:
        self.name, self._names, self.key = name, names, ("global", name)

    def get(self) -> Any:
        return self._names.get(self.name, UNDEFINED)

    def set(self, value: Any) -> None:
        if value is UNDEFINED:
            self._names.pop(self.name, None)
        else:
            self._names[self.name] = value


class AttributeSlot(Slot):
    """`base.attribute`, assigned in a branch or a body."""

    def __init__(self, name: str, base: Any, attribute: str) -> None:
        self.name, self._base, self._attribute = name, base, attribute
        self.key = (id(base), attribute)

    def get(self) -> Any:
        return getattr(self._base, self._attribute, UNDEFINED)

    def set(self, value: Any) -> None:
        if value is self.get():
            return
        if value is UNDEFINED:
            delattr(self._base, self._attribute)
        else:
            setattr(self._base, self._attribute, value)


class ContentsSlot(Slot):
    """The elements of a list, a dict or a deque that is changed in place."""

    def __init__(self, name: str, container: list[Any] | dict[Any, Any] | deque[Any], grows: bool) -> None:
        self.name, self._container, self.grows = name, container, grows
        self.key = ("in", id(container))

    def get(self) -> Any:
        return dict(self._container) if isinstance(self._container, dict) else list(self._container)

    def set(self, value: Any) -> None:
        self._container.clear()
        if isinstance(self._container, dict):
            self._container.update(value)
        else:
            self._container.extend(value)


def variables(names: Sequence[str], functions: Iterable[Callable[..., Any] | None]) -> list[Slot]:
    """The slots of variables that these functions share with the function they stand in."""
    cells: dict[str, types.CellType] = {}
    names_of_module: dict[str, Any] = {}
    for f in functions:
        if isinstance(f, types.FunctionType):
            cells |= dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
            names_of_module = f.__globals__
    return [CellSlot(n, cells[n]) if n in cells else GlobalSlot(n, names_of_module) for n in names]


def objects(late: Sequence[Callable[[], Slot | None]]) -> list[Slot]:
    """The slots of objects that exist now and can be followed."""
    return [s for s in [make() for make in late] if s is not None]


def attribute(base: Callable[[], Any], name: str, text: str) -> Callable[[], Slot | None]:
    """A slot, made when asked for, of an attribute that is assigned."""

    def make() -> Slot | None:
        try:
            return AttributeSlot(text, base(), name)
        except Exception:  # not there yet: made inside, and nobody else's
            return None

    return make


def contents(base: Callable[[], Any], text: str, grows: bool = False) -> Callable[[], Slot | None]:
    """A slot, made when asked for, of a container that is changed in place; None for anything else."""

    def make() -> Slot | None:
        try:
            container = base()
        except Exception:
            return None
        return ContentsSlot(text, container, grows) if isinstance(container, CONTAINERS) else None

    return make
