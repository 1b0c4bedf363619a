"""A graph (or the sub-graph of a branch or a loop body) as steps with a place for every buffer, ready to be emitted into a program.

What is given from outside has numbers: inputs, then variables, then outputs; whoever emits the region says where each lies. Buffers of
the region's own are offsets into an arena whose base comes with it. A loop's carry is a variable of its body: read at the beginning
of an iteration, overwritten in place where nobody reads it later, else at the end.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hybridml.kernels import (
    control,
    crossing,
    driver,
    epilogue,
    gemm,
    horizontal,
    jit,
    prologue,
    streaming,
    sweep,
)
from hybridml.kernels.address import Address, Fixed, add_copy
from hybridml.kernels.blocks import Blocks
from hybridml.kernels.depth import cut_depth
from hybridml.kernels.emit import emit
from hybridml.kernels.emit_block import BLOCKS, Way
from hybridml.kernels.emit_tile import panel_way, tile_way
from hybridml.kernels.epilogue import Carry
from hybridml.kernels.form import Forms
from hybridml.kernels.fuser import Fuser, Fusions, Refusal, fused
from hybridml.kernels.group import Group
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Check, Lowered
from hybridml.kernels.movement import lower_movement
from hybridml.kernels.placement import placed
from hybridml.kernels.products import GemmStep, gemm_steps
from hybridml.kernels.prologue import Packing, Prologue
from hybridml.kernels.spec import KernelSpec
from hybridml.kernels.steps import (
    EmptyStep,
    HorizontalStep,
    KernelStep,
    PythonStep,
    RoutineStep,
    Step,
    is_empty,
    kernel_nanoseconds,
    merge_equal_updates,
)
from hybridml.kernels.sweep_memory import OwnMemory
from hybridml.kernels.views import Place, Places
from hybridml.kernels.windows import lower_windows
from hybridml.ops.registry import Kind
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Node, Value, runs_python
from hybridml.trace.passes.halves import widen_products


class Meter:
    """What building kernels cost, over a region and those inside it. Seconds."""

    def __init__(self) -> None:
        self.emit_seconds = 0.0
        self.kernels: list[Any] = []  # those generated, which may be in the making still

    def facts(self) -> dict[str, float]:
        """How many kernels were compiled and loaded, and what that took once they are all there."""
        compiled, loaded = [
            [k for k in self.kernels if k.origin == origin] for origin in ("compiled", "disk")
        ]
        return {
            "emit_seconds": self.emit_seconds, "compiled": len(compiled), "loaded_from_disk": len(loaded),
            "compile_seconds": sum(k.seconds for k in compiled), "load_seconds": sum(k.seconds for k in loaded),
        }  # fmt: skip


@dataclass
class Fault:
    """What a check may have found, where its operands lie, and where its flag is."""

    check: Check
    operands: dict[Value, Address]
    places: Mapping[Value, Place]
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
    decided for the same graph at other sizes. Where sizes of the graph are open, `hints` are numbers for them, by which estimates are made.
    """

    _unbound: tuple[Graph, Sizes]

    def __init__(
        self,
        graph: Graph,
        threads: int,
        meter: Meter,
        inner: bool = False,
        known: Fusions | None = None,
        hints: Sizes | None = None,
    ) -> None:
        self.threads, self.meter, self.inner, self._known, self._hints = threads, meter, inner, known, hints
        fuser = self._fused(self._prepared(graph))
        self.graph, self.places, self.groups = fuser.graph, fuser.places, fuser.groups
        self.refusals: list[Refusal] = list(fuser.refusals.values())
        self._outputs = fuser.outputs
        self._forms = Forms(self.graph, self.places)
        self._texts: dict[Any, tuple[KernelSpec, str, str]] = {}  # by identity, which the first of each keeps
        self.steps, apart = self._merged(list(self._steps()))
        self.refusals += apart
        self.placement = placed(self.graph, self.steps, self.places, inner)

    @property
    def nanoseconds(self) -> float:
        return sum(s.nanoseconds for s in self.steps)

    # steps

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
            if g.product is not None:
                yield from self._with_riders(g)
                continue
            if is_empty(n):
                yield EmptyStep(n.op.name, reads, n.outputs)
                continue
            if n.op.kind is Kind.CONTROL:
                yield control.step(n, reads, self.places, functools.partial(self._inner, n))
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
                        self.meter.kernels.append(r.kernel)
                    yield r if isinstance(r, RoutineStep) else self._compiled(*r)
            elif moves is not None:
                yield from [self._compiled(low, reads, n.outputs) for low in moves]
            else:
                yield PythonStep(n, reads, n.outputs)

    # what another target does in its own way

    def _prepared(self, graph: Graph) -> Graph:
        """The graph as this target's routines run it best: none of ours computes in half precision, and threads keep their rows."""
        return crossing.cut_long(cut_depth(widen_products(graph)))

    def _products(self, n: Node) -> Sequence[Step] | None:
        """The steps of a matrix product, or None where no routine takes its operands."""
        return gemm_steps(self.graph, n, self.places, self.threads)

    def _routines(self, n: Node) -> Sequence[Any] | None:
        """Our own routines for a convolution or a pooling, or None where there is none."""
        return lower_windows(n, self.places, self.threads)

    def _fused(self, graph: Graph) -> Fuser:
        """The graph's groups, as this target can run them. Open sizes are searched with numbers, and what is found is tried on symbols: so
        only what was merged has to be legal for other sizes, and not what was refused."""
        if self._hints is None:
            fuser = fused(graph, self._known)
            self._ridden(fuser)
            return fuser
        numbered = fused(self._hints.graph(graph), self._known)
        riders, feeders = self._ridden(numbered)
        fuser = fused(graph, self._known)
        epilogue.ride(fuser, riders)
        prologue.feed(fuser, feeders)
        return fuser

    def _ridden(self, fuser: Fuser) -> tuple[epilogue.Riders, prologue.Feeders]:
        """Put groups into the blocks of the products that they read or make operands for; which they are."""
        riders = epilogue.riders(fuser, functools.partial(self._carries, fuser))
        epilogue.ride(fuser, riders)
        packing = Packing(fuser, self.threads)
        feeders = prologue.feeders(fuser, packing.width, packing.pays)
        prologue.feed(fuser, feeders)
        return riders, feeders

    def _merged(self, steps: list[Step]) -> tuple[list[Step], list[Refusal]]:
        """The steps, those that may share a launch put together, and which could not."""
        results = {self.places[v][0] for v in self.graph.results}
        return sweep.plan(merge_equal_updates(steps), results, self._hints)

    def _inner(self, n: Node, graph: Graph) -> Region:
        """The region of a branch or a loop body of a node."""
        return Region(graph, self.threads, self.meter, True, self._known, self._hints)

    def _kernel(self, g: Group, reads: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        outputs = self._outputs(g)
        lowered = self._forms.lowered(g, outputs)
        self.meter.emit_seconds += time.perf_counter() - started
        return self._compiled(lowered, reads, tuple(outputs))

    def _compiled(self, lowered: Lowered, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        past = streaming.worthwhile(lowered, self.graph.inputs)
        name, source = self._printed(lowered.spec, emit, past)
        self.meter.emit_seconds += time.perf_counter() - started
        kernel = jit.load(source, name)
        self.meter.kernels.append(kernel)
        return KernelStep(lowered, kernel, source, reads, writes)

    def _printed(
        self, spec: KernelSpec, printer: Callable[[KernelSpec], tuple[str, str]], past: tuple[str, ...] = ()
    ) -> tuple[str, str]:
        """(name, source) of a kernel that stores some outputs past the caches: groups of one form share a spec, and so its text."""
        key = id(spec), printer, past
        known = self._texts.get(key)
        if known is None:
            known = self._texts[key] = (spec, *printer(streaming.streamed(spec, past) if past else spec))
        return known[1:]

    def _carries(self, fuser: Fuser, n: Node) -> Carry:
        """What can ride in the blocks of a node's result."""
        if n.op.provider == "gemm":
            steps = gemm_steps(fuser.graph, n, fuser.places, self.threads, epilogue=True)
            fit = steps is not None and len(steps) == 1 and gemm.carries(steps[0].plan, n.out.shape[-1])
            return Carry.SUMS if fit else Carry.NOTHING
        routines = lower_windows(n, fuser.places, self.threads)
        last = routines[-1] if routines else None
        return Carry.ELEMENTS if isinstance(last, RoutineStep) and last.carries else Carry.NOTHING

    def _with_riders(self, g: Group) -> Iterator[Step]:
        """The steps of a product or a convolution, the last one with what rides in its blocks, and what makes those that it packs."""
        assert g.product is not None
        n = self.graph.nodes[g.product]
        made = {v for i in g.nodes for v in self.graph.nodes[i].outputs}
        outputs = tuple(self._outputs(g))
        apart = {i for _, h in g.packs for i in h.nodes}
        behind = replace(g, nodes=[i for i in g.nodes if i not in apart])
        packed = [self._forms.lowered(h, list(self.graph.nodes[h.nodes[-1]].outputs)) for _, h in g.packs]
        lowered = self._forms.lowered(behind, list(outputs)) if len(behind.nodes) > 1 else None
        beside = [*packed, *([] if lowered is None else [lowered])]
        steps: Sequence[Any] | None
        if n.op.provider == "gemm":
            # Sums down the columns want all rows of a column in one thread.
            split = gemm.Split.COLUMNS if g.reduced else None
            steps = gemm_steps(
                self.graph, n, self.places, self.threads, provider="tiled", split=split,
                beside=sum(map(kernel_nanoseconds, beside)),
            )  # fmt: skip
            fits = gemm.fits_block(n.values[0].shape[-2 if n.attrs["ta"] else -1])
        else:
            steps = self._routines(n)
            fits = steps is not None and steps[-1].fits_block
        assert steps is not None, "a product that others ride on has steps"
        yield from steps[:-1]
        last = steps[-1]
        if packed:
            _, turned = last.planned.turned
            prologues = [
                self._prologue(number, low, self._read_by(h.nodes, made), number == 1 and not turned)
                for (number, h), low in zip(g.packs, packed, strict=True)
            ]
            last = last.packing(tuple(prologues))
        if lowered is not None:
            way = tile_way(lowered.spec)
            kernel, source = self._rider(lowered, way or BLOCKS)
            place = epilogue.place_of(lowered, n.out, outputs, fits)
            reads = self._read_by(behind.nodes, made)
            last = last.carrying(
                epilogue.Epilogue(
                    lowered, kernel, source, reads, outputs, n.out, place, in_tile=way is not None
                )
            )
        yield last

    def _prologue(self, number: int, lowered: Lowered, reads: tuple[Value, ...], in_panels: bool) -> Prologue:
        """What makes an operand of a product block by block, or B in panels."""
        way = panel_way(lowered.spec) if in_panels else None
        kernel, source = self._rider(lowered, way or BLOCKS)
        return Prologue(number, lowered, kernel, source, reads, in_panels=way is not None)

    def _rider(self, lowered: Lowered, way: Way) -> tuple[Kernel, str]:
        """What was lowered as a kernel that a product calls."""
        started = time.perf_counter()
        printer, signature = way
        name, source = self._printed(lowered.spec, printer)
        self.meter.emit_seconds += time.perf_counter() - started
        kernel = jit.load(source, name, signature)
        self.meter.kernels.append(kernel)
        return kernel, source

    def _read_by(self, nodes: Sequence[int], made: set[Value]) -> tuple[Value, ...]:
        """The buffers that these nodes read, but for those that are made beside them."""
        read = dict.fromkeys(self.places[v][0] for i in nodes for v in self.graph.nodes[i].values)
        return tuple([v for v in read if v not in made])

    def at(self, sizes: Sizes) -> Region:
        """This plan, made while sizes were open, for numbers: words, extents and offsets are computed, nothing is decided anew but
        what is an estimate."""
        new = copy.copy(self)
        del new.__dict__["graph"]
        new._unbound = self.graph, sizes
        new.steps = [s.at(sizes) for s in self.steps]
        new.placement = self.placement.at(sizes, new.steps)
        new.places = Places(self.places, sizes)  # type: ignore[assignment]  # a mapping that is only read
        return new

    @functools.cached_property
    def graph(self) -> Graph:
        """What was planned; with sizes put in, when it is first asked for."""
        graph, sizes = self._unbound
        return sizes.graph(graph)

    # memory

    @property
    def external(self) -> dict[Value, int]:
        return self.placement.external

    @property
    def constants(self) -> dict[Value, np.ndarray]:
        return self.placement.constants

    @property
    def copies(self) -> list[tuple[Value, int]]:
        return self.placement.copies

    @property
    def offset(self) -> dict[Value, int]:
        return self.placement.offset

    @property
    def arena_bytes(self) -> int:
        return self.placement.arena_bytes

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
            site.table.run(s.kernel.address, self._blocks(site).of(s), s.lowered.extent, chunks, grain)
            if s.lowered.check is not None:
                self._add_check(site, s.lowered.check)
        elif isinstance(s, HorizontalStep):
            self._add_horizontal(site, s)
        elif isinstance(s, GemmStep):
            p = s.plan
            site.table.run(p.kernel.address, self._blocks(site).of(s), p.extent, p.chunks, p.grain)
        elif isinstance(s, sweep.SweepStep):
            self._add_sweep(site, s)
        elif isinstance(s, RoutineStep):
            site.table.run(s.kernel.address, self._blocks(site).of(s), s.extent, s.pieces, s.grain)
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

    def _blocks(self, site: Site, own: OwnMemory | None = None) -> Blocks:
        return Blocks(site.table, functools.partial(self.address, site), own)

    def _add_check(self, site: Site, check: Check) -> None:
        operands = {v: self.address(site, self.places[v][0]) for v in check.node.values}
        flag = self.constants[check.flag]
        site.faults.append(Fault(check, operands, self.places, flag))
        fine = site.table.jump_if_false(int(flag.ctypes.data))
        site.table.stop(len(site.faults))
        site.table.aim(fine, site.table.next_row)

    def _add_horizontal(self, site: Site, s: HorizontalStep) -> None:
        making = self._blocks(site)
        blocks = [making.of(p) for p in s.parts]
        chunks, grain = s.chunks(self.threads)
        args = site.table.block(horizontal.words(s.kernel.address, blocks, s.extents))
        launch = jit.load(horizontal.SOURCE, "horizontal")
        site.table.run(launch.address, args, sum(s.extents), chunks, grain)

    def _add_sweep(self, site: Site, s: sweep.SweepStep) -> None:
        if not s.units:
            for m in s.members:
                self.add(site, m)
            return
        own = OwnMemory(s)
        making = self._blocks(site, own)
        blocks = [making.of(m) for m in s.members]
        args = site.table.block(own.words([sweep.kernel(m).address for m in s.members], blocks))
        chunks, grain = s.chunks(self.threads)
        site.table.run(sweep.load().address, args, s.units, chunks, grain)
