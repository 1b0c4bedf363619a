"""An optimised graph as something that runs: fusion, lowering, memory plan, and one native program (or several, with Python between).

Externals of a call are one list: inputs, variables, fresh outputs. Everything else has a fixed address, in the arena or in a constant.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np

from hybridml import config
from hybridml.errors import GraphError, located
from hybridml.kernels import driver, horizontal, jit, memory
from hybridml.kernels.emit import emit
from hybridml.kernels.group import Fuser, Group, Refusal
from hybridml.kernels.lower import Check, Lowered, lower
from hybridml.kernels.movement import lower_movement
from hybridml.kernels.steps import (
    EmptyStep,
    GemmStep,
    HorizontalStep,
    KernelStep,
    PythonStep,
    Step,
    gemm_steps,
    is_empty,
    run_eagerly,
)
from hybridml.kernels.views import Place, places
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Graph, Node, Value

GIL_NANOSECONDS = 30_000.0  # shorter programs keep the interpreter lock: giving it up and getting it back costs about a microsecond


class Executable:
    """Runs one graph. `run(externals)` takes inputs and variables as C-contiguous arrays and returns fresh outputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.places = places(graph)
        self._seconds = {"emit_seconds": 0.0, "compile_seconds": 0.0, "load_seconds": 0.0}
        self._origins = {"compiled": 0, "loaded_from_disk": 0}
        self.threads = config.get().num_threads
        fuser = Fuser(graph, self.places)
        self.groups = fuser.fuse()
        self.refusals: list[Refusal] = list(fuser.refusals.values())
        self._readers = fuser._readers
        self._member = {i: g for i, g in fuser.owner.items()}
        self.steps = merge_equal_updates(list(self._steps()))
        self._place_buffers()
        self._build()

    # facts for people

    @property
    def kernels(self) -> list[KernelStep | HorizontalStep | GemmStep]:
        """The native steps in the order in which they run."""
        return [s for s in self.steps if isinstance(s, (KernelStep, HorizontalStep, GemmStep))]

    @property
    def python_steps(self) -> list[PythonStep]:
        return [s for s in self.steps if isinstance(s, PythonStep)]

    def facts(self) -> dict[str, Any]:
        """The counts and times that `ConcreteFunction.stats` reports."""
        eager = sum(v.spec.nbytes for n in self.graph.nodes if n.op.view is None for v in (*n.values, *n.outputs))
        traced = sum(v.spec.nbytes for s in self.steps for v in (*dict.fromkeys(s.reads), *s.writes))
        return {
            **self._seconds, **self._origins, "kernels": len(self.kernels), "python_steps": len(self.python_steps),
            "bytes_eager": eager, "bytes_traced": traced, "arena_bytes": self.arena_bytes,
        }  # fmt: skip

    # steps

    def _outputs(self, g: Group) -> list[Value]:
        results = {self.places[v][0] for v in self.graph.results}
        found = []
        for i in g.nodes:
            for v in self.graph.nodes[i].outputs:
                if v in results or any(self._member[r] is not g for r in self._readers.get(v, [])):
                    found.append(v)
        return found

    def _steps(self) -> Iterator[Step]:
        for g in self.groups:
            n = self.graph.nodes[g.first]
            reads = tuple(dict.fromkeys(self.places[v][0] for i in g.nodes for v in self.graph.nodes[i].values))
            if g.fusible:
                own = {v for i in g.nodes for v in self.graph.nodes[i].outputs}
                yield self._kernel(g, tuple([v for v in reads if v not in own]))
                continue
            if is_empty(n):
                yield EmptyStep(n.op.name, reads, n.outputs)
                continue
            products = gemm_steps(self.graph, n, self.places, self.threads) if n.op.provider == "gemm" else None
            moves = lower_movement(n, self.places) if products is None and n.out.spec.size else None
            if products is not None:
                yield from products
            elif moves is not None:
                yield from [self._compiled(low, reads, n.outputs) for low in moves]
            else:
                yield PythonStep(n, reads, n.outputs)

    def _kernel(self, g: Group, reads: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        outputs = self._outputs(g)
        lowered = lower(self.graph, g, self.places, outputs)
        self._seconds["emit_seconds"] += time.perf_counter() - started
        return self._compiled(lowered, reads, tuple(outputs))

    def _compiled(self, lowered: Lowered, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> KernelStep:
        started = time.perf_counter()
        name, source = emit(lowered.spec)
        self._seconds["emit_seconds"] += time.perf_counter() - started
        kernel = jit.load(source, name)
        if kernel.origin == "compiled":
            self._origins["compiled"] += 1
            self._seconds["compile_seconds"] += kernel.seconds
        elif kernel.origin == "disk":
            self._origins["loaded_from_disk"] += 1
            self._seconds["load_seconds"] += kernel.seconds
        return KernelStep(lowered, kernel, source, reads, writes)

    # memory

    def _place_buffers(self) -> None:
        """Where every buffer lies: an external's number, a constant's array, or an offset into the arena."""
        g = self.graph
        n_in, n_var = len(g.inputs), len(g.variables)
        self.external: dict[Value, int] = {v: i for i, v in enumerate((*g.inputs, *g.variables))}
        self.constants = {v: np.array(a, order="C") for v, a in g.constants.items()}
        checks = [s.lowered.check for s in self.steps if isinstance(s, KernelStep)]
        self.constants |= {c.flag: np.zeros(1, np.bool_) for c in checks if c is not None}  # memory of its own, as constants have
        self._checked = max([t for t, s in enumerate(self.steps) if _checks(s)], default=-1)
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
        for t, s in enumerate(self.steps):
            for part in _parts(s):
                for v in part.lowered.temporaries:
                    intervals[v] = memory.Interval(v, v.spec.nbytes, t, t)
        offsets, self.arena_bytes = memory.plan(list(intervals.values()))
        self.offset = {v: offsets[shared.get(v, v)] for v in (*born, *offsets) if shared.get(v, v) in offsets}  # type: ignore[union-attr]

    def _may_overwrite(self, t: int, variable: Value, new: Value, last: dict[Value, int]) -> bool:
        """True if step t can write the new value over the old one: nobody reads the old one after, or elsewhere.

        A call that raises leaves variables as they were: nothing is overwritten before the last check.
        """
        if last.get(variable, -1) > t or self._checked >= t:
            return False
        step = self.steps[t]
        if variable not in step.reads:
            return True
        # Parts of a horizontal launch run in no order, so only the part that writes may read.
        reading = [p for p in _parts(step) if variable in p.reads]
        return len(reading) == 1 and (variable, new) in reading[0].lowered.in_place

    def _share_in_place(self, born: dict[Value, int], last: dict[Value, int]) -> dict[Value, Value]:
        """Outputs that take over the arena place of an input that dies with the step; each input is taken once."""
        shared: dict[Value, Value] = {}
        for t, s in enumerate(self.steps):
            taken: set[Value] = set()
            parts = _parts(s)
            for x, o in [pair for p in parts for pair in p.lowered.in_place if sum(pair[0] in q.reads for q in parts) == 1]:
                free = x in born and x not in self.external and o not in self.external and last[x] == t and born[o] == t
                if free and o not in shared and x not in taken:
                    shared[o] = shared.get(x, x)
                    taken.add(x)
        return shared

    # the program

    def _build(self) -> None:
        self._arena = _aligned(self.arena_bytes)
        self._base = int(self._arena.ctypes.data)
        self._allocate = [(v.shape, v.dtype) for v in self.graph.outputs]
        self.segments: list[driver.Program | PythonStep] = []
        self._checks: list[Check] = []  # a program that stops with code k does so for the k-th, counted from 1
        pending: list[Step] = []
        for s in self.steps:
            if isinstance(s, PythonStep):
                self._segment(pending)
                self.segments.append(s)
                pending = []
            else:
                pending.append(s)
        self._segment(pending, copies=True)
        alone = len(self.segments) == 1 and not self._checks
        self._only = self.segments[0] if alone and isinstance(self.segments[0], driver.Program) else None
        self._lock = threading.Lock()

    def _segment(self, steps: list[Step], copies: bool = False) -> None:
        if not steps and not (copies and self.copies):
            return
        table = driver.Table()
        for s in steps:
            if isinstance(s, KernelStep):
                self._add_kernel(table, s)
            elif isinstance(s, HorizontalStep):
                self._add_horizontal(table, s)
            elif isinstance(s, GemmStep):
                self._add_gemm(table, s)
        if copies:
            for value, index in self.copies:
                self._add_copy(table, value, index)
        self.segments.append(table.finish(release_gil=sum(s.nanoseconds for s in steps) > GIL_NANOSECONDS))

    def _address(self, v: Value) -> int | None:
        """The fixed address of a buffer, or None for an external."""
        if v in self.external:
            return None
        if v in self.constants:
            return int(self.constants[v].ctypes.data)
        return self._base + self.offset[v]

    def _bind(self, table: driver.Table, block: int, word: int, v: Value, offset: int) -> None:
        if self._address(v) is None:
            table.patch(self.external[v], block, word, offset)

    def _fixed(self, v: Value, offset: int) -> int:
        address = self._address(v)
        return 0 if address is None else address + offset

    def _block(self, table: driver.Table, s: KernelStep) -> int:
        """The argument block of a generated kernel."""
        low = s.lowered
        words = [self._fixed(v, offset) for v, offset in low.operands]
        words += low.words
        words += [driver.scalar_word(x, dtype) for x, dtype in low.scalars]
        block = table.block(words)
        for word, (v, offset) in enumerate(low.operands):
            self._bind(table, block, word, v, offset)
        return block

    def _add_kernel(self, table: driver.Table, s: KernelStep) -> None:
        chunks, grain = s.chunks(self.threads)
        table.run(s.kernel.address, self._block(table, s), s.lowered.extent, chunks, grain)
        if s.lowered.check is not None:
            self._checks.append(s.lowered.check)
            fine = table.jump_if_false(self._fixed(s.lowered.check.flag, 0))
            table.stop(len(self._checks))
            table.aim(fine, table.next_row)

    def _add_horizontal(self, table: driver.Table, s: HorizontalStep) -> None:
        blocks = [self._block(table, p) for p in s.parts]
        chunks, grain = s.chunks(self.threads)
        args = table.block(horizontal.words(s.kernel.address, blocks, s.extents))
        launch = jit.load(horizontal.SOURCE, "horizontal")
        table.run(launch.address, args, sum(s.extents), chunks, grain)

    def _add_gemm(self, table: driver.Table, s: GemmStep) -> None:
        p = s.plan
        block = table.block(p.words(self._fixed(*s.a), self._fixed(*s.b), self._fixed(*s.c)))
        for word, (v, offset) in ((p.a_word, s.a), (p.b_word, s.b), (p.c_word, s.c)):
            self._bind(table, block, word, v, offset)
        table.run(p.kernel.address, block, p.extent, p.chunks, p.grain)

    def _add_copy(self, table: driver.Table, v: Value, index: int) -> None:
        name, source = copy_kernel()
        block = table.block([self._fixed(v, 0), 0])
        self._bind(table, block, 0, v, 0)
        table.patch(index, block, 1, 0)
        table.run(jit.load(source, name).address, block, v.spec.nbytes)

    # running

    def run(self, externals: list[np.ndarray]) -> list[np.ndarray]:
        """Run once. Variables among the externals are overwritten; the outputs are new arrays."""
        outputs = [np.empty(shape, dtype) for shape, dtype in self._allocate]
        externals += outputs
        if self._only is not None:
            self._only.run(externals)
            return outputs
        with self._lock:  # Python steps share the arena, and so does the telling of what a check has found
            for s in self.segments:
                if isinstance(s, PythonStep):
                    self._run_python(s, externals)
                elif code := s.run(externals):
                    self._explain(self._checks[code - 1], externals)
        return outputs

    def _explain(self, check: Check, externals: list[np.ndarray]) -> NoReturn:
        """Raise what the node's eager form says about its operands, which are still where the kernel found them."""
        self.constants[check.flag][0] = False
        run_eagerly(check.node, self._operands(check.node, externals))
        raise GraphError(located(f"{check.node.op.name}: the kernel found a fault in operands that have none", check.node.source))

    def _buffer(self, v: Value, externals: list[np.ndarray]) -> np.ndarray:
        """A base value's memory, flat."""
        if v in self.external:
            return externals[self.external[v]].reshape(-1)
        if v in self.constants:
            return self.constants[v].reshape(-1)
        start = self.offset[v]
        return self._arena[start : start + v.spec.nbytes].view(v.dtype)

    def _operands(self, n: Node, externals: list[np.ndarray]) -> list[Any]:
        operands: list[Any] = []
        for x in n.inputs:
            if isinstance(x, Value):
                base, layout = self.places[x]
                operands.append(_strided(self._buffer(base, externals), layout))
            else:
                operands.append(x)
        return operands

    def _run_python(self, s: PythonStep, externals: list[np.ndarray]) -> None:
        results = run_eagerly(s.node, self._operands(s.node, externals))
        for v, r in zip(s.node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if v in self.external or v in self.offset:
                np.copyto(self._buffer(v, externals).reshape(v.shape), r)


def _parts(s: Step) -> list[KernelStep]:
    """The generated kernels of a step."""
    return s.parts if isinstance(s, HorizontalStep) else [s] if isinstance(s, KernelStep) else []


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


def copy_kernel() -> tuple[str, str]:
    """Bytes from operand 0 to operand 1."""
    return "copy_bytes", (
        "from hybridml.kernels.pointer import uint8_in, uint8_out\n\n\n"
        "def copy_bytes(args, begin, end):\n"
        "    x0 = uint8_in(args, 0, 0)\n"
        "    o0 = uint8_out(args, 1, 1)\n"
        "    for i in range(begin, end):\n"
        "        o0[i] = x0[i]\n"
    )


def _checks(s: Step) -> bool:
    return isinstance(s, KernelStep) and s.lowered.check is not None


def merge_equal_updates(steps: list[Step]) -> list[Step]:
    """Kernels of one text whose results nobody reads (updates of parameters) become one horizontal launch at the end."""
    read = {v for s in steps for v in s.reads}
    writers = Counter(v for s in steps for v in s.writes)
    by_kernel: dict[str, list[KernelStep]] = {}
    for s in steps:
        if isinstance(s, KernelStep) and not _checks(s) and not any(v in read or writers[v] > 1 for v in s.writes):
            by_kernel.setdefault(s.kernel.name, []).append(s)
    groups = [group for group in by_kernel.values() if len(group) > 1]
    moved = {id(s) for group in groups for s in group}
    return [s for s in steps if id(s) not in moved] + [HorizontalStep(group) for group in groups]


__all__ = ["Executable", "Place"]
