"""State that called functions change: attributes of objects whose methods run in a branch, variables that closures assign.

The source of a branch shows what the branch itself assigns. What `counter.up(x)` assigns shows only when it has run: so the object is
noted before its method runs, and compared afterwards. Only what became a tensor of the branch is followed; anything else is a Python
side effect of tracing.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Collection
from typing import Any

from hybridml import pytree
from hybridml.eager.state import state
from hybridml.trace.autograph.slots import UNDEFINED, AttributeSlot, CellSlot, Slot
from hybridml.trace.symbol import SymbolicTensor


class Touched:
    """What functions called in one branch may change, as it was before."""

    def __init__(self) -> None:
        self._objects: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._cells: dict[int, tuple[CellSlot, Any]] = {}

    def __enter__(self) -> Touched:
        _watching.stack.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _watching.stack.remove(self)

    def object(self, obj: Any) -> None:
        if id(obj) not in self._objects:
            self._objects[id(obj)] = (obj, dict(vars(obj)))

    def closure(self, f: types.FunctionType) -> None:
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            if id(cell) not in self._cells:
                slot = CellSlot(name, cell)
                self._cells[id(cell)] = (slot, slot.get())

    def changed(self, known: Collection[Any]) -> list[tuple[Slot, Any]]:
        """Slots that now hold tensors of the trace that is open, with their values before; without those already known."""
        found: list[tuple[Slot, Any]] = list(self._cells.values())
        for obj, before in self._objects.values():
            for name, value in vars(obj).items():
                if value is not before.get(name, UNDEFINED):
                    slot = AttributeSlot(f"{type(obj).__name__}.{name}", obj, name)
                    found.append((slot, before.get(name, UNDEFINED)))
        return [(s, old) for s, old in found if s.key not in known and _is_new(s.get(), old)]


def _is_new(now: Any, before: Any) -> bool:
    if now is before or now is UNDEFINED:
        return False
    builder = state.traces[-1]
    return any(isinstance(x, SymbolicTensor) and x._builder is builder for x in pytree.leaves(now))


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
