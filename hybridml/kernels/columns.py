"""COLUMN kernels: passes down the reduced axes with the innermost axis inside; kept values are vectors in buffers.

Walking along memory and adding to a row of accumulators vectorises; walking down one column at a time does not.
"""

from __future__ import annotations

from hybridml.kernels.geometry import Geometry
from hybridml.kernels.lower import Lowering, Scope
from hybridml.kernels.spec import Loop, Statement, Store


class ColumnLowering(Lowering):
    """Kept values that a later pass reads, results, and reductions have buffers; the rest is computed where it is needed."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        g = geometry
        read_later = {
            j
            for i in self.members
            for x in self.nodes[i].values
            if (j := g.member(x)) is not None and (i not in g.group.kept or self.stage[i] > self.stage[j])
        }
        for i in self.members:
            if g.is_kept(i) and (g.reduces(i) or g.is_output(i) or i in read_later):
                if not g.is_output(i):
                    self.temporaries.append(self.nodes[i].out)
                self.held[i] = self.write(i)

    def can_read_back(self, i: int, scope: Scope) -> bool:
        g = self.geometry
        if g.is_kept(i):
            return g.reduces(i) or self.stage[i] <= scope.done
        return self.stage[i] < scope.stage

    def statements(self) -> list[Statement]:
        g = self.geometry
        out: list[Statement] = []
        for stage in range(g.last_stage + 1):
            between = self._scope(stage, stage - 1)
            for i in self.members:
                if i in g.group.kept and self.stage[i] == stage:
                    name = self.value(i, between)
                    if i in self.held:
                        between.stores.append(Store(*self.held[i], name))
            if between.body or between.stores:
                out.append(self._along(between.body + between.stores))
            down = self._scope(stage, stage)
            starts = self._pass(down)
            if starts:
                out.append(self._along(starts))
            if down.body or down.stores:
                body: Statement = self._along(down.body + down.stores)
                for k in reversed(g.inner[:-1]):
                    body = Loop(self.axes[k], [body])
                out.append(body)
        return out

    def _scope(self, stage: int, done: int) -> Scope:
        body: list[Statement] = []
        return Scope(
            stage, done, {}, {}, body, body
        )  # nothing is hoisted out of a loop over columns: LLVM does that

    def _along(self, body: list[Statement]) -> Loop:
        return Loop(self.axes[-1], body, split=not self.geometry.outer)

    def _pass(self, scope: Scope) -> list[Statement]:
        """Everything that is computed down the columns in one pass; returns the stores that start its accumulators."""
        g = self.geometry
        starts: list[Statement] = []
        for i in self.members:
            if self.stage[i] != scope.stage or i in g.group.kept:
                continue
            if g.reduces(i):
                starts.append(Store(*self.held[i], self.identity(i)))
                scope.stores.append(self.added(i, scope))
            elif i in self.held:
                scope.stores.append(Store(*self.held[i], self.value(i, scope)))
        return starts
