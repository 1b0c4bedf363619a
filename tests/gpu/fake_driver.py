"""The lowest layer of a GPU without a GPU: the machine's own memory, and kernels read as Python.

A printed kernel is made a generator that stops at each barrier and shuffle, so that one Python thread runs all threads of a block in
step, and a barrier that some of them miss is found. Arguments are read from the packed slots, as CUDA reads them. Every access to
memory is checked: a kernel touches only memory that was allocated, and of arrays only what is theirs.
"""

from __future__ import annotations

import ast
import ctypes
import re
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fake_libraries
import numpy as np
from fake_cupy import FakeArray
from fake_libraries import device_memory

from hybridml.kernels.cuda.commands import Kernel, Launch, ProductPlan
from hybridml.kernels.cuda.cudnn import ConvolutionPlan, unsupported
from hybridml.kernels.cuda.epilogue import otherwise
from hybridml.kernels.half import in_python as in_half
from hybridml.kernels.launch import SHARED_BYTES
from hybridml.kernels.targets import scalar_functions
from hybridml.kernels.wide import in_python


class OutOfMemoryError(Exception):
    """As CuPy's."""


class Memory:
    """Bytes of the "device", at a real address."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = np.full(max(nbytes, 1) + 64, 0xA5, np.uint8)  # what was never written shows
        self.ptr = self.bytes.ctypes.data + (-self.bytes.ctypes.data) % 64


@dataclass
class Traffic:
    """How often each element of an operand was loaded and stored, by its index.

    `sectors` counts the 32-byte pieces of memory that a warp's threads touch together: with their first access to the operand, their
    second one, and so on. That is exact where all threads of a warp make the same accesses and the first element begins a sector.
    """

    kernel: str
    operand: str
    itemsize: int
    loads: Counter[int] = field(default_factory=Counter)
    stores: Counter[int] = field(default_factory=Counter)
    sectors: set[tuple[int, ...]] = field(default_factory=set)
    accesses: Counter[tuple[int, ...]] = field(default_factory=Counter)
    thread: tuple[int, ...] = ()  # block and thread that runs now

    def touch(self, i: int) -> None:
        *block, thread = self.thread
        self.accesses[self.thread] += 1
        self.sectors.add((*block, thread // 32, self.accesses[self.thread], i * self.itemsize // 32))

    @property
    def sector_bytes_per_element(self) -> float:
        """Bytes of memory that are moved for each access, by whole sectors."""
        return 32 * len(self.sectors) / self.accesses.total()

    @property
    def bytes_per_element(self) -> tuple[float, float]:
        """Bytes loaded and stored for each element that the kernel touched."""
        touched = len(self.loads.keys() | self.stores.keys())
        return tuple([self.itemsize * c.total() / touched for c in (self.loads, self.stores)])  # type: ignore[return-value]


class Pointer:
    """An operand of a kernel: elements at an address."""

    traffic: Traffic

    def __init__(self, address: int, dtype: np.dtype) -> None:
        self.address, self.dtype = address, dtype
        self.kind = np.ctypeslib.as_ctypes_type(dtype)

    def _at(self, i: Any) -> Any:
        return self.kind.from_address(self.address + int(i) * self.dtype.itemsize)

    def __getitem__(self, i: Any) -> Any:
        self.traffic.loads[int(i)] += 1
        self.traffic.touch(int(i))
        return self.dtype.type(self._at(i).value)

    def __setitem__(self, i: Any, value: Any) -> None:
        self.traffic.stores[int(i)] += 1
        self.traffic.touch(int(i))
        self._at(i).value = self.dtype.type(value).item()


class Index:
    """threadIdx and the like."""

    def __init__(self, x: int, y: int = 0) -> None:
        self.x, self.y = np.int32(x), np.int32(y)


class Shared:
    """cuda.shared: one array a block for each line that asks."""

    def __init__(self, nbytes: int = 0) -> None:
        self.arrays: dict[int, np.ndarray] = {}
        self.count = 0
        self.asked_for = np.full(nbytes, 0xA5, np.uint8)  # by the launch: size 0 in the text

    def array(self, shape: Any, dtype: Any) -> np.ndarray:
        if shape == 0:
            return np.frombuffer(self.asked_for, dtype, len(self.asked_for) // np.dtype(dtype).itemsize)
        self.count += 1
        return self.arrays.setdefault(self.count, np.zeros(shape, dtype))


class Cuda:
    """The names of numba.cuda that printed kernels use, for the thread that runs now."""

    def __init__(self) -> None:
        self.shared = Shared()

    def grid(self, _: int) -> int:
        return int(self.blockIdx.x * self.blockDim.x + self.threadIdx.x)

    def gridsize(self, _: int) -> int:
        return int(self.gridDim.x * self.blockDim.x)

    threadIdx = blockIdx = blockDim = gridDim = Index(0)


class _Steps(ast.NodeTransformer):
    """`cuda.syncthreads()` and `shuffle_xor(v, d)` become places where a thread waits for the others of its block."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name == "cuda.syncthreads":
            return ast.Yield(ast.Constant(None))
        if name == "shuffle_xor":
            return ast.Yield(ast.Tuple(node.args, ast.Load()))
        return node


