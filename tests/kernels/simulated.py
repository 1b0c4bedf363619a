"""Runs printed CUDA kernels in CUDA's simulator, against the slow interpreter.

In a process of its own: the simulator is chosen by NUMBA_ENABLE_CUDASIM=1 before Numba is imported. A line is printed for each
kernel, block and number of parts that ran.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from typing import Any
from unittest import mock

import numpy as np
from cuda_cases import PHASES, Case, build, extents, lowerings, scratch, widened
from numba import cuda
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.kernel import BlockManager, BlockThread

from hybridml import dtypes, testing
from hybridml.kernels import emit_cuda
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import Lowered
from hybridml.kernels.spec import Mode
from hybridml.kernels.views import places
from hybridml.trace.graph import Value
from hybridml.trace.interpret import evaluate, interpret, run_eager

TOLERANCE = {"bfloat16": 1.6e-2, "float16": 2e-3, "float32": 2e-5, "float64": 1e-12}
# Blocks small enough for threads that are Python threads: several rows a warp, one row a warp, a row for two warps.
SHAPES = {
    Mode.MAP: [Shape(32, 1, 64), Shape(8, 1, 32)],
    Mode.ROW: [Shape(4, 3, 64), Shape(32, 1, 32), Shape(64, 1, 64)],
    Mode.COLUMN: [Shape(5, 1, 64), Shape(4, 3, 32)],
}


_allocating = threading.Lock()


def shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
    """The simulator's own looks for the array of a line and makes it in two steps, so two threads may both make one."""
    if shape == 0:  # what the launch asks for
        return np.frombuffer(self._dynshared.data, dtype, self._dynshared_size // np.dtype(dtype).itemsize)
    frame = sys._getframe(1)
    place = frame.f_code.co_filename, frame.f_lineno
    with _allocating:
        if place not in self._allocations:
            self._allocations[place] = np.empty(shape, dtype)
        found: np.ndarray = self._allocations[place]
    return found


def run_block(self: Any, grid_point: Any, *args: Any) -> None:
    """All threads of a block, meeting at a real barrier. The simulator's own polls its threads, which takes ten times as long, and
    lets a barrier pass that only some of the threads reach."""
    self.barrier = threading.Barrier(int(np.prod(self._block_dim)))

    def target() -> None:
        try:
            self._f(*args)
        except BaseException:
            self.barrier.abort()
            raise

    threads = [BlockThread(target, self, grid_point, p, False) for p in np.ndindex(*self._block_dim)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    failed = [t.exception for t in threads if t.exception is not None]
    for kind, trace in sorted(failed, key=lambda e: isinstance(e[0], threading.BrokenBarrierError)):
        raise kind.with_traceback(trace)


def wait(self: Any) -> None:
    """`cuda.syncthreads()` of one thread."""
    self._manager.barrier.wait(timeout=30)


def simulator() -> contextlib.ExitStack:
    """CUDA's simulator with the three functions above in place of its own."""
    stack = contextlib.ExitStack()
    stack.enter_context(mock.patch.object(kernelapi.FakeCUDAShared, "array", shared_array))
    stack.enter_context(mock.patch.object(BlockManager, "run", run_block))
    stack.enter_context(mock.patch.object(BlockThread, "syncthreads", wait))
    return stack


class Pointer:
    """An operand as a kernel sees it: an address with elements before and after it. It tells where the buffer ends.

    Buffers begin at multiples of 16, as the arena's and CuPy's do.
    """

    def __init__(self, flat: np.ndarray, nbytes: int) -> None:
        self.flat, self.offset = flat, nbytes // flat.dtype.itemsize
        self.address, self.dtype = nbytes, flat.dtype

    def _at(self, i: Any) -> int:
        place = int(i) + self.offset
        assert 0 <= place < self.flat.size, f"element {place} of {self.flat.size}"
        return place

    def __getitem__(self, i: Any) -> Any:
        return self.flat[self._at(i)]

    def __setitem__(self, i: Any, value: Any) -> None:
        self.flat[self._at(i)] = value


def run(low: Lowered, buffers: dict[Value, np.ndarray], shape: Shape, parts: int) -> None:
    """Launch one kernel, over two blocks where there is work for two."""
    spec = low.spec
    pairs = zip(spec.operands, low.operands, strict=True)

    def seen(flat: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return flat.view(np.uint16 if dtypes.is_half(dtype) else dtype)

    operands = [Pointer(seen(buffers[base], o.dtype), nbytes) for o, (base, nbytes) in pairs]
    kept, _ = extents(low)
    tile = {Mode.MAP: shape.x * shape.vector, Mode.ROW: shape.y, Mode.COLUMN: shape.x}[spec.mode]
    grid = 2 if shape.turn else min(2, -(-kept // tile))
    partial = [np.zeros(kept * parts, r.step.dtype) for r in emit_cuda.reductions(spec)]
    for phase in PHASES if parts > 1 else ("whole",):
        name, source = emit_cuda.emit(spec, shape, phase, scratch(low))
        values: list[Any] = [*low.words, *[dtype.type(value) for value, dtype in low.scalars]]
        if phase != "whole":
            values += [*map(lambda a: Pointer(a, 0), partial), parts]
        given = emit_cuda.parameters(spec, shape, phase)[len(operands) :]
        typed = [v if isinstance(v, Pointer) else p.dtype.type(v) for p, v in zip(given, values, strict=True)]
        namespace: dict[str, Any] = {"__name__": name}
        exec(compile(source, name, "exec"), namespace)
        kernel = cuda.jit(namespace[name])
        shared = extents(low)[1] * emit_cuda.staged_bytes(spec) if shape.staged else 0
        blocks = grid, parts if phase == "partial" else 1
        kernel[blocks, (shape.x, shape.y), 0, shared](*operands, *typed)


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    if not dtypes.is_float(got.dtype):
        return np.array_equal(got, wanted)
    rtol = TOLERANCE[got.dtype.name]
    return np.allclose(testing.widened(got), testing.widened(wanted), rtol, rtol, equal_nan=True)


def check(name: str, case: Case) -> None:
    """Every kernel of the graph in every block, alone and in place, and at last the results of the graph."""
    graph, inputs, variables = case
    at = places(graph)
    environment: dict[Value, Any] = dict(zip(graph.inputs, inputs, strict=True))
    environment |= dict(zip(graph.variables, variables, strict=True)) | graph.constants
    with np.errstate(all="ignore"):
        evaluate(graph, run_eager, environment)
    computed: dict[Value, np.ndarray] = {
        v: np.array(environment[v], order="C").reshape(-1) for v in graph.sources
    }

    def fresh(lows: list[Lowered], pair: tuple[Value, Value] | None) -> dict[Value, np.ndarray]:
        found: dict[Value, np.ndarray] = {}
        for low in lows:
            for operand, (base, _) in zip(low.spec.operands, low.operands, strict=True):
                if not operand.written:
                    found[base] = computed[base].copy()
                elif low.check is not None and base is low.check.flag:
                    found[base] = np.zeros(1, np.bool_)
                else:
                    found[base] = np.full(base.spec.size, 77, base.dtype)
        if pair is not None:
            found[pair[1]] = found[pair[0]].view(pair[1].dtype)
        return found

    for group, lows in lowerings(graph):
        if not lows:
            for i in group.nodes:
                computed |= {
                    v: np.array(environment[v], order="C").reshape(-1) for v in graph.nodes[i].outputs
                }
            continue
        outputs = {
            b for low in lows for o, (b, _) in zip(low.spec.operands, low.operands, strict=True) if o.written
        }
        outputs -= {v for low in lows for v in low.temporaries}
        flags = {low.check.flag for low in lows if low.check is not None}
        spec = lows[0].spec
        for shape in widened(lows, SHAPES[spec.mode]):
            for parts in (
                [1, 3] if emit_cuda.is_splittable(spec) and not (shape.held or shape.staged) else [1]
            ):
                for pair in (None, *(lows[0].in_place[:2] if len(lows) == parts == 1 else ())):
                    buffers = fresh(lows, pair)
                    for low in lows:
                        run(low, buffers, shape, parts)
                    for v in outputs - flags:
                        computed.setdefault(v, buffers[v])
                        fine = close(buffers[v], environment[v].reshape(-1))
                        assert fine, (
                            f"{name}: {spec.title} {shape} {parts} {pair}: {buffers[v]} {environment[v]}"
                        )
                    assert not any(buffers[v][0] for v in flags), name
                    facts = (
                        name,
                        spec.mode.value,
                        spec.title,
                        shape.x,
                        shape.y,
                        shape.index,
                        shape.vector,
                        shape.held,
                        parts,
                        pair is not None,
                        shape.staged,
                        shape.turn is not None,
                    )
                    sys.stdout.write(" ".join(map(str, facts)) + "\n")
    wanted, updated = interpret(graph, inputs, variables)
    for v, w in zip((*graph.outputs, *[v for _, v in graph.updates]), (*wanted, *updated), strict=True):
        layout = at[v][1]
        assert layout.is_contiguous
        assert close(computed[at[v][0]], np.asarray(w).reshape(-1)), f"{name}: {v}"


def main(names: list[str]) -> None:
    """Check these cases."""
    warnings.simplefilter(
        "ignore", RuntimeWarning
    )  # NumPy scalars warn of the overflow that kernels wrap around
    with simulator():
        for name in names:
            check(name, build(name))
