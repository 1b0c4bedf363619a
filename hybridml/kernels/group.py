"""Fusion: which nodes share a kernel.

A group has one iteration space. Its nodes live on one of two levels: *full*, one element per point of the space, or *kept*, one per
point of the axes that the group's reductions keep. Producers fold into a reduction, consumers follow it, and several
reductions over the same rows share a kernel, because all of them are merely levels of one space. Sums *across* the rows may ride
along (`crossing`), if nobody in the group waits for them.

Merging is greedy, in order of bytes saved. It is legal if the two spaces can be unified, every value that passes between the groups is
read where it is written (element for element, or once a row), and no path leaves the merged group and comes back. Every refusal is
recorded with its reason.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hybridml.errors import GraphError
from hybridml.kernels import crossing
from hybridml.kernels.space import Space, canonical, parts, refine, squeeze, stretch, strides_over
from hybridml.kernels.views import Place, places
from hybridml.ops.registry import Kind, Layout
from hybridml.symbolic import hint
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.graph import Graph, Node, Value, has_effects, runs_python

NATIVE = frozenset("?bBhHiIlLqQfd")  # dtype characters that kernels compute with
MAX_OPERANDS = 24
MAX_NODES = 64
MAX_WAITS = (
    3  # reductions one after the other: each is one more pass over the row, which computes anew what it needs
)
ROW_BYTES = 1 << 18  # a row read twice should still be in the second-level cache
BLOCK_BYTES = 1 << 20  # likewise for all rows of a column block


class Refusal(NamedTuple):
    """Two neighbours that stayed apart, and why."""

    producer: str
    consumer: str
    reason: str


class Fusion(NamedTuple):
    """The merges that made a graph's groups, in the order in which they happened, and what stayed apart.

    A merge is the first nodes of two groups and the number of the way in which their spaces were unified.
    """

    merges: tuple[tuple[int, int, int], ...]
    refusals: dict[tuple[int, int], Refusal]


Fusions = dict[tuple[Any, ...], Fusion]  # of graphs that are one but for their sizes, by their wiring


@dataclass(eq=False)
class Group:
    """Nodes of one kernel. `kept` are the nodes that live on the kept level; `reduced` are axes of `space`.

    `crossing` are reductions over `crossed`, axes of the rows: one result for each point of the other axes. `product` is a matrix product
    in whose blocks all others ride (`epilogue`); the last `columns` axes are its columns.
    """

    nodes: list[int]
    space: Space
    reduced: frozenset[int] = frozenset()
    kept: frozenset[int] = frozenset()
    crossing: frozenset[int] = frozenset()
    crossed: frozenset[int] = frozenset()
    fusible: bool = True
    product: int | None = None
    columns: int = 0
    before: set[Group] = field(default_factory=set, repr=False)
    after: set[Group] = field(default_factory=set, repr=False)
    walls_before: int = (
        0  # routines of their own that lead here, as bits; what merging adds is not among them
    )
    walls_after: int = 0

    @property
    def kept_axes(self) -> tuple[int, ...]:
        return tuple([k for k in range(len(self.space)) if k not in self.reduced])

    @property
    def first(self) -> int:
        return self.nodes[0]


def reduction_axes(n: Node) -> tuple[Space, frozenset[int]]:
    """A reduction's squeezed space and the axes of it that it reduces."""
    shape, wanted = n.values[0].shape, set(n.attrs["axis"])
    space: list[int] = []
    reduced: set[int] = set()
    for a, d in enumerate(shape):
        if d != 1:
            if a in wanted:
                reduced.add(len(space))
            space.append(d)
    return tuple(space), frozenset(reduced)


def can_fuse(n: Node, halves: bool = False) -> bool:
    """True for nodes that kernels are generated for; `halves`: of float16 too, where it is not random."""
    if n.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION, Kind.RANDOM) or len(n.outputs) != 1:
        return False
    if n.op.scalar is None and n.op.reduce is None:
        return False
    specs = [v.spec for v in (*n.values, n.out)]
    native = NATIVE | {"e"} if halves and n.op.kind is not Kind.RANDOM else NATIVE
    if any(s.dtype.char not in native or 0 in s.shape for s in specs):
        return False
    return n.op.reduce is None or bool(reduction_axes(n)[1])


