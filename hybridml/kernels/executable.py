"""An optimised graph as something that runs: one native program, or several with Python between.

Externals of a call are one list: inputs, variables, fresh outputs. Everything else has a fixed address, in the arena or in a constant.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from hybridml import buffers, collection, config
from hybridml.errors import GraphError, located
from hybridml.kernels import driver, jit, memory
from hybridml.kernels.address import External
from hybridml.kernels.control import ControlStep
from hybridml.kernels.fuser import Fusions
from hybridml.kernels.region import Fault, Meter, Region, Site
from hybridml.kernels.steps import EmptyStep, PythonStep, Step, run_eagerly
from hybridml.kernels.sweep import SweepStep
from hybridml.kernels.views import Place
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Graph, Value, subgraphs

GIL_NANOSECONDS = 30_000.0  # shorter programs keep the interpreter lock: giving it up and getting it back takes a microsecond


class Executable:
    """Runs one graph. `run(externals)` takes inputs and variables as C-contiguous arrays and returns fresh outputs."""

    note = ""  # where sizes of the graph were open: what the plan is good for
    _busy = False  # a run is going on, in the thread that holds the lock

    region: Region
    alone: driver.Program | None = None  # where it is all there is to run
    results: list[tuple[tuple[int, ...], np.dtype]]  # of each output

    def __init__(self, graph: Graph, known: Fusions | None = None) -> None:
        def planned(meter: Meter) -> Region:
            return Region(graph, config.get().num_threads, meter, known=known)

        self._plan(planned, any(n.op.provider == "gemm" for n in graph.nodes))

    @classmethod
    def of(cls, planned: Callable[[Meter], Region]) -> Executable:
        """The program of a region that this function gives; what it costs is noted in the meter."""
        new = cls.__new__(cls)
        new._plan(planned)
        return new

    def _plan(self, planned: Callable[[Meter], Region], products: bool = False) -> None:
        """LLVM begins with what takes it longest: the tiles, where there are matrix products, else what every program needs."""
        started = time.perf_counter()
        self.meter = Meter()
        with collection.held(), jit.recorded() as self.loads:
            if not products:
                driver.expect()
            self.region = planned(self.meter)
            if products:
                driver.expect()
            self._build()
            jit.finish(self.loads)
        self._seconds = time.perf_counter() - started

    # facts for people

    @property
    def graph(self) -> Graph:
        """What the region was planned from, with sums cut into blocks."""
        return self.region.graph

    @property
    def steps(self) -> list[Step]:
        return self.region.steps

    @property
    def refusals(self) -> list[Any]:
        """Neighbours that were not fused, and why, those in sub-graphs included."""
        return [r for region in _regions(self.region) for r in region.refusals]

    @property
    def external(self) -> dict[Value, int]:
        return self.region.external

    @property
    def offset(self) -> dict[Value, int]:
        return self.region.offset

    @property
    def arena_bytes(self) -> int:
        return self.region.arena_bytes

    @property
    def kernels(self) -> list[Any]:
        """The native steps in the order of the program; those of branches and loop bodies once."""
        steps = (s for region in _regions(self.region) for s in region.steps)
        native = (m for s in steps for m in (s.members if isinstance(s, SweepStep) else [s]))
        return [s for s in native if not isinstance(s, (PythonStep, EmptyStep, ControlStep))]

    @property
    def python_steps(self) -> list[PythonStep]:
        return [s for s in self.steps if isinstance(s, PythonStep)]

    def facts(self) -> dict[str, Any]:
        """The counts and times that `ConcreteFunction.stats` reports."""
        return {
            **self.meter.facts(), **self._time(), "kernels": len(self.kernels), "python_steps": len(self.python_steps),
            "bytes_eager": int(_eager_bytes(self.graph)), "bytes_traced": int(_traced_bytes(self.region)),
            "arena_bytes": self.arena_bytes,
        }  # fmt: skip

    def _time(self) -> dict[str, float]:
        """Where the time of building went, the matrix products' and the driver's kernels included.

        What LLVM did in other threads while this one was busy is told apart.
        """
        loads = self.loads
        numbas = sum(k.seconds for k in loads if k.by == "numba")
        front = sum(k.front_seconds for k in loads if k.by == "translator")
        waited, llvm = sum(k.waited_seconds for k in loads), sum(k.llvm_seconds for k in loads)
        all_loads = sum(k.seconds for k in loads)
        return {
            "plan_seconds": max(self._seconds - self.meter.emit_seconds - all_loads, 0.0), "translate_seconds": front,
            "llvm_seconds": waited, "llvm_beside_seconds": max(llvm - waited, 0.0), "numba_seconds": numbas,
            "link_seconds": all_loads - numbas - front - waited,
        }  # fmt: skip

    # the program

    def _build(self) -> None:
        self._arena = _aligned(self.arena_bytes)
        self._base = int(self._arena.ctypes.data)
        self.results = [(v.shape, v.dtype) for v in self.region.placement.outputs]
        self.segments: list[driver.Program | PythonStep] = []
        self._faults: list[Fault] = []
        pending: list[Step] = []
        for s in self.steps:
            if isinstance(s, PythonStep):
                self._segment(pending)
                self.segments.append(s)
                pending = []
            else:
                pending.append(s)
        self._segment(pending, last=True)
        alone = len(self.segments) == 1 and not self._faults
        self.alone = self.segments[0] if alone and isinstance(self.segments[0], driver.Program) else None
        self._lock = threading.RLock()

    def _segment(self, steps: list[Step], last: bool = False) -> None:
        if not steps and not (last and self.region.copies):
            return
        given = [External(i) for i in range(self.region.placement.given)]
        site = Site(driver.Table(), self._base, given, self._faults)
        for s in steps:
            self.region.add(site, s)
        if last:
            self.region.finish(site)
        self.segments.append(
            site.table.finish(release_gil=sum(s.nanoseconds for s in steps) > GIL_NANOSECONDS)
        )

    # running

    def run(self, externals: list[np.ndarray]) -> list[np.ndarray]:
        """Run once. Variables among the externals are overwritten; the outputs are new arrays."""
        outputs = [buffers.empty(shape, dtype) for shape, dtype in self.results]
        externals += outputs
        if self.alone is not None:
            self.alone.run(externals)
            return outputs
        with self._lock:  # Python steps share the arena, and so does the telling of what a check has found
            if self._busy:  # in this thread: a Python step of the run calls the function again
                return self._again.run(externals[: -len(outputs)] if outputs else externals)
            self._busy = True
            try:
                for s in self.segments:
                    if isinstance(s, PythonStep):
                        self._run_python(s, externals)
                    elif code := s.run(externals):
                        _explain(self._faults[code - 1], externals)
            finally:
                self._busy = False
        return outputs

    @functools.cached_property
    def _again(self) -> Executable:
        """The same program with an arena of its own, for a run inside a run."""
        return Executable.of(lambda meter: self.region)

    def _buffer(self, v: Value, externals: list[np.ndarray]) -> np.ndarray:
        """A base value's memory, flat."""
        region = self.region
        if v in region.external:
            return externals[region.external[v]].reshape(-1)
        if v in region.constants:
            return region.constants[v].reshape(-1)
        start = region.offset[v]
        return self._arena[start : start + v.spec.nbytes].view(v.dtype)

    def _run_python(self, s: PythonStep, externals: list[np.ndarray]) -> None:
        operands: list[Any] = []
        for x in s.node.inputs:
            if isinstance(x, Value):
                base, layout = self.region.places[x]
                operands.append(_strided(self._buffer(base, externals), layout))
            else:
                operands.append(x)
        results = run_eagerly(s.node, operands)
        for v, r in zip(s.node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if v in self.external or v in self.offset:
                np.copyto(self._buffer(v, externals).reshape(v.shape), r)


def _explain(fault: Fault, externals: list[np.ndarray]) -> NoReturn:
    """Raise what the node's eager form says about its operands, which are still where the kernel found them."""
    fault.flag[0] = False
    node = fault.check.node
    operands: list[Any] = []
    for x in node.inputs:
        if isinstance(x, Value):
            base, layout = fault.places[x]
            memory_of = (ctypes.c_uint8 * max(base.spec.nbytes, base.dtype.itemsize)).from_address(
                fault.operands[x].now(externals)
            )
            operands.append(_strided(np.ctypeslib.as_array(memory_of).view(base.dtype), layout))
        else:
            operands.append(x)
    run_eagerly(node, operands)
    raise GraphError(
        located(f"{node.op.name}: the kernel found a fault in operands that have none", node.source)
    )


def _regions(region: Region) -> Iterator[Region]:
    """A region and all those inside it."""
    yield region
    for s in region.steps:
        if isinstance(s, ControlStep):
            for inner in s.regions.values():
                yield from _regions(inner)


def _eager_bytes(graph: Graph) -> float:
    """What one op after the other reads and writes; a branch counts half, a loop of unknown length as one iteration."""
    total = 0.0
    for n in graph.nodes:
        inner = subgraphs(n).values()
        if inner:
            total += (
                n.attrs.get("length", 1)
                * sum(map(_eager_bytes, inner))
                / (2 if n.op.provider == "cond" else 1)
            )
        elif n.op.view is None:
            total += sum(v.spec.nbytes for v in (*n.values, *n.outputs))
    return total


def _traced_bytes(region: Region) -> float:
    """Likewise for steps."""
    total = 0.0
    for s in region.steps:
        if isinstance(s, ControlStep):
            share = 2 if s.node.op.provider == "cond" else 1
            total += s.node.attrs.get("length", 1) * sum(map(_traced_bytes, s.regions.values())) / share
        else:
            steps, own = (s.members, s.own) if isinstance(s, SweepStep) else ([s], ())
            touched = (v for t in steps for v in (*dict.fromkeys(t.reads), *t.writes) if v not in own)
            total += sum(v.spec.nbytes for v in touched)
    return total


def _strided(flat: np.ndarray, layout: Layout) -> np.ndarray:
    if layout.is_contiguous:
        return flat[layout.offset : layout.offset + int(np.prod(layout.shape))].reshape(layout.shape)
    step = flat.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        flat[layout.offset :], layout.shape, tuple([s * step for s in layout.strides]), writeable=False
    )


def _aligned(nbytes: int) -> np.ndarray:
    raw = np.zeros(nbytes + memory.ALIGN, np.uint8)
    skip = -int(raw.ctypes.data) % memory.ALIGN
    return raw[skip : skip + nbytes]


__all__ = ["Executable", "Place"]
