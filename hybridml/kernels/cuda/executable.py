"""An optimised graph as a program for a GPU.

Inputs and variables are arrays of the device, outputs are fresh ones from its pool. The arena and the constants are allocated once.
Nothing waits for the device, except where the host decides a branch or a loop, or where CuPy's steps lie between checks.
"""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

from hybridml.backends import Backend
from hybridml.errors import DeviceMemoryError
from hybridml.kernels import memory
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda.commands import Kernel
from hybridml.kernels.cuda.faults import Faults
from hybridml.kernels.cuda.items import Array, Where
from hybridml.kernels.cuda.lt import ALIGNED
from hybridml.kernels.cuda.program import Program
from hybridml.kernels.cuda.region import CudaRegion
from hybridml.kernels.cuda.steps import CudaHorizontalStep, CudaStep
from hybridml.kernels.executable import Executable
from hybridml.kernels.fuser import Fusions
from hybridml.kernels.region import Meter
from hybridml.trace.graph import Graph


def driver_of(backend: Any) -> Any:
    """The lowest layer of a device, opened once."""
    if getattr(backend, "driver", None) is None:
        from hybridml.kernels.cuda.driver import Driver

        backend.driver = Driver(backend.xp, backend.number)
    return backend.driver


class CudaExecutable(Executable):
    """Runs one graph on one GPU. `run(externals)` takes inputs and variables as its C-contiguous arrays, returns fresh outputs."""

    region: CudaRegion
    _arena: Any

    def __init__(self, graph: Graph, backend: Backend, known: Fusions | None = None) -> None:
        self.backend, self._given = backend, graph
        self.driver = driver_of(backend)
        self.meter = Meter()
        self.lock = threading.RLock()
        started = time.perf_counter()
        with backend.scope():
            try:
                self.region = CudaRegion(graph, self.driver, self.meter, known=known)
                self._build()
                # constants are on their way: a call on another stream waits for them
                self.driver.leave(self, self.driver.enter(self))
            except Exception as error:
                self._explain(error)
                raise
        self._seconds = time.perf_counter() - started

    @property
    def loads(self) -> list[Kernel]:  # type: ignore[override]  # kernels of another target
        """Kernels that were not in memory yet."""
        phases = [k for s in self.kernels if isinstance(s, CudaStep) for _, k in s.phases]
        together = [s.together for s in self.kernels if isinstance(s, CudaHorizontalStep)]
        return [k for k in (*phases, *together) if k.origin != "memory"]

    def _time(self) -> dict[str, float]:
        """Numba's compiler makes the PTX; the driver's own time to load it counts as planning."""
        facts = self.meter.facts()
        numbas, linking = facts["compile_seconds"], facts["load_seconds"]
        return {
            "plan_seconds": max(self._seconds - self.meter.emit_seconds - numbas - linking, 0.0),
            "numba_seconds": numbas, "link_seconds": linking,
        }  # fmt: skip

    def _build(self) -> None:
        g = self.graph
        roles = [("input", g.inputs), ("variable", g.variables), ("output", g.outputs)]
        arrays = [Array(v.spec.nbytes, role, role == "variable") for role, values in roles for v in values]  # type: ignore[arg-type]  # a literal in a list
        self._arena = self.driver.allocate(max(self.arena_bytes, memory.ALIGN))
        given = [External(i) for i in range(len(arrays))]
        checks = any(s.checks for s in self.steps)
        self._late = Faults(self._given, self.driver, self.backend, self) if checks else None
        stop = self._late.stop if self._late is not None else Fixed(0)
        items = self.region.items(Where(self._arena.ptr, given, arrays, stop))
        waits = not (g.outputs or g.updates)  # whoever calls it wants to know
        self.program = Program(items, self.driver, self.backend, arrays, self._late, waits)
        self._rows = [0] * sum(a.role in ("row", "rows") for a in arrays)
        self._allocate = [(v.shape, v.dtype) for v in g.outputs]
        self._assigns = bool(g.updates)

    def run(self, externals: list[Any]) -> list[Any]:
        """Run once. Variables among the externals are overwritten; the outputs are new arrays."""
        backend, late = self.backend, self._late
        with backend.scope():
            try:
                if late is not None:
                    late.tell()
                if backend.unseen and self._assigns:
                    backend.settle(but=late)
                empty = backend.xp.empty
                outputs = [empty(shape, dtype) for shape, dtype in self._allocate]
                addresses = [a.data.ptr for a in externals]
                if any([at % ALIGNED for at in addresses]):
                    externals = [self._aligned(a) for a in externals]
                    addresses = [a.data.ptr for a in externals]
                addresses += [a.data.ptr for a in outputs]
                # The arena belongs to one call at a time; the stream keeps the calls in order.
                with self.lock:
                    if self._busy:  # in this thread: a Python step of the run calls the function again
                        return self._again.run(externals)
                    self._busy = True
                    try:
                        stream = self.driver.enter(self)
                        self.program.run(addresses + self._rows, stream)
                        self.driver.leave(self, stream)
                        if late is not None and not self.program.waits:
                            late.left(externals)
                    finally:
                        self._busy = False
            except Exception as error:
                self._explain(error)
                raise
        return outputs

    def _aligned(self, array: Any) -> Any:
        """An array where libraries and wide loads want it. Only a part of a larger one lies elsewhere, and no variable is that."""
        return array if array.data.ptr % ALIGNED == 0 else self.backend.copy(array)

    @functools.cached_property
    def _again(self) -> Executable:
        return CudaExecutable(self._given, self.backend)

    def _explain(self, error: Exception) -> None:
        """Tell an exhausted device by our own error, with what to do."""
        if type(error).__name__ == "OutOfMemoryError":  # CuPy's
            raise DeviceMemoryError(
                f"{self.backend.name} has no memory left for `{self._given.name}`: {error}. Its intermediates take "
                f"{getattr(getattr(self, 'region', None), 'arena_bytes', 0):,} bytes. Use smaller batches, free tensors that are no longer "
                "needed, or wrap parts in hml.checkpoint; the process can go on"
            ) from error