class Fuser:
    """Groups the compute nodes of one graph; with sums across rows in the rows' kernels, if the target can (`across`), and with
    float16 (`halves`)."""

    def __init__(
        self, graph: Graph, places: dict[Value, Place], across: bool = False, halves: bool = False
    ) -> None:
        self.graph, self.places, self.across, self.halves = graph, places, across, halves
        self.nodes = graph.nodes
        self.refusals: dict[tuple[int, int], Refusal] = {}
        self.uncut: set[Symbol] = set()  # open numbers of rows that sums across them cannot be cut by
        self._merges: list[tuple[int, int, int]] = []
        self._refused: dict[tuple[Group, Group], str] = {}
        self._strides: dict[tuple[Layout, tuple[int, ...], Space], tuple[int, ...]] = {}
        self.owner: dict[int, Group] = {}
        self._producer = {v: i for i, n in enumerate(self.nodes) for v in n.outputs}
        self._readers: dict[Value, list[int]] = {}
        self._results = {places[v][0] for v in graph.results}
        self._start()

    # the beginning: one group a node

    def _start(self) -> None:
        python: list[Group] = []  # the last effect that runs Python
        checks: list[Group] = []  # those since
        for i, n in enumerate(self.nodes):
            if n.op.kind is Kind.VIEW and n.op.view is not None:
                continue
            if not can_fuse(n, self.halves):
                group = Group([i], (), fusible=False)
            elif n.op.reduce is not None:
                space, reduced = reduction_axes(n)
                group = Group([i], space, reduced)
            else:
                group = Group([i], squeeze(n.out.shape))
            self.owner[i] = group
            for v in n.values:
                base = self.places[v][0]
                self._readers.setdefault(base, []).append(i)
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
        self._order: list[Group | None] = list(self.owner.values())
        self._rank: dict[Group, int] = {g: k for k, g in enumerate(self.owner.values())}
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

    # merging

    def fuse(self) -> list[Group]:
        """Merge until nothing more saves memory traffic."""
        queue: list[tuple[int, int, int]] = []
        for base, readers in self._readers.items():
            size = hint(base.spec.nbytes)
            source = self._producer.get(base)
            if source is not None:
                saved = size * (2 if base not in self._results and len(readers) == 1 else 1)
                queue += [(-saved, source, r) for r in readers]
            queue += [(-size, a, b) for a, b in itertools.pairwise(readers)]
        heapq.heapify(queue)
        again: list[tuple[int, int, int]] = []
        reasons: dict[tuple[int, int], str] = {}
        progress = True
        while progress:  # a refusal may become legal once other groups have merged
            progress = False
            while queue:
                item = heapq.heappop(queue)
                pair = item[1:]
                a, b = self.owner[pair[0]], self.owner[pair[1]]
                if a is b:
                    continue
                reason = self._merge(a, b)
                if reason is None:
                    progress = True
                    reasons.pop(pair, None)
                else:
                    reasons[pair] = reason
                    if a.fusible and b.fusible:
                        again.append(item)
            queue, again = again, []
            heapq.heapify(queue)
        self.refusals = {
            (a, b): Refusal(self._name(a), self._name(b), reason)
            for (a, b), reason in reasons.items()
            if self.owner[a] is not self.owner[b]
        }
        return self.groups

    @property
    def fusion(self) -> Fusion:
        """What was decided, for the same graph at other sizes."""
        return Fusion(tuple(self._merges), dict(self.refusals))

    def repeat(self, fusion: Fusion) -> bool:
        """Merge what was merged for the same graph at other sizes, from the start. False if that is not legal for these sizes."""
        for a, b, way in fusion.merges:
            left, right = self.owner[a], self.owner[b]
            found = self._unifications(left, right, way)
            if not found:
                return False
            self.join(left, right, found[0][1])
        self.refusals = dict(fusion.refusals)
        return all(self._check(g) is None for g in set(self.owner.values()) if len(g.nodes) > 1)

    def refuse(self, a: int, b: int, reason: str) -> None:
        self.refusals[a, b] = Refusal(self._name(a), self._name(b), reason)

    def _name(self, i: int) -> str:
        n = self.nodes[i]
        result = f" {self.graph.label(n.out)}" if n.outputs else ""
        return f"{n.op.name}{result}" + (
            f" ({n.source.file.rsplit('/', 1)[-1]}:{n.source.line})" if n.source else ""
        )

    def _merge(self, a: Group, b: Group) -> str | None:
        """Merge two groups, or say why not. What was refused once stays so until one of the two has merged: paths between them
        outlive the merging of others."""
        if not a.fusible or not b.fusible:
            n = self.nodes[(a if not a.fusible else b).first]
            return f"{n.op.name} runs in a routine of its own"
        known = self._refused.get((a, b))
        if known is not None:
            return known
        reason = self._tried(a, b)
        if reason is not None:
            self._refused[a, b] = reason
        return reason

    def _tried(self, a: Group, b: Group) -> str | None:
        if len(a.nodes) + len(b.nodes) > MAX_NODES:
            return f"the kernel would have more than {MAX_NODES} operations"
        if self.between(a, b) or self.between(b, a):
            return "another kernel lies between them"
        reason: str | None = "their iteration spaces differ"
        for way, merged in self._unifications(a, b):
            reason = self._check(merged)
            if reason is None:
                self._merges.append((a.first, b.first, way))
                self.join(a, b, merged)
                return None
        return reason

    def between(self, a: Group, b: Group) -> bool:
        """True if a path leads from a to b through a third group. Paths only climb in rank, and it is looked for from both ends."""
        if a.walls_after & b.walls_before:
            return True
        rank, low, high = self._rank, self._rank[a], self._rank[b]
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

    # what an epilogue asks

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

    def _rank_merged(self, a: Group, b: Group, merged: Group) -> None:
        """Keep the ranks a topological order (Pearce and Kelly's local repair): between the places of a and b, what leads to
        the merged group moves before it, the rest behind."""
        low, high = sorted((self._rank.pop(a), self._rank.pop(b)))
        leads: set[Group] = set()
        stack = [merged]
        while stack:
            for g in stack.pop().before:
                if g not in leads and self._rank[g] > low:
                    leads.add(g)
                    stack.append(g)
        if not leads:
            self._order[low], self._order[high], self._rank[merged] = merged, None, low
            return
        window = [g for g in self._order[low : high + 1] if g is not None and g is not a and g is not b]
        ordered = [g for g in window if g in leads] + [merged] + [g for g in window if g not in leads]
        for k in range(low, high + 1):
            placed = ordered[k - low] if k - low < len(ordered) else None
            self._order[k] = placed
            if placed is not None:
                self._rank[placed] = k

    def _unifications(self, a: Group, b: Group, only: int | None = None) -> list[tuple[int, Group]]:
        """The ways to put both groups into one space, by number: both full (0), one across the rows of the other (1, 2), or one on its
        kept level (3, 4). With `only` nothing is asked that this one does not depend on: sizes may be open."""
        nodes = sorted(a.nodes + b.nodes)
        found: list[tuple[int, Group]] = []
        fine = refine(a.space, b.space) if only is None or only < 3 else None
        if fine is not None:
            ra, rb = (refined(g.space, g.reduced, fine) for g in (a, b))
            ca, cb = (refined(g.space, g.crossed, fine) for g in (a, b))
            if (not ra or not rb or ra == rb) and (not ca or not cb or ca == cb):
                merged = Group(nodes, fine, ra or rb, a.kept | b.kept, a.crossing | b.crossing, ca or cb)
                found.append((0, merged))
            for way, rows, down, along, c, over in ((1, a, b, ra, ca, rb), (2, b, a, rb, cb, ra)):
                rides = self.across and not down.kept and not down.crossing and c in (frozenset(), over)
                rides = rides and only in (None, way)
                if rides and crossing.fits(fine, along, over):
                    across = frozenset(i for i in down.nodes if self.nodes[i].op.reduce is not None)
                    merged = Group(nodes, fine, along, rows.kept, rows.crossing | across, over)
                    found.append((way, merged))
        for way, plain, reducing in ((3, a, b), (4, b, a)):
            if plain.reduced or not reducing.reduced or only not in (None, way):
                continue
            kept = tuple([reducing.space[k] for k in reducing.kept_axes])
            fine = refine(plain.space, kept)
            if fine is None:
                continue
            space: list[int] = []
            reduced: set[int] = set()
            crossed: set[int] = set()
            pieces = dict(zip(reducing.kept_axes, parts(kept, fine), strict=True))
            for k, d in enumerate(reducing.space):
                if k in reducing.reduced:
                    reduced.add(len(space))
                    space.append(d)
                else:
                    if k in reducing.crossed:
                        crossed.update(range(len(space), len(space) + len(pieces[k])))
                    space += [fine[p] for p in pieces[k]]
            merged = Group(
                nodes, tuple(space), frozenset(reduced), reducing.kept | frozenset(plain.nodes),
                reducing.crossing, frozenset(crossed),
            )  # fmt: skip
            found.append((way, merged))
        return found if only is None else [(way, merged) for way, merged in found if way == only]

    def _check(self, g: Group) -> str | None:
        """Why a group cannot be one kernel, or None."""
        members = set(g.nodes)
        operands: set[Value] = set()
        outputs = 0
        again = False
        kept_axes = g.kept_axes
        kept_space = tuple([g.space[k] for k in kept_axes])
        wanted = {  # by (reads every element, of a value of every element): how an operand is to be walked
            (True, True): canonical(g.space), (True, False): canonical(g.space, kept_axes), (False, False): canonical(kept_space),
        }  # fmt: skip
        waits: dict[int, int] = {}  # full-level nodes: how many passes over the row they have to wait for
        for i in g.nodes:
            n = self.nodes[i]
            reads_full = n.op.reduce is not None or i not in g.kept
            domain = n.values[0].shape if n.op.reduce is not None and n.values else n.out.shape
            wait = 0
            for v in n.values:
                base, layout = self.places[v]
                source = self._producer.get(base)
                if source not in members:
                    operands.add(base)
                    continue
                if n.op.kind is Kind.RANDOM:
                    return "a random state is read whole"
                assert source is not None
                if source in g.crossing:
                    return "it is read before all rows are added up"
                reduces = self.nodes[source].op.reduce is not None
                from_kept = source in g.kept or reduces
                wait = max(wait, waits[source] + reduces)
                if not from_kept and not reads_full:
                    return "a value of every element is read once a row"
                target = g.space if reads_full else kept_space
                seen = self._seen(layout, domain, target)
                if layout.offset or seen != wanted[reads_full, not from_kept]:
                    return "it is read in another order than it is written"
            if wait > MAX_WAITS:
                return f"a row would be walked more than {MAX_WAITS + 1} times"
            waits[i] = wait
            again |= wait > 0 and reads_full
            if n.out in self._results or any(r not in members for r in self._readers.get(n.out, [])):
                outputs += 1
        if len(operands) + outputs > MAX_OPERANDS:
            return f"the kernel would have more than {MAX_OPERANDS} operands"
        if again:
            widest = max(self.nodes[i].out.dtype.itemsize for i in g.nodes)
            row = widest
            for k in g.reduced:
                row *= g.space[k]
            if max(g.reduced) == len(g.space) - 1:
                if row > ROW_BYTES:
                    return f"a row of {row} bytes is too long to be read twice from cache"
            elif row * g.space[-1] > BLOCK_BYTES:
                return "the columns are too long to be read twice from cache"
        return None

    def _seen(self, layout: Layout, domain: tuple[int, ...], target: Space) -> tuple[int, ...]:
        """How a layout, broadcast to a domain, is walked over a space; graphs repeat themselves, so the same is asked often."""
        key = layout, domain, target
        found = self._strides.get(key)
        if found is None:
            found = self._strides[key] = strides_over(stretch(layout, domain), target)
        return found

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
            g.after -= {a, b}
            g.after.add(merged)
        for g in merged.after:
            g.before -= {a, b}
            g.before.add(merged)
        self._rank_merged(a, b, merged)


