"""One trace for all sizes of some dimensions.

The graph is traced, differentiated and optimised once, with sizes as symbols. What was decided on the way by the sizes of the call that
was traced is remembered as guards. A size that meets them is *bound*: numbers are put into the optimised graph and a program is laid
out; no Python of the user's runs, no pass, and no kernel is compiled. (The guards are PyTorch's way; jax.export and TensorFlow
refuse what they cannot decide.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from hybridml import backends
from hybridml.eager.variable import Variable
from hybridml.kernels.group import Fusions
from hybridml.symbolic import Guard, Guards, Scope
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.bind import bound
from hybridml.trace.concrete import Binding, ConcreteFunction, OutputPlan, as_pure
from hybridml.trace.gradient import Prepared
from hybridml.trace.graph import Graph
from hybridml.trace.passes import optimize
from hybridml.trace.signature import Place


class General:
    """A symbolic graph, where its sizes come from (`places`, one for each symbol of the scope), and the guards they must meet."""

    def __init__(
        self,
        scope: Scope,
        guards: Guards,
        places: Sequence[Place],
        graph: Graph,
        variables: list[Variable],
        outputs: OutputPlan,
        trace_seconds: float,
        check: bool,
        named: frozenset[int],
        background: bool = False,
        backend: backends.Backend = backends.CPU,
    ) -> None:
        self.backend = backend
        self.scope, self.guards, self.places = scope, guards, tuple(places)
        self.graph, self.variables, self.named = graph, variables, named
        self.plan, self.check, self.background = outputs, check, background
        self.trace_seconds = trace_seconds
        self._fusions: Fusions = {}
        started = time.perf_counter()
        with scope.deciding(guards):
            self.optimized = optimize(graph)
        self.passes_seconds = time.perf_counter() - started

    def values(self, sizes: Sequence[int]) -> dict[Symbol, int]:
        return self.scope.values(sizes)

    def refusal(self, sizes: Sequence[int]) -> Guard | None:
        """The guard that these sizes do not meet, if there is one. All are at least 2."""
        return self.guards.failing(self.values(sizes))

    @property
    def pinned(self) -> dict[Place, Guard]:
        """Dimensions that the function does not allow to vary, and where that was decided."""
        found = {}
        for s, place in zip(self.scope.symbols, self.places, strict=True):
            if self.guards.pinned(s):
                about = [g for g in self.guards if s in _symbols(g)]
                found[place] = next((g for g in about if g.pins), about[0])
        return found

    def bind(self, sizes: Sequence[int]) -> ConcreteFunction:
        """The program for these sizes."""
        started = time.perf_counter()
        values = self.values(sizes)
        optimized = bound(self.optimized, values)
        return ConcreteFunction(
            self.graph,
            self.variables,
            self.plan.at(values),
            0.0,
            self.check,
            self.named,
            Binding(
                values,
                optimized,
                time.perf_counter() - started,
                lambda: self._gradient(values),
                self._fusions,
            ),
            self.background,
            self.backend,
        )

    @cached_property
    def _prepared(self) -> tuple[Guards, Prepared]:
        """The gradient of the symbolic graph, and what was decided on the way to it."""
        with self.scope.deciding(Guards(self.guards)) as guards:
            return guards, Prepared.of(as_pure(self.graph))

    def _gradient(self, values: Mapping[Symbol, int]) -> Prepared | None:
        guards, prepared = self._prepared
        return prepared.bound(values) if guards.failing(values) is None else None

    def at(self, sizes: Sequence[Any]) -> Graph:
        """The traced graph for these sizes, which may be those of another trace."""
        return bound(self.graph, self.values(sizes))


def _symbols(g: Guard) -> set[Symbol]:
    return getattr(g.difference, "symbols", set())
