"""The names of one function while its body is translated."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hybridml.kernels.language import build
from hybridml.kernels.language.types import Type
from hybridml.kernels.translate.values import Unsupported, Value, constant


@dataclass
class Slot:
    """A variable that is assigned more than once: a place on the stack, which LLVM makes registers of."""

    type: Type
    place: Any


@dataclass
class LoopEnds:
    """Where `break` and `continue` go."""

    after: Any
    step: Any


@dataclass
class Frame:
    """Names of a function: variables, those assigned once only as plain values of the suite they belong to; then its outer names.

    `result` is what a function returned in its last statement; `slots` are the results of one that returns from several places, which
    then meet at `end`.
    """

    outer: Mapping[str, Any]
    often: frozenset[str]
    variables: dict[str, Slot] = field(default_factory=dict)
    suites: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    loops: list[LoopEnds] = field(default_factory=list)
    depth: int = 0  # of branches and loops
    result: Any = None
    end: Any = None
    slots: list[Slot] | None = None
    is_tuple: bool = False

    def lookup(self, builder: Any, name: str) -> Any:
        slot = self.variables.get(name)
        if slot is not None:
            return Value(slot.type, builder.load(slot.place))
        for suite in reversed(self.suites):
            if name in suite:
                return suite[name]
        if name in self.outer:
            return constant(self.outer[name])
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise Unsupported(f"the name {name}, which may have no value here")

    def assign(self, builder: Any, name: str, v: Any) -> None:
        """Give a name a value."""
        if name not in self.often:
            self.suites[-1][name] = v
            return
        if not isinstance(v, Value) or v.llvm is None:
            raise Unsupported(f"{name} is assigned again and is no number")
        slot = self.variables.get(name)
        if slot is None or (slot.type is not v.type and not self.depth):
            # In straight-line code nothing before this line will be reached again, so a name may change its type.
            slot = self.variables[name] = Slot(v.type, build.alloca_once(builder, v.type.value))
        if slot.type is not v.type:
            raise Unsupported(f"{name} is a {slot.type} and becomes a {v.type}")
        builder.store(v.llvm, slot.place)