def refined(space: Space, axes: frozenset[int], fine: Space) -> frozenset[int]:
    """Axes of a space as axes of a finer one."""
    pieces = parts(space, fine)
    return frozenset(p for k in axes for p in pieces[k])


def fused(graph: Graph, known: Fusions | None = None) -> Fuser:
    """The graph's groups, for the CPU; sums that rows could take along are cut into blocks first.

    `known` holds what was decided for the graph at other sizes, and takes what is decided now: the search is most of the work.
    """
    fuser = _searched(graph, known)
    in_blocks = crossing.cut(fuser)
    return fuser if in_blocks is None else _searched(in_blocks, known)


def _searched(graph: Graph, known: Fusions | None) -> Fuser:
    fuser = Fuser(graph, places(graph), across=True)
    if known is None:
        fuser.fuse()
        return fuser
    key = _wiring(graph)
    if key in known and fuser.repeat(known[key]):
        return fuser
    fuser = Fuser(graph, fuser.places, across=True)
    fuser.fuse()
    known[key] = fuser.fusion
    return fuser


def _wiring(graph: Graph) -> tuple[Any, ...]:
    """What a graph is but for its sizes: the operations, and who reads whom."""
    numbers = graph.numbers()
    return tuple([(n.op, *[numbers[v] for v in n.values]) for n in graph.nodes])
