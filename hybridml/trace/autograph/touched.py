"""State that is changed where the source of a branch does not show it: by functions it calls, or under another name.

The source of a branch shows what the branch itself assigns by name. What `counter.up(x)` assigns, or `for o in objects: o.v = x`,
shows only when it runs: so an object is noted before its method runs or a statement changes it, and compared afterwards. Only what
became a tensor of the branch is followed; anything else is a Python side effect of tracing. Objects made in the branch are its own:
they are those that could not be reached when it began.
"""

from __future__ import annotations

import inspect
import threading
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any

from hybridml import pytree
from hybridml.eager.state import state
from hybridml.trace.autograph import source
from hybridml.trace.autograph.slots import CONTAINERS, UNDEFINED, AttributeSlot, CellSlot, ContentsSlot, Slot
from hybridml.trace.reach import code_names, reaches
from hybridml.trace.symbol import SymbolicTensor

REACH = 100_000  # objects looked at to learn whether one is older than the branch


class Touched:
    """What one branch, or functions that it calls, may change, as it was before."""

    def __init__(self, f: Callable[..., Any] | None) -> None:
        self._functions: list[types.FunctionType] = []
        self._roots: list[Any] = []
        self._note(f)
        self._objects: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._cells: dict[int, tuple[CellSlot, Any]] = {}
        self._containers: dict[int, tuple[Any, ContentsSlot, Any]] = {}

    def __enter__(self) -> Touched:
        _watching.stack.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _watching.stack.remove(self)

    def object(self, obj: Any) -> None:
        if id(obj) not in self._objects:
            self._objects[id(obj)] = (obj, dict(vars(obj)))

    def container(self, x: Any, text: str) -> None:
        if id(x) not in self._containers:
            slot = ContentsSlot(text, x, False)
            self._containers[id(x)] = (x, slot, slot.get())

    def closure(self, f: types.FunctionType) -> None:
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            if id(cell) not in self._cells:
                slot = CellSlot(name, cell)
                self._cells[id(cell)] = (slot, slot.get())

    def changed(self, known: Collection[Any]) -> list[tuple[Slot, Any]]:
        """Slots that now hold tensors of the trace that is open, with their values before; without those already known."""
        cells = [(s, old) for s, old in self._cells.values() if s.key not in known and _is_new(s.get(), old)]
        return cells + [
            (s, old) for x, found in self._of_objects(known) if self._is_older(x) for s, old in found
        ]

    def _of_objects(self, known: Collection[Any]) -> Iterator[tuple[Any, list[tuple[Slot, Any]]]]:
        """Objects and containers with the slots of them that changed."""
        for obj, before in self._objects.values():
            found: list[tuple[Slot, Any]] = []
            for name, value in vars(obj).items():
                old = before[name] if name in before else inspect.getattr_static(type(obj), name, UNDEFINED)
                slot = AttributeSlot(f"{type(obj).__name__}.{name}", obj, name)
                if slot.key not in known and _is_new(value, old):
                    found.append((slot, old))
            if found:
                yield obj, found
        for x, contents, old in self._containers.values():
            if contents.key not in known and _has_new_items(contents.get(), old):
                yield x, [(contents, old)]

    def _note(self, f: Callable[..., Any] | None) -> None:
        """Keep what a function can get at when it starts: its variables, and those of functions among them."""
        if not isinstance(f, types.FunctionType) or f in self._functions:
            return
        self._functions.append(f)
        for cell in f.__closure__ or ():
            try:
                x = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            if isinstance(x, types.FunctionType):
                self._note(x)
            elif source.is_users(f.__code__):
                self._roots.append(x)

    def _is_older(self, x: Any) -> bool:
        """Whether `x` could be got at when the branch began, from variables or from the globals that its functions name."""
        named = [
            f.__globals__.get(n)
            for f in self._functions
            if source.is_users(f.__code__)
            for n in code_names(f.__code__)
        ]
        return reaches([*self._roots, *named], [x], REACH, False)


def _is_new(now: Any, before: Any) -> bool:
    if now is before or now is UNDEFINED:
        return False
    builder = state.now.traces[-1] if state.now.traces else None
    return any(isinstance(x, SymbolicTensor) and x._builder is builder for x in pytree.leaves(now))


def _has_new_items(now: Any, before: Any) -> bool:
    if isinstance(now, dict):
        return any(_is_new(x, before.get(k, UNDEFINED)) for k, x in now.items())
    old = [*before, *[UNDEFINED] * len(now)]
    return any(map(_is_new, now, old))


class _Watching(threading.local):
    def __init__(self) -> None:
        self.stack: list[Touched] = []


_watching = _Watching()


def touch(function: types.FunctionType, obj: Any = None) -> None:
    """A user's function is about to run, as a method of `obj`."""
    for watching in _watching.stack:
        watching.closure(function)
        if isinstance(getattr(obj, "__dict__", None), dict):
            watching.object(obj)


def store(x: Any, text: str) -> None:
    """`x`, which the user calls `text`, is about to be changed in place."""
    for watching in _watching.stack:
        if isinstance(x, CONTAINERS):
            watching.container(x, text)
        elif isinstance(attributes := getattr(x, "__dict__", None), dict):
            watching.object(x)
            for name, value in attributes.items():  # where `x[k] = v` of a library's class may put it
                if isinstance(value, CONTAINERS):
                    watching.container(value, f"{text}.{name}")
