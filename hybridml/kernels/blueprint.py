"""The programs of a graph with open sizes.

Such a graph is planned as any other: fusion, lowering, kernels, the memory plan. What the planning decides by a size is a guard of this
*blueprint*. Sizes that meet the guards are put into words, extents, strides and offsets, and that is their program. Others get a
blueprint of their own, up to a limit.

Estimates are made for the sizes that came first, and are no guards; so a blueprint serves sizes of their order only.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybridml import config
from hybridml.backends import Backend
from hybridml.kernels import crossing
from hybridml.kernels.executable import Executable
from hybridml.kernels.fuser import Fusions, fused
from hybridml.kernels.programs import executable
from hybridml.kernels.region import Meter, Region
from hybridml.symbolic import Dim, Guards, Scope
from hybridml.symbolic.polynomial import Symbol, atom
from hybridml.trace.bind import Sizes, bound
from hybridml.trace.graph import Graph

MOST = 8  # blueprints of one graph
FACTOR = (
    16  # a size is at most so many times larger or smaller than the one that its blueprint was planned for
)


@dataclass(frozen=True)
class Blueprint:
    """A plan, the sizes it was made for, and what it asks of others.

    `symbols` are its own by those of the graph: one, or two whose product the graph's is, where rows are cut into blocks (`crossing`).
    `whole` are those of the graph that would be a product if the size it was made for could be one.
    """

    region: Region
    symbols: dict[Symbol, tuple[Symbol, ...]]
    whole: frozenset[Symbol]
    planned_for: Mapping[Symbol, int]
    guards: Guards

    def sizes(self, values: Mapping[Symbol, int]) -> dict[Symbol, int] | None:
        """The values of its own symbols, or None where it cannot serve these sizes."""
        found: dict[Symbol, int] = {}
        for s, own in self.symbols.items():
            size, known = values[s], self.planned_for[s]
            if size * FACTOR < known or size > known * FACTOR:
                return None
            blocks = crossing.blocks(size) if len(own) == 2 or s in self.whole else 0
            if bool(blocks) != (len(own) == 2):
                return None
            found.update(zip(own, (blocks, size // blocks) if blocks else (size,), strict=True))
        return found if self.guards.failing(found) is None else None


class Blueprints:
    """One graph's. `guards` are what holds of its sizes anyway.

    `planned` counts blueprints, `apart` the sizes that were put into the graph first and planned as numbers, and `reason` says why the
    last of these was.
    """

    def __init__(self, graph: Graph, guards: Guards, symbols: list[Symbol]) -> None:
        self.graph, self._guards, self._symbols = graph, guards, symbols
        self._kept: list[Blueprint] = []
        self._fusions: Fusions = {}
        self._lock = threading.RLock()
        self._threads = 0
        self.planned = self.apart = 0
        self.reason = ""

    def program(self, values: Mapping[Symbol, int], backend: Backend) -> Executable:
        """The program for these sizes, which meet the graph's own guards."""
        with self._lock:
            reason = self._refusal(backend)
            region = None if reason else self._known(values)
            if region is not None:
                found = Executable.of(lambda meter: region)
                found.note = "the sizes were put into a plan that was there"
                return found
            if reason is None and len(self._kept) == MOST:
                reason = f"there are {MOST} plans for other sizes"
            if reason is None:
                found = Executable.of(lambda meter: self._planned(values, meter))
                found.note = "planned with its sizes open, for others too"
                return found
            self.apart, self.reason = self.apart + 1, reason
            found = executable(bound(self.graph, values), backend, self._fusions)
            found.note = f"planned for its sizes alone: {reason}"
            return found

    def _refusal(self, backend: Backend) -> str | None:
        """Why no blueprint is made."""
        if not backend.on_cpu:
            return "on a GPU how a kernel is launched depends on sizes"
        pins = [g for b in self._kept for g in b.guards.own.values() if g.pins]
        return f"planning asks for a number: {pins[0]}" if pins else None

    def _known(self, values: Mapping[Symbol, int]) -> Region | None:
        """A plan that there is, for these sizes."""
        threads = config.get().num_threads
        if threads != self._threads:
            self._threads, self._kept = threads, []
        for b in self._kept:
            own = b.sizes(values)
            if own is not None:
                return b.region.at(Sizes(own))
        return None

    def _planned(self, values: Mapping[Symbol, int], meter: Meter) -> Region:
        """A new plan, for these sizes."""
        free = {s: values[s] for s in self._symbols if s not in self._guards.equal}
        drawing = _Drawing(self.graph, self._guards, free, frozenset())
        whole = drawing.uncut(self._fusions)
        cut = frozenset(s for s in whole if crossing.blocks(free[s]))
        if cut:
            drawing = _Drawing(self.graph, self._guards, free, cut)
        found = drawing.blueprint(self._threads, meter, self._fusions, whole - cut)
        self._kept.insert(0, found)
        self.planned += 1
        own = found.sizes(values)
        assert own is not None, "a plan serves the sizes it was made for"
        return found.region.at(Sizes(own))


class _Drawing:
    """The graph over symbols of its own, those of `cut` as products of two."""

    def __init__(
        self, graph: Graph, known: Guards, sizes: Mapping[Symbol, int], cut: frozenset[Symbol]
    ) -> None:
        self.sizes, self.guards = sizes, Guards()
        self._scope = scope = Scope(graph.name)
        self.symbols: dict[Symbol, tuple[Symbol, ...]] = {}
        dims: dict[Symbol, Any] = {}
        for s, size in sizes.items():
            blocks = crossing.blocks(size) if s in cut else 0
            own = tuple([scope.symbol(x) for x in ((blocks, size // blocks) if blocks else (size,))])
            self.symbols[s] = own
            dims[s] = math.prod([Dim(atom(x), scope) for x in own])
        dims |= {s: p.evaluate(dims) for s, p in known.equal.items()}
        self.graph, self.hints = bound(graph, dims), Sizes(scope.hints)

    def uncut(self, known: Fusions) -> frozenset[Symbol]:
        """Symbols of the given graph that count rows which sums across them should be cut by."""
        with self._scope.deciding(Guards()):
            fused(self.hints.graph(self.graph), known)
            found = fused(self.graph, known).uncut
        return frozenset(s for s, own in self.symbols.items() if not found.isdisjoint(own))

    def blueprint(self, threads: int, meter: Meter, known: Fusions, whole: frozenset[Symbol]) -> Blueprint:
        with self._scope.deciding(self.guards):
            region = Region(self.graph, threads, meter, known=known, hints=self.hints)
        return Blueprint(region, self.symbols, whole, self.sizes, self.guards)


__all__ = ["Blueprint", "Blueprints"]