def read(kernel: Kernel) -> tuple[Callable[..., Any], Cuda, bool]:
    """The kernel as a Python function, the `cuda` it sees, and whether it is a generator."""
    source = ast.parse(kernel.source)
    functions = [n for n in source.body if isinstance(n, ast.FunctionDef)]
    header = kernel.source[: kernel.source.index("\nix, ux") + 200]
    functions[-1] = _Steps().visit(functions[-1])
    tree = ast.fix_missing_locations(ast.Module(functions, []))
    cuda, m = Cuda(), scalar_functions("python")
    bits = re.search(r"ix, ux = np\.int(\d+)", header)
    assert bits is not None
    namespace: dict[str, Any] = {
        "np": np,
        "cuda": cuda,
        "range": range,
        "m": m,
        **in_half(),
        **in_python(),
        **{n: getattr(m, n) for n in dir(m)},
    }
    namespace["ix"], namespace["ux"] = getattr(np, f"int{bits[1]}"), getattr(np, f"uint{bits[1]}")
    lanes = re.search(r"LANES = ix\((\d+)\)", header)
    if lanes:
        namespace["LANES"] = namespace["ix"](int(lanes[1]))
    exec(compile(tree, kernel.name, "exec"), namespace)
    return namespace[kernel.name], cuda, any(isinstance(n, ast.Yield) for n in ast.walk(tree))


def run_block(threads: list[Any], resume: Callable[[int], None]) -> None:
    """All threads of a block from barrier to barrier, exchanging values where they shuffle."""
    answers: list[Any] = [None] * len(threads)
    while True:
        asked, done = [], 0
        for t, thread in enumerate(threads):
            resume(t)
            try:
                asked.append(thread.send(answers[t]))
            except StopIteration:
                done += 1
        if done:
            assert done == len(threads), "a barrier that only some threads of the block reach"
            return
        if asked[0] is None:
            assert all(a is None for a in asked), "some threads shuffle where others meet"
            answers = [None] * len(threads)
        else:
            answers = [asked[t ^ int(asked[t][1])][0] for t in range(len(threads))]


