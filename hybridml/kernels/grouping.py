"""The compute nodes of a graph in groups that wait for each other: who runs before whom, and what merging two of them makes of that.

It begins with one group a node. Groups have ranks, a topological order that merging keeps up, so that a path is looked for among
few of them.
"""

from __future__ import annotations

import heapq
import itertools

from hybridml.errors import GraphError
from hybridml.kernels.group import Group, can_fuse, reduction_axes
from hybridml.kernels.space import squeeze
from hybridml.kernels.views import Place
from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Value, has_effects, runs_python

GAP = 1 << 40  # between the ranks of neighbours: so many merges can put groups there before all get new ones


class Grouping:
    """The groups of one graph: `owner` has that of each compute node."""

    def __init__(self, graph: Graph, places: dict[Value, Place]) -> None:
        self.graph, self.places = graph, places
        self.nodes = graph.nodes
        self.owner: dict[int, Group] = {}
        self._producer = {v: i for i, n in enumerate(self.nodes) for v in n.outputs}
        self._readers: dict[Value, list[int]] = {}
        self._results = {places[v][0] for v in graph.results}
        self.updates: dict[Value, list[Value]] = {}  # the variables that a base value is the new value of
        for k, v in graph.updates:
            self.updates.setdefault(places[v][0], []).append(graph.variables[k])
        self._start()

    def _start(self) -> None:
        python: list[Group] = []  # the last effect that runs Python
        checks: list[Group] = []  # those since
        for i, n in enumerate(self.nodes):
            if n.op.kind is Kind.VIEW and n.op.view is not None:
                continue
            if not can_fuse(n):
                group = Group([i], (), fusible=False)
            elif n.op.reduce is not None:
                space, reduced = reduction_axes(n)
                group = Group([i], space, reduced)
            else:
                group = Group([i], squeeze(n.out.shape))
            self.owner[i] = group
            for v in n.values:
                base = self.places[v][0]
                readers = self._readers.setdefault(base, [])
                if readers[-1:] != [i]:  # x * x reads x once
                    readers.append(i)
                if base in self._producer:
                    before = self.owner[self._producer[base]]
                    group.before.add(before)
                    before.after.add(group)
            if has_effects(n):  # in program order; only checks may pass each other
                seen = n.op.kind is Kind.CONTROL or runs_python(n)
                for before in (*python, *checks) if seen else python:
                    group.before.add(before)
                    before.after.add(group)
                python, checks = ([group], []) if seen else (python, [*checks, group])
        self._previous: dict[Group | None, Group | None] = {}  # of each in the order, whose ends are None
        self._next: dict[Group | None, Group | None] = {}
        for g, then in itertools.pairwise((None, *self.owner.values(), None)):
            self._next[g], self._previous[then] = then, g
        self._rank: dict[Group, int] = {}
        self._rank_all()
        self._build_walls()

    def _build_walls(self) -> None:
        """Who lies before and behind which routines of their own: they never merge, so a path through one of them stays."""
        own = {g: 1 << k for k, g in enumerate(g for g in self.owner.values() if not g.fusible)}
        for g in self.owner.values():
            for b in g.before:
                g.walls_before |= b.walls_before | own.get(b, 0)
        for g in reversed(self.owner.values()):
            for a in g.after:
                g.walls_after |= a.walls_after | own.get(a, 0)

    @property
    def groups(self) -> list[Group]:
        """Every group once, in an order that runs producers first."""
        pending = {g: len(g.before) for g in dict.fromkeys(self.owner.values())}
        ready = [(g.first, id(g), g) for g, k in pending.items() if k == 0]
        heapq.heapify(ready)
        order: list[Group] = []
        while ready:
            _, _, g = heapq.heappop(ready)
            order.append(g)
            for a in g.after:
                pending[a] -= 1
                if pending[a] == 0:
                    heapq.heappush(ready, (a.first, id(a), a))
        if len(order) != len(pending):
            raise GraphError("fusion made kernels that wait for each other: a bug of the fuser")
        return order

    # who reads whom

    def readers(self, v: Value) -> list[int]:
        """The nodes that read a base value, or a view of it."""
        return self._readers.get(v, [])

    def writer(self, v: Value) -> Group | None:
        """The group that makes a base value."""
        made_by = self._producer.get(v)
        return None if made_by is None else self.owner[made_by]

    def outputs(self, g: Group) -> list[Value]:
        """What the group makes for others."""
        made = [v for i in g.nodes for v in self.nodes[i].outputs]
        return [v for v in made if v in self._results or any(self.owner[r] is not g for r in self.readers(v))]

    # paths

    def between(self, a: Group, b: Group) -> bool:
        """True if a path leads from a to b through a third group. Paths only climb in rank, and it is looked for from both ends."""
        rank, low, high = self._rank, self._rank[a], self._rank[b]
        if low > high:
            return False
        if a.walls_after & b.walls_before:
            return True
        ahead = [g for g in a.after if g is not b and rank[g] < high]
        behind = [g for g in b.before if g is not a and rank[g] > low]
        reached, leading = set(ahead), set(behind)
        if not reached.isdisjoint(leading):
            return True
        while ahead and behind:
            for g in ahead.pop().after:
                if g in leading:
                    return True
                if g not in reached and rank[g] < high:
                    reached.add(g)
                    ahead.append(g)
            for g in behind.pop().before:
                if g in reached:
                    return True
                if g not in leading and rank[g] > low:
                    leading.add(g)
                    behind.append(g)
        return False

    def _leads(self, a: Group, b: Group) -> bool:
        """True if a path leads from a to b."""
        stack, seen = [a], {a}
        while stack:
            for g in stack.pop().after:
                if g is b:
                    return True
                if g not in seen:
                    seen.add(g)
                    stack.append(g)
        return False

    # changes

    def join(self, a: Group, b: Group, merged: Group) -> None:
        for i in merged.nodes:
            self.owner[i] = merged
        merged.walls_before, merged.walls_after = (
            a.walls_before | b.walls_before,
            a.walls_after | b.walls_after,
        )
        merged.before = (a.before | b.before) - {a, b}
        merged.after = (a.after | b.after) - {a, b}
        for g in merged.before:
            after = g.after
            after.discard(a)
            after.discard(b)
            after.add(merged)
        for g in merged.after:
            before = g.before
            before.discard(a)
            before.discard(b)
            before.add(merged)
        self._rank_merged(a, b, merged)

    def order(self, pairs: list[tuple[Group, Group]]) -> None:
        """Let the second of each pair run after the first, where nothing that leads from the second to the first forbids it.

        For the end of fusing: ranks are not kept up.
        """
        pairs.sort(key=lambda p: self._rank[p[0]] > self._rank[p[1]])
        climbing = True  # so far every path climbs in rank
        for first, then in pairs:
            climbs = self._rank[first] < self._rank[then]
            if not (climbing and climbs) and self._leads(then, first):
                continue
            climbing &= climbs
            first.after.add(then)
            then.before.add(first)

    def _rank_merged(self, a: Group, b: Group, merged: Group) -> None:
        """Keep the ranks a topological order: the merged group takes the earlier place, and what leads to it from behind moves before it.
        (Ranks have gaps, as labels in the order-maintenance problem: so moving a group is no matter of all those in between.)"""
        rank, previous, following = self._rank, self._previous, self._next
        first, second = (a, b) if rank[a] < rank[b] else (b, a)
        low = rank.pop(first)
        leads: dict[Group, None] = {}
        stack = [merged]
        while stack:
            for g in stack.pop().before:
                if g not in leads and rank[g] > low:
                    leads[g] = None
                    stack.append(g)
        ordered = [*sorted(leads, key=rank.__getitem__), merged]
        del rank[second]
        for g in (second, *ordered[:-1]):
            before, behind = previous.pop(g), following.pop(g)
            following[before], previous[behind] = behind, before
        at, behind = previous.pop(first), following.pop(first)
        step = (low - (-GAP if at is None else rank[at])) // (len(leads) + 1) if leads else GAP
        for k, g in enumerate(ordered):
            previous[g], following[at] = at, g
            rank[g] = low - (len(leads) - k) * step
            at = g
        following[at], previous[behind] = behind, at
        if not step:
            self._rank_all()

    def _rank_all(self) -> None:
        """Ranks with gaps for the order as it is."""
        g, rank = self._next[None], 0
        while g is not None:
            self._rank[g] = rank
            g, rank = self._next[g], rank + GAP
