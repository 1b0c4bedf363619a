"""Fusion: which nodes share a kernel.

Producers fold into a reduction, consumers follow it, and several reductions over the same rows share a kernel, because all of them are
merely levels of one space. Sums *across* the rows may ride along (`crossing`), if nobody in the group waits for them.

Merging is greedy, in order of bytes saved. It is legal if the two spaces can be unified, every value that passes between the groups is
read where it is written (element for element, or once a row), and no path leaves the merged group and comes back. Every refusal is
recorded with its reason.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from hybridml.kernels import crossing
from hybridml.kernels.group import Group
from hybridml.kernels.grouping import Grouping
from hybridml.kernels.space import Space, canonical, parts, refine, stretch, strides_over
from hybridml.kernels.unions import Unions
from hybridml.kernels.views import Place, places
from hybridml.ops.registry import Kind, Layout
from hybridml.symbolic import hint
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.graph import Graph, Value

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
    reasons: dict[tuple[int, int], str]


Fusions = dict[tuple[Any, ...], Fusion]  # of graphs that are one but for their sizes, by their wiring


class Fuser(Grouping):
    """Merges the groups of one graph; with sums across rows in the rows' kernels, if the target can (`across`)."""

    def __init__(
        self, graph: Graph, places: dict[Value, Place], across: bool = False, unions: Unions | None = None
    ) -> None:  # fmt: skip
        super().__init__(graph, places)
        self.across = across
        self.unions = Unions() if unions is None else unions
        self.reasons: dict[tuple[int, int], str] = {}  # why neighbours stayed apart
        self.uncut: set[Symbol] = set()  # open numbers of rows that sums across them cannot be cut by
        self._merges: list[tuple[int, int, int]] = []
        self._names: dict[int, str] = {}
        self._refused: dict[tuple[Group, Group], str] = {}
        self._strides: dict[tuple[Layout, tuple[int, ...], Space], tuple[int, ...]] = {}

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
        queue.sort()
        reasons: dict[tuple[int, int], str] = {}
        progress = True
        while progress:  # a refusal may become legal once other groups have merged
            progress = False
            again: list[tuple[int, int, int]] = []
            for item in queue:
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
            queue = again
        self.reasons = reasons
        self.forget_joined()
        return self.groups

    @property
    def refusals(self) -> dict[tuple[int, int], Refusal]:
        """What stayed apart, by its nodes, for people."""
        return {
            (a, b): Refusal(self._name(a), self._name(b), reason) for (a, b), reason in self.reasons.items()
        }

    @property
    def fusion(self) -> Fusion:
        """What was decided, for the same graph at other sizes."""
        return Fusion(tuple(self._merges), dict(self.reasons))

    def repeat(self, fusion: Fusion) -> bool:
        """Merge what was merged for the same graph at other sizes, from the start. False if that is not legal for these sizes."""
        for a, b, way in fusion.merges:
            left, right = self.owner[a], self.owner[b]
            found = self._unifications(left, right, way)
            if not found:
                return False
            self.join(left, right, found[0][1])
        self.reasons = dict(fusion.reasons)
        return all(self._check(g) is None for g in set(self.owner.values()) if len(g.nodes) > 1)

    def refuse(self, a: int, b: int, reason: str) -> None:
        self.reasons[a, b] = reason

    def forget_joined(self) -> None:
        """Drop the reasons why groups stayed apart that are one by now."""
        self.reasons = {(a, b): r for (a, b), r in self.reasons.items() if self.owner[a] is not self.owner[b]}

    def _name(self, i: int) -> str:
        if i not in self._names:
            n = self.nodes[i]
            result = f" {self.graph.label(n.out)}" if n.outputs else ""
            at = f" ({n.source.file.rsplit('/', 1)[-1]}:{n.source.line})" if n.source else ""
            self._names[i] = f"{n.op.name}{result}{at}"
        return self._names[i]

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
        for g in (a, b):
            if g.form < 0:
                self._describe(g)
        known = self.unions.get(a, b)
        if known is None:
            known = self.unions.put(a, b, self._union(a, b))
        if isinstance(known, str):
            return known
        self._merges.append((a.first, b.first, known.way))
        self.join(a, b, self.unions.made(a, b, known))
        return None

    def _union(self, a: Group, b: Group) -> tuple[int, Group] | str:
        """The first way to put two groups into one kernel, and that; or why there is none."""
        reason: str | None = "their iteration spaces differ"
        for way, merged in self._unifications(a, b):
            reason = self._check(merged)
            if reason is None:
                return way, merged
        assert reason is not None
        return reason

    def _describe(self, g: Group) -> None:
        """Give a group of one node its form: all that decides what it can merge with, but for its place among others."""
        n = self.nodes[g.first]
        form, g.buffers = self.unions.node(n, self.places)
        g.form = self.unions.form((form, n.out in self._results, len(self.readers(n.out))))

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


def refined(space: Space, axes: frozenset[int], fine: Space) -> frozenset[int]:
    """Axes of a space as axes of a finer one."""
    pieces = parts(space, fine)
    return frozenset(p for k in axes for p in pieces[k])


def fused(graph: Graph, known: Fusions | None = None) -> Fuser:
    """The graph's groups, for the CPU; sums that rows could take along are cut into blocks first.

    `known` holds what was decided for the graph at other sizes, and takes what is decided now: the search is most of the work.
    """
    unions = Unions()
    fuser = _searched(graph, known, unions)
    in_blocks = crossing.cut(fuser)
    return fuser if in_blocks is None else _searched(in_blocks, known, unions)


def _searched(graph: Graph, known: Fusions | None, unions: Unions) -> Fuser:
    fuser = Fuser(graph, places(graph), across=True, unions=unions)
    if known is None:
        fuser.fuse()
        return fuser
    key = _wiring(graph)
    if key in known and fuser.repeat(known[key]):
        return fuser
    fuser = Fuser(graph, fuser.places, across=True, unions=unions)
    fuser.fuse()
    known[key] = fuser.fusion
    return fuser


def _wiring(graph: Graph) -> tuple[Any, ...]:
    """What a graph is but for its sizes: the operations, and who reads whom."""
    numbers = graph.numbers()
    return tuple([(n.op, *[numbers[v] for v in n.values]) for n in graph.nodes])
