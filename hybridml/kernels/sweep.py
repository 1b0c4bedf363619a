"""Sweeps: neighbouring steps that run together, a part of the rows (or of the batch) at a time, so that what one leaves for the next
is still in the cache.

A step of a sweep may read of what another one writes only the part that its own rows have written: row by row chains around a
matrix product, attention's softmax between its two products, a convolution and the pooling of its results. No kernel is compiled for a
sweep; one loop (`sweep_loop`) calls those that exist on parts of their extents. What nobody else reads is its own: memory for one part
of it is enough (`sweep_memory`). A sweep is one step for the memory plan, so nothing it touches takes the place of anything else it
touches, except for an output that takes over an input element for element.

(TVM calls it compute_at, Halide's loops over tiles of producers are the same idea; here it happens between compiled kernels.)
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeGuard

from hybridml.kernels import gemm, jit, memory
from hybridml.kernels.fuser import Refusal
from hybridml.kernels.jit import Kernel
from hybridml.kernels.products import GemmStep
from hybridml.kernels.steps import KernelStep, RoutineStep, Step
from hybridml.kernels.sweep_layout import CACHE_BYTES, OWN_BYTES
from hybridml.kernels.walk import Walk
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Value

WORTHWHILE_BYTES = 1 << 18
"""Buffers between steps that are smaller than this stay in the cache anyway."""

MOST_STEPS = 16
"""Steps in a sweep: what longer ones would still gain is little, and planning looks at all steps of a run for each."""

PRODUCT_ROWS = 256
"""Rows of a matrix product in a part: fewer of them do not pay for packing the other operand."""

Member = KernelStep | GemmStep | RoutineStep


@dataclass
class SweepStep:
    """Steps that run together. `units` of equal extents make up each of them, `part` of these are done at a time. `own` are the buffers
    that nobody else reads.

    Without units they run one after the other: for some sizes their parts do not stay apart.
    """

    members: list[Member]
    units: int
    part: int
    own: tuple[Value, ...] = ()
    open: bool = False  # planned while sizes were
    checks: bool = False

    def at(self, sizes: Sizes) -> SweepStep:
        """For these sizes: the same members, parts of their own."""
        members = _members_at(self.members, sizes)
        units = _units(members)
        part = None if units is None else _part(members, units)
        return SweepStep(
            members, 0 if part is None else units or 0, part or 0, sizes.all(self.own), self.open
        )

    @property
    def writes(self) -> tuple[Value, ...]:
        return tuple(dict.fromkeys(v for s in self.members for v in s.writes if v not in self.own))

    @property
    def reads(self) -> tuple[Value, ...]:
        """What must be there before."""
        written: set[Value] = set()
        found: dict[Value, None] = {}
        for s in self.members:
            found.update({v: None for v in s.reads if v not in written})
            written.update(s.writes)
        return tuple(found)

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        """Where sizes were open it may have to run step after step: then its own buffers are needed whole."""
        return [(v, 0 if self.units else v.spec.nbytes) for v in self.own] if self.open else []

    @cached_property
    def own_offsets(self) -> dict[Value, int]:
        """Where the share of a part lies in the memory of a thread, for each buffer of its own."""
        if not self.units:
            return {}
        found = []
        for v in self.own:
            touching = [k for k, s in enumerate(self.members) if v in s.reads or v in s.writes]
            share = v.spec.nbytes // self.units * self.part
            found.append(memory.Interval(v, share, touching[0], touching[-1]))
        offsets, size = memory.plan(found)
        assert size <= OWN_BYTES, "a part's buffers fit into the cache"
        return {v: offsets[v] for v in self.own}

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """Outputs that may take over an input of their step: one that no other step of the sweep reads."""
        readers = [v for s in self.members for v in dict.fromkeys(s.reads)]
        pairs = [pair for s in self.members for pair in s.in_place if readers.count(pair[0]) == 1]
        return [pair for pair in pairs if not set(pair) & set(self.own)]

    @property
    def nanoseconds(self) -> float:
        return sum(s.nanoseconds for s in self.members)

    @property
    def scales(self) -> list[int]:
        """What one unit is of each member's extent."""
        return [_extent(s) // self.units for s in self.members]

    def chunks(self, threads: int) -> tuple[int, int]:
        """(pieces, grain) for this many threads."""
        wanted = 2 * threads if threads > 1 else 1
        return max(1, min(wanted, -(-self.units // self.part))), self.part


def plan(
    steps: Iterable[Step], results: Collection[Value], hints: Sizes | None = None
) -> tuple[list[Step], list[Refusal]]:
    """Put neighbours into sweeps where that keeps data in the cache; also, where one step reads another and they stay apart, why.

    `results` are the buffers that are wanted after the last step. Where sizes are open, `hints` are numbers for them that the answers
    are good for: whether a sweep is worthwhile is an estimate.
    """
    steps = list(steps)
    numbered = steps if hints is None else [_members_at([s], hints)[0] if _is_member(s) else s for s in steps]
    of = {id(s): s_open for s, s_open in zip(numbered, steps, strict=True)}
    planned, refusals = _planned(numbered)
    touching = Counter(v for s in steps for v in {*s.reads, *s.writes})
    found: list[Step] = []
    for s in planned:
        if isinstance(s, SweepStep):
            members: list[Member] = [of[id(m)] for m in s.members]  # type: ignore[misc]  # the open form of a member is one
            own = _own(members, touching, results)
            found.append(SweepStep(members, s.units, s.part, own, open=hints is not None))
        else:
            found.append(of[id(s)])
    return found, refusals


def _own(
    members: Sequence[Member], touching: Counter[Value], results: Collection[Value]
) -> tuple[Value, ...]:
    """The buffers that one member hands to others, and that nobody else reads."""
    inside = Counter(v for s in members for v in {*s.reads, *s.writes})
    written = dict.fromkeys(v for s in members for v in s.writes)
    return tuple([v for v in written if 1 < inside[v] == touching[v] and v not in results])


def _is_member(s: Step) -> TypeGuard[Member]:
    return isinstance(s, (KernelStep, GemmStep, RoutineStep))


def _members_at(members: Sequence[Member], sizes: Sizes) -> list[Member]:
    found: list[Member] = []
    for m in members:
        at = m.at(sizes)
        for low in at.generated:
            low.walks = tuple([w.at(sizes) for w in low.walks])
        found.append(at)
    return found


def _planned(steps: Sequence[Step]) -> tuple[list[Step], list[Refusal]]:
    """Runs of neighbours as sweeps. What lies between them and cannot join makes way: before the run, or behind it if it is small."""
    out: list[Step] = []
    refusals: list[Refusal] = []
    run: list[Member] = []
    behind: list[Step] = []
    for s in steps:
        if run and _is_member(s) and not s.checks and not _can(s):
            if not _reads(s, [*run, *behind]):
                out.append(s)
                continue
            if _is_small(s):
                behind.append(s)
                continue
        if len(run) == MOST_STEPS or (run and _reads(s, behind)):
            out += _finished(run) + behind
            run, behind = [], []
        reason = _refusal([*run, s]) if _can(s) else "it cannot run in parts"
        if reason is not None:
            feeds = [m for m in run if _reads(s, [m])]
            refusals += [Refusal(_name(m), _name(s), f"not in one sweep: {reason}") for m in feeds[-1:]]
            out += _finished(run) + behind
            run, behind = [], []
        if _can(s):
            run.append(s)
        else:
            out.append(s)
    return out + _finished(run) + behind, refusals


def _reads(s: Step, others: Sequence[Step]) -> bool:
    """True if a step reads what one of the others writes."""
    return any(v in s.reads for other in others for v in other.writes)


def _is_small(s: Step) -> bool:
    """True if no sweep of such steps is worthwhile."""
    return all(v.spec.nbytes < WORTHWHILE_BYTES // MOST_STEPS for v in (*s.reads, *s.writes))


def _can(s: Step) -> TypeGuard[Member]:
    if not _is_member(s) or _is_small(s) or s.checks or s.scratch:
        return False
    return s.plan.extent > 0 if isinstance(s, GemmStep) else bool(s.walks)


def _extent(s: Member) -> int:
    if isinstance(s, RoutineStep):
        return s.extent
    return s.plan.extent if isinstance(s, GemmStep) else s.lowered.extent


def kernel(s: Member) -> Kernel:
    """What computes a member."""
    return s.plan.kernel if isinstance(s, GemmStep) else s.kernel


def _name(s: Step) -> str:
    if isinstance(s, KernelStep):
        return s.lowered.spec.title
    return getattr(s, "title", "") or type(s).__name__


def _refusal(members: list[Member]) -> str | None:
    """Why these steps cannot share a sweep; one alone always can."""
    if len(members) == 1:
        return None
    units = _units(members)
    if units is None:
        return "a part of its rows reads other parts of what is written before it"
    if _part(members, units) is None:
        return "a part of all its buffers does not fit into the cache"
    return None


def _finished(run: list[Member]) -> list[Step]:
    """A run as a sweep if that keeps enough in the cache."""
    kept = {v for k, s in enumerate(run) for v in s.writes if any(v in later.reads for later in run[k + 1 :])}
    if sum(v.spec.nbytes for v in kept) < WORTHWHILE_BYTES:
        return list(run)
    units = _units(run)
    part = None if units is None else _part(run, units)
    assert units is not None and part is not None, "a run was made of steps that fit together"
    return [SweepStep(run, units, part)]


def _units(members: list[Member]) -> int | None:
    """The largest number of units of which each step's share touches its own part of whatever the steps share."""
    walks: dict[Value, list[Walk]] = {}
    touched: dict[Value, set[int]] = {}
    for k, s in enumerate(members):
        for w in s.walks:
            walks.setdefault(w.value, []).append(w)
            touched.setdefault(w.value, set()).add(k)
    shared = [
        w for v, found in walks.items() if len(touched[v]) > 1 and any(x.written for x in found) for w in found
    ]  # fmt: skip
    most = math.gcd(*[_extent(s) for s in members])
    for units in sorted(_divisors(most), reverse=True):
        if units > 1 and all(w.is_local(units) for w in shared):
            return units
    return None


def _divisors(n: int) -> set[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return {*small, *[n // d for d in small]}


def _part(members: list[Member], units: int) -> int | None:
    """Units to do at a time: as many as the cache holds, and enough rows for products; None if that is impossible."""
    local = {w.value for s in members for w in s.walks if w.is_local(units)}
    fitting = CACHE_BYTES * units // max(1, sum(v.spec.nbytes for v in local))
    needed = 1
    for s in members:
        if isinstance(s, GemmStep) and s.plan.template[gemm.Words.SPLIT] != gemm.Split.BATCH:
            needed = max(needed, -(-min(PRODUCT_ROWS, s.plan.extent) * units // s.plan.extent))
    if max(needed, 1) > fitting:
        return None
    return max(needed, min(fitting, units // 8))  # small parts, but not so small that calls count


@functools.cache
def _source() -> str:
    return Path(__file__).with_name("sweep_loop.py").read_text(encoding="utf-8")


def load() -> Kernel:
    """The loop over parts and steps."""
    return jit.load(_source(), "sweep")
