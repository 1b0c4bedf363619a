"""A concrete function for a signature with open sizes."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.ops.spec import TensorSpec
from hybridml.symbolic import Dim, substitute
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.general import General

MAX_BOUND = 64  # programs that are kept, those used last


class AnySize(ConcreteFunction):
    """Runs the program for the sizes of a call, which is made when they first come.

    `retrace` gives a concrete function for shapes that the symbolic graph does not allow: sizes 0 and 1, and those that fail a guard.
    """

    def __init__(self, general: General, retrace: Callable[[list[TensorSpec]], ConcreteFunction]) -> None:
        self.general, self._retrace = general, retrace
        self.variables, self.named = tuple(general.variables), general.named
        self._traced, self._binding, self.optimized = general.graph, None, general.optimized
        self.plan, self._later = general.plan, None  # each size's own concrete function has its program
        self.assigned = [self.variables[i] for i, _ in general.graph.updates]
        self._trace_seconds, self._passes_seconds = general.trace_seconds, general.passes_seconds
        self._programs: OrderedDict[tuple[TensorSpec, ...], ConcreteFunction] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def program(self) -> Any:  # type: ignore[override]  # one of several
        """That of the sizes that came last; before a call, of those that stood in for them while tracing."""
        last = next(reversed(self._programs.values()), None)
        if last is None:
            hints = self.general.scope.hints
            last = self.at([TensorSpec(substitute(s.shape, hints), s.dtype) for s in self.inputs])
        return last.program

    def at(self, specs: Sequence[TensorSpec]) -> ConcreteFunction:
        """The concrete function for inputs of these specs, which fit."""
        key = tuple(specs)
        with self._lock:
            found = self._programs.get(key)
            if found is None:
                sizes = self._sizes(specs)
                found = self.general.bind(sizes) if self._allows(sizes) else self._retrace(list(specs))
                self._programs[key] = found
                if len(self._programs) > MAX_BOUND:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
        return found

    def _sizes(self, specs: Sequence[TensorSpec]) -> list[Any]:
        """The size for each symbol."""
        found = {
            d.polynomial: size
            for s, given in zip(self.inputs, specs, strict=True)
            for d, size in zip(s.shape, given.shape, strict=True)
            if isinstance(d, Dim)
        }
        return list(found.values())

    def _allows(self, sizes: Sequence[Any]) -> bool:
        return all(d >= 2 for d in sizes) and self.general.refusal(sizes) is None

    def call(self, tensors: Sequence[Tensor]) -> Any:
        specs = [x.spec for x in tensors]
        if not state.now.traces and not any(x.priority for x in tensors):
            return self.at(specs).call(tensors)
        sizes = self._sizes(specs)
        if not self._allows(sizes):
            return self._retrace(specs).call(tensors)
        inlined = copy.copy(self)  # part of another trace, whose sizes may be open in their turn
        inlined.__dict__["graph"] = self.general.at(sizes)
        inlined.plan = self.plan.at(self.general.values(sizes))
        return inlined.rebuild(inlined._inline(tensors))
