"""Where every buffer of a region lies: the number of something given from outside, a constant's array, or an offset into the arena.

What shares a place is decided once, by first and last use. For other sizes of the same steps only offsets are computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridml.kernels import memory
from hybridml.kernels.steps import KernelStep, Step
from hybridml.kernels.views import Place
from hybridml.symbolic import hint
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Value


@dataclass(frozen=True)
class Placement:
    """external     numbers of inputs, variables and outputs, in this order, by the buffer
    constants    arrays, and the flags of checks, which are memory of a program's own as constants are
    copies       results that reach their variable only at the end, and its number
    given        how much is given from outside
    outputs      the graph's
    offset       in the arena, in bytes
    """

    external: dict[Value, int]
    constants: dict[Value, np.ndarray]
    copies: list[tuple[Value, int]]
    given: int
    outputs: tuple[Value, ...]
    offset: dict[Value, int]
    arena_bytes: int
    _roots: dict[Value, Value]  # what each buffer in the arena has its place from
    _intervals: list[memory.Interval]
    _stack: list[memory.Stack]  # at most one: made when sizes are put in first

    def at(self, sizes: Sizes, steps: Sequence[Step]) -> Placement:
        """For these sizes: the same neighbours, other offsets. `steps` have the sizes put in."""
        if not self._stack:
            at = {i.key: self.offset[i.key] for i in self._intervals}  # type: ignore[index]  # keys are values
            self._stack.append(memory.stacked(self._intervals, at))
        stack, value = self._stack[0], sizes.value
        scratch = dict([pair for s in steps for pair in s.scratch])
        keys = [value(v) for v in stack.keys]  # type: ignore[arg-type]  # keys are values
        offsets, size = stack.at([scratch[v] if v in scratch else v.spec.nbytes for v in keys])
        by_root = dict(zip(stack.keys, offsets, strict=True))
        return Placement(
            {value(v): i for v, i in self.external.items()},
            {value(v): a for v, a in self.constants.items()} | flags(steps),
            [(value(v), i) for v, i in self.copies],
            self.given,
            sizes.all(self.outputs),
            {value(v): by_root[root] for v, root in self._roots.items()},
            size,
            {},
            [],
            [],
        )


def flags(steps: Sequence[Step]) -> dict[Value, np.ndarray]:
    """A bool for every check."""
    checks = [s.lowered.check for s in steps if isinstance(s, KernelStep)]
    return {c.flag: np.zeros(1, np.bool_) for c in checks if c is not None}


def placed(graph: Graph, steps: Sequence[Step], places: Mapping[Value, Place], inner: bool) -> Placement:
    """A place for every buffer. `inner` says that the graph is a sub-graph: its variables are loop variables."""
    g = graph
    n_in, n_var = len(g.inputs), len(g.variables)
    external: dict[Value, int] = {v: i for i, v in enumerate((*g.inputs, *g.variables))}
    constants = {v: np.array(a, order="C") for v, a in g.constants.items()} | flags(steps)
    checked = max([t for t, s in enumerate(steps) if s.checks], default=-1)
    last: dict[Value, int] = {}
    born: dict[Value, int] = {}
    for t, s in enumerate(steps):
        for v in s.reads:
            last[v] = t
        for v in s.writes:
            born.setdefault(v, t)
            last[v] = max(last.get(v, 0), t)
    for k, v in enumerate(g.outputs):
        external[places[v][0]] = n_in + n_var + k
    copies: list[tuple[Value, int]] = []
    touched: dict[
        int, tuple[set[Value], set[tuple[Value, Value]]]
    ] = {}  # what a step reads, and its pairs in place
    for i, v in g.updates:
        base, variable = places[v][0], g.variables[i]
        t = born[base]
        # A call that raises leaves variables as they were: nothing is overwritten before the last check.
        if t not in touched:
            touched[t] = set(steps[t].reads), set(steps[t].in_place)
        if (checked < t or inner) and _may_overwrite(*touched[t], t, variable, base, last):
            external[base] = n_in + i
        else:
            copies.append((base, n_in + i))
            last[base] = len(steps)
    shared = _share_in_place(steps, external, born, last)
    intervals: dict[Value, memory.Interval] = {}
    for v, t in born.items():
        if v in external:
            continue
        root = shared.get(v, v)
        old = intervals.get(root)
        start, end = (t, last[v]) if old is None else (min(old.born, t), max(old.dies, last[v]))
        intervals[root] = memory.Interval(root, hint(v.spec.nbytes), start, end)
    scratch = {key: memory.Interval(key, hint(n), t, t) for t, s in enumerate(steps) for key, n in s.scratch}
    every = [*intervals.values(), *scratch.values()]
    offsets, arena_bytes = memory.plan(every)
    roots = {v: shared.get(v, v) for v in (*born, *scratch) if shared.get(v, v) in offsets}
    offset = {v: offsets[root] for v, root in roots.items()}
    given = n_in + n_var + len(g.outputs)
    return Placement(external, constants, copies, given, g.outputs, offset, arena_bytes, roots, every, [])


def _may_overwrite(
    reads: set[Value], in_place: set[tuple[Value, Value]], t: int, variable: Value, new: Value, last: Mapping[Value, int]
) -> bool:  # fmt: skip
    """True if step t can write the new value over the old one: nobody reads the old one after, or elsewhere."""
    if last.get(variable, -1) > t:
        return False
    return variable not in reads or (variable, new) in in_place


def _share_in_place(
    steps: Sequence[Step], external: Mapping[Value, int], born: Mapping[Value, int], last: Mapping[Value, int]
) -> dict[Value, Value]:
    """Outputs that take over the arena place of an input that dies with the step; each input is taken once."""
    shared: dict[Value, Value] = {}
    for t, s in enumerate(steps):
        taken: set[Value] = set()
        for x, o in s.in_place:
            free = x in born and x not in external and o not in external and last[x] == t and born[o] == t
            if free and o not in shared and x not in taken:
                shared[o] = shared.get(x, x)
                taken.add(x)
    return shared