class FakeDriver:
    """What `hybridml.kernels.cuda.driver.Driver` is on a GPU. `log` tells what it was asked to do."""

    capability = (9, 0)
    cudnn = False  # there is a library for convolutions
    blocking = False  # as under CUDA_LAUNCH_BLOCKING
    conditionals = True  # graphs can decide branches and loops
    shared_bytes = 227 * 1024  # of an H100
    multiprocessors = 1  # so that small kernels have several passes of their grid
    lags = False  # replays and what comes after them wait until the host does

    def __init__(self) -> None:
        self.log: list[str] = []
        self.traffic: list[Traffic] = []  # of the kernels that ran last
        self.limit: int | None = None
        self.refused: Callable[[ProductPlan], str | None] = lambda plan: None
        self.granted: set[str] = set()  # kernels that may have more than every block has
        self._kernels: dict[Any, tuple[Kernel, Any]] = {}
        self._queue: list[Callable[[], Any]] = []

    def catch_up(self) -> None:
        """Do what the host has not waited for."""
        queue, self._queue = self._queue, []
        for do in queue:
            do()

    def _do(self, do: Callable[[], Any]) -> None:
        if self.lags:
            self._queue.append(do)
        else:
            do()

    def allocate(self, nbytes: int) -> Memory:
        if self.limit is not None and nbytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {nbytes:,} bytes")
        return Memory(nbytes)

    def upload(self, array: np.ndarray) -> Memory:
        memory = Memory(array.nbytes)
        ctypes.memmove(memory.ptr, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return memory

    def array(self, address: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...]) -> Any:
        return FakeArray(device_memory(address, shape, dtype, strides))

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._note("copy", stream)
        self._do(lambda: ctypes.memmove(target, source, nbytes))

    def pinned(self, nbytes: int) -> Any:
        memory = Memory(nbytes)
        seen = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(memory.ptr))
        seen[:] = 0
        return types.SimpleNamespace(ptr=memory.ptr, bytes=seen, owner=memory)

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._note("to host", stream)
        self._do(lambda: ctypes.memmove(target, source, nbytes))

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        self._note("clear", stream)
        self._do(lambda: ctypes.memset(target, 0, nbytes))

    def read(self, address: int, nbytes: int, stream: int) -> bytes:
        self._note("read", stream)
        self.catch_up()
        return ctypes.string_at(address, nbytes)

    def kernel(self, name: str, source: str, parameters: Any, shared: bool = False) -> Kernel:
        if source not in self._kernels:
            kernel = Kernel(name, source, parameters, source, "compiled", 0.0)
            self._kernels[source] = kernel, read(kernel)
            self.granted |= {source} if shared else set()
            return kernel
        return Kernel(name, source, parameters, source, "memory", 0.0)

    def launch(self, command: Launch, stream: int) -> None:
        self._note(f"launch {command.kernel.name}", stream)
        slots = command.slots.copy()
        self._do(lambda: self.execute(command, slots))

    def execute(self, command: Launch, slots: np.ndarray) -> None:
        """Run a kernel on arguments as they are packed."""
        args: list[Any] = []
        for i, p in enumerate(command.kernel.parameters):
            raw = slots[i : i + 1]
            if p.pointer:
                args.append(Pointer(int(raw[0]), p.dtype))
                args[-1].traffic = Traffic(command.kernel.name, p.name, p.dtype.itemsize)
                self.traffic.append(args[-1].traffic)
            else:
                args.append(raw.view(np.uint8)[: p.dtype.itemsize].view(p.dtype)[0])
        del self.traffic[:-100]
        most = self.shared_bytes if command.kernel.source in self.granted else SHARED_BYTES
        tables = re.findall(r"shared\.array\((\d+)", command.kernel.source)
        assert command.shared + 8 * sum(map(int, tables)) <= most, (
            "more shared memory than the block may have"
        )
        function, cuda, waits = self._kernels[command.kernel.source][1]
        (gx, gy), (bx, by) = command.grid, command.block
        cuda.blockDim, cuda.gridDim = Index(bx, by), Index(gx, gy)
        indices = [Index(x, y) for y in range(by) for x in range(bx)]
        with np.errstate(all="ignore"):
            for block in np.ndindex(gy, gx):
                cuda.blockIdx = Index(block[1], block[0])
                cuda.shared = Shared(command.shared)
                self._block(function, cuda, indices, args, waits)

    def _block(self, function: Any, cuda: Cuda, indices: list[Index], args: list[Any], waits: bool) -> None:
        pointers = [a for a in args if isinstance(a, Pointer)]

        def resume(t: int) -> None:
            for p in pointers:
                p.traffic.thread = (int(cuda.blockIdx.y), int(cuda.blockIdx.x), t)
            cuda.threadIdx = indices[t]
            cuda.shared.count = 0

        if waits:
            run_block([function(*args) for _ in indices], resume)
            return
        for t in range(len(indices)):
            resume(t)
            function(*args)

    def refuse(self, plan: ProductPlan | ConvolutionPlan, aligned: int = 16) -> str | None:
        if (reason := otherwise(plan.epilogue, plan.dtype)) is not None:
            return reason
        if isinstance(plan, ConvolutionPlan):
            reason = "there is no cuDNN" if not self.cudnn else unsupported(plan)
            return reason or ("operands may lie anywhere" if aligned < 16 else None)
        return self.refused(plan)

    def library(self, plan: Any, reads: list[int], writes: list[int], stream: int) -> None:
        self._note(f"library {plan.title}", stream)
        self._do(lambda: fake_libraries.call(plan, reads, writes))

    def enter(self, owner: Any) -> int:
        return 7

    def leave(self, owner: Any, stream: int) -> None:
        assert stream == 7

    def is_done(self, owner: Any) -> bool:
        return not self._queue

    def finish(self, owner: Any) -> int:
        self.catch_up()
        return 7

    def recorder(self) -> FakeRecorder:
        return FakeRecorder(self)

    def replay(self, graph: list[Any], stream: int) -> None:
        self.log.append("replay")
        nodes = [dict(n) if isinstance(n, dict) else n for n in graph]  # later updates are for later replays
        self._do(lambda: self._replay(nodes))

    def _replay(self, graph: list[Any]) -> None:
        before, lags = list(self.log), self.lags
        self.lags = False
        self._run(graph)
        self.log, self.lags = before, lags  # whatever is inside

    def _run(self, graph: list[Any]) -> None:
        for node in graph:
            if isinstance(node, dict):
                self.execute(node["command"], node["slots"])
            elif isinstance(node, Condition):
                node.set(*[bool(ctypes.string_at(at, 1)[0]) if at else None for at in node.bytes])
            elif isinstance(node, Conditional):
                trips = 0
                while node.handle.value and (trips == 0 or node.repeats):
                    self._run(node.nodes)
                    trips += 1
                    assert trips < 10_000, "a loop of the device that does not end"
            else:
                for f, args in node:
                    f(*args)

    def update(self, graph: list[Any], node: dict[str, Any], command: Launch) -> None:
        assert any(n is node for n in graph), "a node of another graph"
        self._note("update", 0)
        node["slots"] = command.slots.copy()

    def destroy(self, graph: list[Any]) -> None:
        graph.clear()

    def _note(self, what: str, stream: int) -> None:
        self.log.append(what)


