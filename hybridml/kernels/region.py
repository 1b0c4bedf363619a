"""A graph (or the sub-graph of a branch or a loop body) as steps with a place for every buffer, ready to be emitted into a program.

What is given from outside has numbers: inputs, then variables, then outputs; whoever emits the region says where each lies. Buffers of
the region's own are offsets into an arena whose base comes with it. A loop's carry is a variable of its body: read at the beginning
of an iteration, overwritten in place where nobody reads it later, else at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hybridml.kernels import control, driver, horizontal, jit, memory, sweep
from hybridml.kernels.address import Address, Fixed, add_copy
from hybridml.kernels.emit import emit
from hybridml.kernels.group import Fuser, Fusions, Group, Refusal, fused
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Check, Lowered, lower
from hybridml.kernels.movement import lower_movement
from hybridml.kernels.steps import (
    EmptyStep,
    GemmStep,
    HorizontalStep,
    KernelStep,
    PythonStep,
    RoutineStep,
    Step,
    gemm_steps,
    is_empty,
    merge_equal_updates,
)
from hybridml.kernels.views import Place
from hybridml.kernels.windows import lower_windows
from hybridml.ops.registry import Kind
from hybridml.trace.graph import Graph, Node, Value, runs_python


@dataclass
class Meter:
    """What building kernels cost, over a region and those inside it. Seconds."""

    emit_seconds: float = 0.0
    compile_seconds: float = 0.0
    load_seconds: float = 0.0
    compiled: int = 0
    loaded_from_disk: int = 0


@dataclass
class Fault:
    """What a check may have found, where its operands lie, and where its flag is."""

    check: Check
    operands: dict[Value, Address]
    places: dict[Value, Place]
    flag: np.ndarray


@dataclass
class Site:
    """Where a region is emitted: the table, the base of its arena, and the places of what is given to it by number."""

    table: driver.Table
    base: int
    given: Sequence[Address]
    faults: list[Fault]  # a program that stops with code k does so for the k-th, counted from 1


class Region:
    """Steps and buffers of one graph. `variables` of the graph are overwritten by its `updates`.

    `inner` says that it is a sub-graph: its variables are loop variables, which nobody sees if the call fails. `known` is what fusion
    decided for the same graph at other sizes.
    """

    def __init__(
        self, graph: Graph, threads: int, meter: Meter, inner: bool = False, known: Fusions | None = None
    ) -> None:
        self.threads, self.meter, self.inner, self._known = threads, meter, inner, known
        fuser = self._fused(graph)
        self.graph, self.places, self.groups = fuser.graph, fuser.places, fuser.groups
        self.refusals: list[Refusal] = list(fuser.refusals.values())
        self._readers, self._results = fuser._readers, fuser._results
        self._member = dict(fuser.owner)
        self.steps, apart = self._merged(list(self._steps()))
        self.refusals += apart
        self._place_buffers()

    @property
    def nanoseconds(self) -> float:
        return sum(s.nanoseconds for s in self.steps)

    # steps

    def _outputs(self, g: Group) -> list[Value]:
        return [
            v
            for i in g.nodes
            for v in self.graph.nodes[i].outputs
            if v in self._results or any(self._member[r] is not g for r in self._readers.get(v, []))
        ]

    def _steps(self) -> Iterator[Step]:
        for g in self.groups:
            n = self.graph.nodes[g.first]
            reads = tuple(
                dict.fromkeys(self.places[v][0] for i in g.nodes for v in self.graph.nodes[i].values)
            )
            if g.fusible:
                own = {v for i in g.nodes for v in self.graph.nodes[i].outputs}
                yield self._kernel(g, tuple([v for v in reads if v not in own]))
                continue
            if is_empty(n):
                yield EmptyStep(n.op.name, reads, n.outputs)
                continue
            if n.op.kind is Kind.CONTROL:
                yield control.step(n, reads, self.places, self._inner)
                continue
            if runs_python(n):
                yield PythonStep(n, reads, n.outputs, checks=bool(n.outputs), reason="is Python")
                continue
            products = self._products(n) if n.op.provider == "gemm" else None
            routines = self._routines(n)
            moves = lower_movement(n, self.places) if products is None and n.out.spec.size else None
            if products is not None:
                yield from products
            elif routines is not None:
                for r in routines:
                    if isinstance(r, RoutineStep):
                        self._count(r.kernel)
                    yield r if isinstance(r, RoutineStep) else self._compiled(*r)
            elif moves is not None:
                yield from [self._compiled(low, reads, n.outputs) for low in moves]
            else:
                yield PythonStep(n, reads, n.outputs)

    # what another target does in its own way

    def _products(self, n: Node) -> Sequence[Step] | None:
        """The steps of a matrix product, or None where no routine takes its operands."""
        return gemm_steps(self.graph, n, self.places, self.threads)

    def _routines(self, n: Node) -> Sequence[Any] | None:
        """Our own routines for a convolution or a pooling, or None where there is none."""
        return lower_windows(n, self.places, self.threads)

    def _fused(self, graph: Graph) -> Fuser:
        """The graph's groups, as this target can run them."""
        return fused(graph, self._known)

    def _merged(self, steps: list[Step]) -> tuple[list[Step], list[Refusal]]:
        """The steps, those that may share a launch put together, and which could not."""
        return sweep.plan(merge_equal_updates(steps))

    def _inner(self, graph: Graph) -> Region:
        """The region of a branch or a loop body."""
        return Region(graph, self.threads, self.meter, True, self._known)

    def _kernel(self, g: Group, reads: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        outputs = self._outputs(g)
        lowered = lower(self.graph, g, self.places, outputs)
        self.meter.emit_seconds += time.perf_counter() - started
        return self._compiled(lowered, reads, tuple(outputs))

    def _compiled(self, lowered: Lowered, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        name, source = emit(lowered.spec)
        self.meter.emit_seconds += time.perf_counter() - started
        kernel = jit.load(source, name)
        self._count(kernel)
        return KernelStep(lowered, kernel, source, reads, writes)

    def _count(self, kernel: Kernel) -> None:
        if kernel.origin == "compiled":
            self.meter.compiled += 1
            self.meter.compile_seconds += kernel.seconds
        elif kernel.origin == "disk":
            self.meter.loaded_from_disk += 1
            self.meter.load_seconds += kernel.seconds

    # memory

    def _place_buffers(self) -> None:
        """Where every buffer lies: the number of something given, a constant's array, or an offset into the arena."""
        g = self.graph
        n_in, n_var = len(g.inputs), len(g.variables)
        self.external: dict[Value, int] = {v: i for i, v in enumerate((*g.inputs, *g.variables))}
        self.constants = {v: np.array(a, order="C") for v, a in g.constants.items()}
        checks = [s.lowered.check for s in self.steps if isinstance(s, KernelStep)]
        self.constants |= {
            c.flag: np.zeros(1, np.bool_) for c in checks if c is not None
        }  # memory of its own, as constants have
        self._checked = max([t for t, s in enumerate(self.steps) if s.checks], default=-1)
        last: dict[Value, int] = {}
        born: dict[Value, int] = {}
        for t, s in enumerate(self.steps):
            for v in s.reads:
                last[v] = t
            for v in s.writes:
                born.setdefault(v, t)
                last[v] = max(last.get(v, 0), t)
        for k, v in enumerate(g.outputs):
            self.external[self.places[v][0]] = n_in + n_var + k
        self.copies: list[tuple[Value, int]] = []  # results that reach their variable only at the end
        for i, v in g.updates:
            base, variable = self.places[v][0], g.variables[i]
            if self._may_overwrite(born[base], variable, base, last):
                self.external[base] = n_in + i
            else:
                self.copies.append((base, n_in + i))
                last[base] = len(self.steps)
        shared = self._share_in_place(born, last)
        intervals: dict[Value, memory.Interval] = {}
        for v, t in born.items():
            if v in self.external:
                continue
            root = shared.get(v, v)
            old = intervals.get(root)
            start, end = (t, last[v]) if old is None else (min(old.born, t), max(old.dies, last[v]))
            intervals[root] = memory.Interval(root, v.spec.nbytes, start, end)
        scratch = {
            key: memory.Interval(key, n, t, t) for t, s in enumerate(self.steps) for key, n in s.scratch
        }
        offsets, self.arena_bytes = memory.plan([*intervals.values(), *scratch.values()])
        self.offset = {v: offsets[shared.get(v, v)] for v in (*born, *scratch) if shared.get(v, v) in offsets}

    def _may_overwrite(self, t: int, variable: Value, new: Value, last: dict[Value, int]) -> bool:
        """True if step t can write the new value over the old one: nobody reads the old one after, or elsewhere.

        A call that raises leaves variables as they were: nothing is overwritten before the last check.
        """
        if last.get(variable, -1) > t or (self._checked >= t and not self.inner):
            return False
        step = self.steps[t]
        return variable not in step.reads or (variable, new) in step.in_place

    def _share_in_place(self, born: dict[Value, int], last: dict[Value, int]) -> dict[Value, Value]:
        """Outputs that take over the arena place of an input that dies with the step; each input is taken once."""
        shared: dict[Value, Value] = {}
        for t, s in enumerate(self.steps):
            taken: set[Value] = set()
            for x, o in s.in_place:
                free = (
                    x in born
                    and x not in self.external
                    and o not in self.external
                    and last[x] == t
                    and born[o] == t
                )
                if free and o not in shared and x not in taken:
                    shared[o] = shared.get(x, x)
                    taken.add(x)
        return shared

    # the program

    def emit(self, site: Site) -> None:
        """Add every step's instructions, then what reaches its variable at the end."""
        for s in self.steps:
            self.add(site, s)
        self.finish(site)

    def add(self, site: Site, s: Step) -> None:
        """Add one native step's instructions."""
        if isinstance(s, KernelStep):
            chunks, grain = s.chunks(self.threads)
            site.table.run(s.kernel.address, self._block(site, s), s.lowered.extent, chunks, grain)
            if s.lowered.check is not None:
                self._add_check(site, s.lowered.check)
        elif isinstance(s, HorizontalStep):
            self._add_horizontal(site, s)
        elif isinstance(s, GemmStep):
            p = s.plan
            site.table.run(p.kernel.address, self._gemm_block(site, s), p.extent, p.chunks, p.grain)
        elif isinstance(s, sweep.SweepStep):
            self._add_sweep(site, s)
        elif isinstance(s, RoutineStep):
            self._add_routine(site, s)
        elif isinstance(s, control.ControlStep):
            at = {v: self.address(site, v) for v in (*s.reads, *s.writes)}
            s.emit(replace(site, base=site.base + self.offset[s.key], given=()), at)

    def finish(self, site: Site) -> None:
        for value, index in self.copies:
            add_copy(site.table, self.address(site, value), site.given[index], value.spec.nbytes)

    def address(self, site: Site, v: Value) -> Address:
        """Where a base value's buffer lies."""
        if v in self.external:
            return site.given[self.external[v]]
        if v in self.constants:
            return Fixed(int(self.constants[v].ctypes.data))
        return Fixed(site.base + self.offset[v])

    def _block(self, site: Site, s: KernelStep) -> int:
        """The argument block of a generated kernel."""
        low = s.lowered
        addresses = [self.address(site, v).at(offset) for v, offset in low.operands]
        words = [a.address for a in addresses]
        words += low.words
        words += [driver.scalar_word(x, dtype) for x, dtype in low.scalars]
        block = site.table.block(words)
        for word, a in enumerate(addresses):
            a.bind(site.table, block, word)
        return block

    def _add_check(self, site: Site, check: Check) -> None:
        operands = {v: self.address(site, self.places[v][0]) for v in check.node.values}
        flag = self.constants[check.flag]
        site.faults.append(Fault(check, operands, self.places, flag))
        fine = site.table.jump_if_false(int(flag.ctypes.data))
        site.table.stop(len(site.faults))
        site.table.aim(fine, site.table.next_row)

    def _add_horizontal(self, site: Site, s: HorizontalStep) -> None:
        blocks = [self._block(site, p) for p in s.parts]
        chunks, grain = s.chunks(self.threads)
        args = site.table.block(horizontal.words(s.kernel.address, blocks, s.extents))
        launch = jit.load(horizontal.SOURCE, "horizontal")
        site.table.run(launch.address, args, sum(s.extents), chunks, grain)

    def _add_sweep(self, site: Site, s: sweep.SweepStep) -> None:
        kernels = [m.plan.kernel if isinstance(m, GemmStep) else m.kernel for m in s.members]
        blocks = [
            self._gemm_block(site, m) if isinstance(m, GemmStep) else self._block(site, m) for m in s.members
        ]
        args = site.table.block(sweep.words([k.address for k in kernels], blocks, s))
        chunks, grain = s.chunks(self.threads)
        site.table.run(jit.load(sweep.SOURCE, "sweep").address, args, s.units, chunks, grain)

    def _gemm_block(self, site: Site, s: GemmStep) -> int:
        """The argument block of a matrix product."""
        p = s.plan
        a, b, c = [self.address(site, v).at(offset) for v, offset in (s.a, s.b, s.c)]
        block = site.table.block(p.words(a.address, b.address, c.address))
        for word, at in ((p.a_word, a), (p.b_word, b), (p.c_word, c)):
            at.bind(site.table, block, word)
        return block

    def _add_routine(self, site: Site, s: RoutineStep) -> None:
        words = list(s.words)
        for word, content in s.blocks:
            words[word] = site.table.block(content)
        at = [(self.address(site, v).at(offset), word) for v, offset, word in s.operands]
        for a, word in at:
            words[word] = a.address
        block = site.table.block(words)
        for a, word in at:
            a.bind(site.table, block, word)
        site.table.run(s.kernel.address, block, s.extent, s.pieces, s.grain)
