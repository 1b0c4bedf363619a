"""A graph's steps for a GPU: the same groups, buffers and order as on the CPU, as commands with addresses.

Branches and while-loops are items that the host decides, scans are written out or repeated; see `program`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hybridml import config
from hybridml.kernels import emit_cuda, launch
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.control import ControlStep
from hybridml.kernels.cuda import cudnn, patches
from hybridml.kernels.cuda.absorb import absorb
from hybridml.kernels.cuda.commands import Clear, Copy, Kernel, Launch, Library, Look, Place, ProductPlan
from hybridml.kernels.cuda.convolutions import convolutions
from hybridml.kernels.cuda.epilogue import PRODUCT
from hybridml.kernels.cuda.items import Array, Branch, Eager, Item, Repeat, Where, While
from hybridml.kernels.cuda.join import join
from hybridml.kernels.cuda.lt import ALIGNED
from hybridml.kernels.cuda.products import product_steps
from hybridml.kernels.cuda.program import is_recorded
from hybridml.kernels.cuda.steps import CudaHorizontalStep, CudaStep, LibraryStep
from hybridml.kernels.cuda.uses import Alignment
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.fuser import Fuser, Fusions, Refusal
from hybridml.kernels.halves import literal
from hybridml.kernels.lower import Lowered
from hybridml.kernels.memory import ALIGN
from hybridml.kernels.products import GemmStep
from hybridml.kernels.region import Meter, Region
from hybridml.kernels.steps import (
    EmptyStep,
    HorizontalStep,
    KernelStep,
    PythonStep,
    RoutineStep,
    Step,
    merge_equal_updates,
)
from hybridml.kernels.views import places
from hybridml.kernels.windows import GENERATED, lower_windows
from hybridml.ops.spec import TensorSpec
from hybridml.trace.graph import Graph, Node, Value

MAX_UNROLLED = (
    20_000  # commands of a scan that are written out; longer ones are repeated by the host, so many at a time
)
ROWS_BYTES = 64 << 20  # that are copied for so many to lie where a recorded graph has them


class CudaRegion(Region):
    """Steps and buffers of one graph on a GPU. `outside` says how what is given to it is aligned."""

    def __init__(
        self, graph: Graph, driver: Any, meter: Meter, inner: bool = False, known: Fusions | None = None,
        outside: tuple[int, bool] = (ALIGNED, False),
    ) -> None:  # fmt: skip
        self.driver, self._outside = driver, outside
        self._uploaded: dict[Value, Any] = {}
        graph, apart = absorb(self._without_convolutions(join(graph)), driver.refuse, *outside)
        super().__init__(graph, 1, meter, inner, known)
        self.refusals += apart

    # what differs from the CPU

    def _prepared(self, graph: Graph) -> Graph:
        return graph

    def _inner(self, n: Node, graph: Graph) -> Region:
        inside = Alignment(self.graph, *self._outside).inside(n)
        return CudaRegion(graph, self.driver, self.meter, True, self._known, inside)

    def _routines(self, n: Node) -> Sequence[Any] | None:
        found = lower_windows(n, self.places, 1, GENERATED | patches.KERNELS)
        return None if found is None or any(isinstance(r, RoutineStep) for r in found) else found

    def _fused(self, graph: Graph) -> Fuser:
        fuser = Fuser(graph, places(graph))  # sums across rows are column kernels, in parts
        fuser.fuse()
        return fuser

    def _merged(self, steps: list[Step]) -> tuple[list[Step], list[Refusal]]:
        merged = merge_equal_updates(steps, lambda s: s.kind if isinstance(s, CudaStep) else None)
        return [t for s in merged for t in (self._shared(s) if isinstance(s, HorizontalStep) else [s])], []

    def _shared(self, s: HorizontalStep) -> list[Step]:
        """The launches of many kernels of one kind, of one text, as many kernels in each as it takes. The parts' own kernel, once compiled,
        is not needed."""
        started = time.perf_counter()
        parts: list[Any] = s.parts
        spec, words = parts[0].lowered.spec, [p.lowered.words for p in parts]
        axes, _ = emit_cuda.space(spec)
        kept = [launch.sizes(axes, spec.words, w) for w in words]
        vector = min(emit_cuda.width(spec, w) for w in words)
        processors = self.driver.multiprocessors
        shape = launch.shape_together(kept, [x for w in words for x in w], vector, processors)
        launches = -(-len(parts) // emit_cuda.most_copies(spec, shape))
        copies = -(-len(parts) // launches)
        name, source = emit_cuda.emit_horizontal(spec, shape, copies, config.get().fast_math)
        given = emit_cuda.horizontal_parameters(spec, shape, copies)
        self.meter.emit_seconds += time.perf_counter() - started
        kernel = self._load(name, source, tuple(given), False)
        return [
            CudaHorizontalStep(
                parts[k::launches], together=kernel, blocks=launch.shares(kept[k::launches], shape.vector, processors), copies=copies
            )
            for k in range(launches)
        ]  # fmt: skip

    def _without_convolutions(self, graph: Graph) -> Graph:
        precision, aligned = config.get().matmul_precision, Alignment(graph, *self._outside)
        return convolutions(graph, lambda r, n: cudnn.lower(r, n, precision, self.driver.refuse, aligned))

    def _products(self, n: Node) -> Sequence[Any] | None:
        if n.op is cudnn.CONVOLUTION:
            operands = [
                (base, at.offset * base.dtype.itemsize) for base, at in (self.places[v] for v in n.values)
            ]
            return [LibraryStep(n.attrs["plan"], tuple(operands), ((n.out, 0),), n.op.name)]
        found = product_steps(self.graph, n, self.places)
        return None if found is None else [self._library(n, s) for s in found]

    def _library(self, n: Node, s: GemmStep) -> LibraryStep:
        more = [
            (base, at.offset * base.dtype.itemsize) for base, at in (self.places[v] for v in n.values[2:])
        ]
        results = tuple([(v, 0) for v in n.outputs]) if n.op is PRODUCT else (s.c,)
        step = LibraryStep(s.plan, (s.a, s.b, *more), results, n.op.name)
        if (
            s.plan.epilogue.residual
        ):  # the result may take its place, unless the product reads it otherwise too
            residual = more[0][0]
            if step.reads.count(residual) == 1 and residual.spec.nbytes == n.out.spec.nbytes:
                step.in_place = ((residual, n.out),)
        return step

    def _compiled(self, lowered: Lowered, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        spec = lowered.spec
        found = emit_cuda.reductions(spec)
        words = (spec.words, lowered.words)
        kept, reduced = [launch.sizes(axes, *words) for axes in emit_cuda.space(spec)]
        turn = emit_cuda.turn(spec, lowered.words)
        plan = launch.plan(
            spec.mode,
            max(kept, 1),
            max(reduced, 1),
            lowered.words,
            splittable=emit_cuda.is_splittable(spec),
            accumulators=[r.step.dtype.itemsize for r in found],
            multiprocessors=self.driver.multiprocessors,
            vector=emit_cuda.width(spec, lowered.words),
            held_words=emit_cuda.held_words(spec),
            staged_bytes=emit_cuda.staged_bytes(spec),
            shared_bytes=self.driver.shared_bytes,
            turn=turn,
            tiles=emit_cuda.tiles(spec, lowered.words, turn.axis) if turn else 0,
        )
        unread = {
            o.name for o, (v, _) in zip(spec.operands, lowered.operands, strict=True) if v in lowered.temporaries
        }  # fmt: skip
        phases: tuple[Phase, ...] = ("partial", "finish") if plan.parts > 1 else ("whole",)
        texts = [
            (
                p,
                *emit_cuda.emit(spec, plan.shape, p, unread, config.get().fast_math),
                emit_cuda.parameters(spec, plan.shape, p),
            )
            for p in phases
        ]
        self.meter.emit_seconds += time.perf_counter() - started
        kernels = [
            (p, self._load(name, source, tuple(given), plan.shared > 0)) for p, name, source, given in texts
        ]
        partial = [
            Value(TensorSpec((kept * plan.parts,), r.step.dtype.name), f"part of {r.name}")
            for r in (found if plan.parts > 1 else ())
        ]
        return CudaStep(
            lowered, kernels[-1][1], "\n".join(t[2] for t in texts), reads, writes, plan, kernels, partial  # type: ignore[arg-type]  # a CUDA kernel in place of the CPU's
        )  # fmt: skip

    def _load(
        self, name: str, source: str, parameters: tuple[emit_cuda.Parameter, ...], shared: bool
    ) -> Kernel:
        kernel: Kernel = self.driver.kernel(name, source, parameters, shared)
        self.meter.kernels.append(kernel)
        return kernel

    # commands

    @functools.cached_property
    def _flags(self) -> set[Value]:
        """What checks set: the program has one byte for all of them."""
        checks = [s.lowered.check for s in self.steps if isinstance(s, CudaStep)]
        return {c.flag for c in checks if c is not None}

    def items(self, where: Where) -> list[Item]:
        """Everything the region does, in order."""
        found: list[Item] = []
        for s in self.steps:
            found += self._items(s, where)
        for value, index in self.copies:
            found += copy(self.place(where, value), where.given[index], value.spec.nbytes)
        return found

    def place(self, where: Where, v: Value) -> Place:
        """Where a base value's buffer lies."""
        if v in self.external:
            return where.given[self.external[v]]
        if v in self._flags:
            return where.stop
        if v in self.constants:
            if v not in self._uploaded:
                self._uploaded[v] = self.driver.upload(self.constants[v])
            return Fixed(self._uploaded[v].ptr)
        return Fixed(where.base + self.offset[v])

    def _items(self, s: Step, where: Where) -> Iterator[Item]:
        if isinstance(s, CudaStep):
            yield from self._launches(s, where)
            check = s.lowered.check
            if check is not None:
                operands = {v: self.place(where, self.places[v][0]) for v in check.node.values}
                yield Look(check.node, operands, self)
        elif isinstance(s, CudaHorizontalStep):
            yield self._horizontal(s, where)
        elif isinstance(s, LibraryStep):
            yield from self._calls(s, where)
        elif isinstance(s, PythonStep):
            operands = {v: self.place(where, self.places[v][0]) for v in s.node.values}
            kept = [v for v in s.node.outputs if v in self.external or v in self.offset]
            yield Eager(s, operands, {v: self.place(where, v) for v in kept}, self)
        elif isinstance(s, ControlStep):
            yield from _Control(self, s, where).items()
        elif not isinstance(s, EmptyStep):
            raise TypeError(f"no command for {type(s).__name__}")

    def _calls(self, s: LibraryStep, where: Where) -> Iterator[Library | Clear]:
        reads, writes = (
            [self.place(where, v).at(offset) for v, offset in at] for at in (s.operands, s.results)
        )
        if (
            isinstance(s.plan, ProductPlan) and not s.plan.k
        ):  # nothing is summed up, and nobody says what a library makes of that
            yield Clear(writes[0], s.writes[0].spec.nbytes)
            return
        for i in range(s.plan.outer):
            steps = [i * d * s.operands[0][0].dtype.itemsize for d in s.plan.outer_strides]
            moved = [p.at(d) for p, d in zip((*reads[:2], *writes[:1]), steps, strict=True)]
            yield Library(s.plan, (*moved[:2], *reads[2:]), (*moved[2:], *writes[1:]))

    def _arguments(self, low: Lowered, where: Where) -> list[Any]:
        operands = [self.place(where, v).at(offset) for v, offset in low.operands]
        return [*operands, *low.words, *[literal(value, dtype) for value, dtype in low.scalars]]

    def _horizontal(self, s: CudaHorizontalStep, where: Where) -> Launch:
        sets = [self._arguments(p.lowered, where) for p in s.parts]
        ends = list(itertools.accumulate(s.blocks))
        missing = s.copies - len(sets)  # they repeat the last set, without blocks
        values = [x for words in sets + sets[-1:] * missing for x in words]
        ends += ends[-1:] * missing
        return Launch(s.together, (ends[-1], 1), (launch.THREADS, 1), [*values, *ends])

    def _launches(self, s: CudaStep, where: Where) -> Iterator[Launch]:
        values = self._arguments(s.lowered, where)
        for phase, kernel in s.phases:
            parts = [] if phase == "whole" else [*[self.place(where, v) for v in s.partial], s.plan.parts]
            grid = s.plan.finish if phase == "finish" else s.plan.grid
            yield Launch(kernel, grid, s.plan.block, [*values, *parts], shared=s.plan.shared)


