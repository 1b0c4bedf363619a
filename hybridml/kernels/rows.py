"""MAP and ROW kernels: passes over the inner axes, with the kept values between them as scalars.

Reductions across the rows accumulate in a row of memory, which stays in the nearest cache while the rows go by.
"""

from __future__ import annotations

from typing import Any

from hybridml.kernels.lower import Lowering, Scope
from hybridml.kernels.spec import Accumulator, Loop, Statement, Store


class RowLowering(Lowering):
    """For each row: kept values that are known, a pass over the row, more kept values, the next pass, ... then the row's results."""

    def statements(self) -> list[Statement]:
        g = self.geometry
        across = [i for i in self.members if g.crosses(i)]
        self.held |= {i: self.write(i) for i in across}
        body = self.passes = self._row()
        for k in reversed(g.crossed):
            body = [Loop(self.axes[k], body)]
        if across:
            body = self._loops([Store(*self.held[i], self.identity(i)) for i in across], ()) + body
        return body

    def _row(self) -> list[Statement]:
        g = self.geometry
        accumulators = {i: f"a{k}" for k, i in enumerate(i for i in self.members if g.reduces(i))}
        row: dict[Any, str] = {}
        out: list[Statement] = []
        for stage in range(g.last_stage + 1):
            between = Scope(stage, stage, row, row, out, out)
            for i in self.members:
                if i in g.group.kept and self.stage[i] == stage:
                    self.value(i, between)
            one_pass = Scope(stage, stage, dict(row), row)
            reductions = self._pass(one_pass, accumulators)
            if one_pass.body or one_pass.stores:
                out += one_pass.hoisted
                starts = [
                    Accumulator(accumulators[i], self.identity(i), self.nodes[i].out.dtype)
                    for i in reductions
                ]
                out += self._loops(one_pass.body + one_pass.stores, tuple(starts))
                row.update({i: accumulators[i] for i in reductions})
        return out + [Store(*self.write(i), row[i]) for i in self.members if g.is_kept(i) and g.is_output(i)]

    def _pass(self, scope: Scope, accumulators: dict[int, str]) -> list[int]:
        """Everything that is computed along the row in one pass; returns the reductions it feeds."""
        g = self.geometry
        reductions = []
        for i in self.members:
            if self.stage[i] != scope.stage:
                continue
            if g.reduces(i):
                reductions.append(i)
                scope.body.append(self.accumulate(i, accumulators[i], self.operands(i, scope)[0]))
            elif g.crosses(i):
                scope.stores.append(self.added(i, scope))
            elif i in self.held:
                scope.stores.append(Store(*self.held[i], self.value(i, scope)))
        return reductions

    def _loops(self, body: list[Statement], starts: tuple[Accumulator, ...]) -> list[Statement]:
        for k in reversed(self.geometry.inner):
            body = [Loop(self.axes[k], body)]
        if self.geometry.inner and starts:
            assert isinstance(body[0], Loop)
            body[0].reduces = starts
        return body