class Handle:
    """A conditional node's value, which a kernel sets; nobody has set it yet."""

    value: bool | None = None


class Condition:
    """The kernel that sets handles by one byte or two."""

    def __init__(self, when_true: Handle, when_false: Handle | None, predicate: int, stop: int = 0) -> None:
        self.handles, self.bytes = (when_true, when_false), (predicate, stop)

    def set(self, predicate: bool | None, stop: bool | None) -> None:
        value = predicate is not False and not stop
        for handle, meant in zip(self.handles, (value, not value), strict=True):
            if handle is not None:
                handle.value = meant


class Conditional:
    """A conditional node: a graph of its own that runs if the handle is true, and again while it is."""

    def __init__(self, handle: Handle, repeats: bool) -> None:
        self.handle, self.repeats, self.nodes = handle, repeats, []  # type: ignore[var-annotated]


class FakeRecorder:
    """Nodes in a line. Arguments are copied when a kernel is added, as CUDA copies them."""

    def __init__(
        self, driver: FakeDriver, nodes: list[Any] | None = None, handle: Handle | None = None, stop: int = 0
    ) -> None:
        self._driver, self._nodes, self._handle = driver, [] if nodes is None else nodes, handle
        self._stop = stop

    def launch(self, command: Launch) -> dict[str, Any]:
        node = {"command": command, "slots": command.slots.copy()}
        self._nodes.append(node)
        return node

    def call(self, issue: Callable[[int], None], library: bool) -> None:
        """What is sent to the stream is not done but kept, with its addresses."""
        kept: list[Any] = []
        driver, log = self._driver, len(self._driver.log)
        saved = {n: getattr(driver, n) for n in ("copy", "clear", "library", "to_host")}
        for name, f in saved.items():
            setattr(driver, name, lambda *args, f=f: kept.append((f, args)))
        try:
            issue(-1)
        finally:
            for name in saved:
                delattr(driver, name)
        assert len(driver.log) == log, "something ran while it was recorded"
        self._nodes.append(kept)

    def branch(self, predicate: int) -> tuple[FakeRecorder, FakeRecorder]:
        nodes = [Conditional(Handle(), False), Conditional(Handle(), False)]
        self._nodes += [Condition(nodes[0].handle, nodes[1].handle, predicate), *nodes]
        true, false = [FakeRecorder(self._driver, n.nodes) for n in nodes]
        return true, false

    def guard(self, stop: int) -> FakeRecorder:
        node = Conditional(Handle(), False)
        self._nodes += [Condition(node.handle, None, 0, stop), node]
        return FakeRecorder(self._driver, node.nodes)

    def loop(self, predicate: int, stop: int = 0) -> FakeRecorder:
        node = Conditional(Handle(), True)
        self._nodes += [Condition(node.handle, None, predicate, stop), node]
        return FakeRecorder(self._driver, node.nodes, node.handle, stop)

    def again(self, predicate: int) -> None:
        assert self._handle is not None
        self._nodes.append(Condition(self._handle, None, predicate, self._stop))

    def finish(self) -> list[Any]:
        return self._nodes