def copy(source: Place, target: Place, nbytes: int) -> list[Item]:
    """A copy, unless there is nothing to copy."""
    return [Copy(source, target, nbytes)] if nbytes and source != target else []


class _Control:
    """The items of a node with sub-graphs. Its arena begins with a line for the predicate."""

    def __init__(self, region: CudaRegion, step: ControlStep, where: Where) -> None:
        self.region, self.step, self.where = region, step, where
        self.base = where.base + region.offset[step.key]
        at = {v: region.place(where, v) for v in (*step.reads, *step.writes)}
        self.operands: list[Any] = [step._operand(v, at) for v in step.node.values]  # type: ignore[arg-type]  # places are addresses
        self.results: list[Place] = [at[v] for v in step.node.outputs]

    def items(self) -> list[Item]:
        return {"cond": self._cond, "while": self._while, "scan": self._scan}[
            self.step.node.op.provider or ""
        ]()

    def _inside(self, name: str, given: Sequence[Place]) -> list[Item]:
        region: Any = self.step.regions[name]
        inner: list[Item] = region.items(replace(self.where, base=self.base + ALIGN, given=given))
        return inner

    def _start(self) -> list[Item]:
        pairs = zip(self.operands[: self.step.carried], self.results, self.step.node.outputs, strict=False)
        return [item for x, o, v in pairs for item in copy(x, o, v.spec.nbytes)]

    def _cond(self) -> list[Item]:
        predicate, *rest = self.operands
        given = [*rest, *self.results]
        return [Branch(predicate, self._inside("true", given), self._inside("false", given))]

    def _while(self) -> list[Item]:
        fixed = self.operands[self.step.carried :]
        predicate = Fixed(self.base)
        cond = self._inside("cond", [*self.results, *fixed, predicate])
        return [*self._start(), While(cond, predicate, self._inside("body", [*fixed, *self.results]))]

    def _scan(self) -> list[Item]:
        attrs, c, node = self.step.node.attrs, self.step.carried, self.step.node
        length, sliced = attrs["length"], attrs["sliced"]
        found = self._start()
        if not length:
            return found
        xs, fixed, ys = self.operands[c : c + sliced], self.operands[c + sliced :], self.results[c:]
        values = [*node.values[c : c + sliced], *node.outputs[c:]]
        sizes = [v.spec.nbytes // length for v in values]
        order = range(length - 1, -1, -1) if attrs["reverse"] else range(length)

        def body(rows: Sequence[Place]) -> list[Item]:
            return self._inside("body", [*rows[:sliced], *fixed, *self.results[:c], *rows[sliced:]])

        first = body([p.at(order[0] * n) for p, n in zip([*xs, *ys], sizes, strict=True)])
        if len(first) * length <= MAX_UNROLLED:
            found += first
            for t in order[1:]:
                found += body([p.at(t * n) for p, n in zip([*xs, *ys], sizes, strict=True)])
            return found
        at_once = 1
        if is_recorded(first, self.region.driver.conditionals):
            at_once = max(1, min(MAX_UNROLLED // len(first), ROWS_BYTES // max(sum(sizes), 1)))
        times, places = length // at_once, [*zip([*xs, *ys], sizes, strict=True)]
        steps = range(at_once)[:: order.step]  # rows of those at once, in the order in which they are walked
        arrays = range(len(self.where.arrays), len(self.where.arrays) + len(places))
        for p, n in places:
            of = isinstance(p, External) and self.where.arrays[p.index].variable
            self.where.arrays.append(Array(n * at_once, "row" if at_once == 1 else "rows", of))
        rows = [
            (i, p.at(min(order[0], order[at_once - 1]) * n), n * at_once * order.step)
            for i, (p, n) in zip(arrays, places, strict=True)
        ]
        again = [
            item
            for t in steps
            for item in body([External(i).at(t * n) for i, n in zip(arrays, sizes, strict=True)])
        ]
        found.append(Repeat(times, rows, again))
        for t in order[times * at_once :]:
            found += body([p.at(t * n) for p, n in places])
        return found
