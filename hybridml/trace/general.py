"""One trace for all sizes of some dimensions.

The graph is traced, differentiated, optimised and planned once, with sizes as symbols. What was decided on the way by the sizes of the
call that was traced is remembered as guards. A size that meets them is *bound*: numbers are put into the plan, which makes a program of
it; no Python of the user's runs, no pass, nothing is lowered, and no kernel is compiled. (The guards are PyTorch's way; jax.export and
TensorFlow refuse what they cannot decide.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hybridml import backends
from hybridml.eager.variable import Variable
from hybridml.kernels.blueprint import Blueprints
from hybridml.symbolic import Guard, Guards, Scope
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.bind import bound
from hybridml.trace.concrete import Binding, ConcreteFunction, as_pure
from hybridml.trace.gradient import Prepared, Split, prepared
from hybridml.trace.graph import Graph
from hybridml.trace.outputs import OutputPlan
from hybridml.trace.passes import optimize
from hybridml.trace.signature import Place


@dataclass(frozen=True)
class GeneralGradient:
    """A symbolic graph's gradient, and what was decided on the way to it."""

    guards: Guards
    split: Split
    forward: Blueprints
    backward: Blueprints

    def at(self, values: Mapping[Symbol, int]) -> Prepared:
        """For these sizes."""
        forward, backward = bound(self.split.forward, values), bound(self.split.backward, values)
        return Prepared(
            replace(self.split, forward=forward, backward=backward),
            lambda backend: self.forward.program(values, backend),
            lambda backend: self.backward.program(values, backend),
        )


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
        started = time.perf_counter()
        with scope.deciding(guards):
            self.optimized = optimize(graph)
        self.passes_seconds = time.perf_counter() - started
        self.programs = Blueprints(self.optimized, guards, scope.symbols)

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
        values = self.values(sizes)
        return ConcreteFunction(
            self.graph,
            self.variables,
            self.plan.at(values),
            0.0,
            self.check,
            self.named,
            Binding(
                values,
                lambda: bound(self.optimized, values),
                lambda backend: self.programs.program(values, backend),
                lambda: self._gradient(values),
            ),
            self.background,
            self.backend,
        )

    @cached_property
    def gradient(self) -> GeneralGradient:
        """The gradient of the symbolic graph."""
        with self.scope.deciding(Guards(self.guards)) as guards:
            split, forward, backward = prepared(as_pure(self.graph))
        programs = [Blueprints(g, guards, self.scope.symbols) for g in (forward, backward)]
        return GeneralGradient(guards, split, programs[0], programs[1])

    def _gradient(self, values: Mapping[Symbol, int]) -> Prepared | None:
        found = self.gradient
        return found.at(values) if found.guards.failing(values) is None else None

    @property
    def blueprints(self) -> list[Blueprints]:
        """Of its programs: that of a call, and those of the gradient if there are any."""
        gradient = self.__dict__.get("gradient")
        return [self.programs] if gradient is None else [self.programs, gradient.forward, gradient.backward]

    def at(self, sizes: Sequence[Any]) -> Graph:
        """The traced graph for these sizes, which may be those of another trace."""
        return bound(self.graph, self.values(sizes))


def _symbols(g: Guard) -> set[Symbol]:
    return getattr(g.difference, "symbols", set())
