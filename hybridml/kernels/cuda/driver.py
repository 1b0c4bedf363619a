"""The lowest layer: memory, kernels, streams and graphs of one GPU, by CUDA's driver API (cuda.bindings) and CuPy's pool.

Only this file, `recorder` and the libraries' files talk to CUDA. Streams and addresses are plain numbers, so that tests can put another
driver here.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from cuda.bindings import driver as cu  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with numba-cuda

from hybridml.errors import DeviceError
from hybridml.kernels.cuda import compile as compiling
from hybridml.kernels.cuda.blas import WORKSPACE, CuBlas, library_path
from hybridml.kernels.cuda.commands import Kernel, Launch, ProductPlan
from hybridml.kernels.cuda.condition import CONDITION, condition_ptx
from hybridml.kernels.cuda.cudnn import ConvolutionPlan, CuDnn
from hybridml.kernels.cuda.epilogue import otherwise
from hybridml.kernels.cuda.lt import ALIGNED, CuBlasLt
from hybridml.kernels.cuda.modules import function
from hybridml.kernels.cuda.status import ok
from hybridml.kernels.emit_cuda import Parameter


class Driver:
    """One GPU."""

    def __init__(self, cupy: Any, number: int) -> None:
        self.cupy, self.number = cupy, number
        with cupy.cuda.Device(number):
            cupy.cuda.runtime.free(0)  # makes the primary context, which CuPy and we share
            device = ok(cu.cuDeviceGet(number))
            self.context = ok(cu.cuDevicePrimaryCtxRetain(device))
            ok(cu.cuCtxSetCurrent(self.context))
            attribute, of = cu.CUdevice_attribute, cu.cuDeviceGetAttribute
            self.capability = (
                ok(of(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)),
                ok(of(attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)),
            )
            self.multiprocessors: int = ok(of(attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device))
            self.shared_bytes: int = ok(
                of(attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device)
            )
        # As CUDA itself has it: for finding a kernel that fails. Nothing is recorded then.
        self.blocking = os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")
        self._blas = CuBlas()
        self._lt = CuBlasLt(lambda: library_path("cublasLt"), WORKSPACE)
        self._cudnn = CuDnn(WORKSPACE)
        self._workspaces: dict[int, Any] = {}  # of libraries, by stream: two streams may run side by side
        self._kernels: dict[tuple[str, tuple[Parameter, ...]], Kernel] = {}
        self._lock = threading.RLock()

    # memory

    def allocate(self, nbytes: int) -> Any:
        """Memory of CuPy's pool as long as the result lives; its address is `ptr`."""
        return self.cupy.cuda.alloc(max(nbytes, 1))

    def upload(self, array: np.ndarray) -> Any:
        """A constant on the device."""
        there = self.cupy.asarray(np.array(array, order="C"))
        return _Held(there.data.ptr, there)

    def array(self, address: int, shape: tuple[int, ...], dtype: np.dtype, strides: tuple[int, ...]) -> Any:
        """Device memory as an array that does not own it."""
        reach = [max(d - 1, 0) * s for d, s in zip(shape, strides, strict=True)]
        low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
        # CuPy would ask the driver whose memory this is, and of an empty buffer nobody knows.
        memory = self.cupy.cuda.UnownedMemory(address + low, high - low + dtype.itemsize, self, self.number)
        pointer = self.cupy.cuda.MemoryPointer(memory, -low)
        return self.cupy.ndarray(shape, dtype, pointer, strides)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Bytes within the device, in the order of the stream."""
        ok(cu.cuMemcpyDtoDAsync(cu.CUdeviceptr(target), cu.CUdeviceptr(source), nbytes, cu.CUstream(stream)))

    def clear(self, target: int, nbytes: int, stream: int) -> None:
        """Zero bytes, in the order of the stream."""
        ok(cu.cuMemsetD8Async(cu.CUdeviceptr(target), 0, nbytes, cu.CUstream(stream)))

    def read(self, address: int, nbytes: int, stream: int) -> bytes:
        """Bytes as they are when the stream has come this far. Waits for the device."""
        found = np.empty(nbytes, np.uint8)
        ok(cu.cuMemcpyDtoHAsync(found.ctypes.data, cu.CUdeviceptr(address), nbytes, cu.CUstream(stream)))
        ok(cu.cuStreamSynchronize(cu.CUstream(stream)))
        return found.tobytes()

    def pinned(self, nbytes: int) -> Any:
        """Zeros of the host that the device can write; `bytes` shows them, `ptr` is their address."""
        memory = self.cupy.cuda.alloc_pinned_memory(nbytes)
        seen = np.frombuffer(memory, np.uint8, nbytes)
        seen[:] = 0
        return types.SimpleNamespace(ptr=memory.ptr, bytes=seen, owner=memory)

    def to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Bytes to pinned memory of the host, in the order of the stream; nobody waits."""
        ok(cu.cuMemcpyDtoHAsync(target, cu.CUdeviceptr(source), nbytes, cu.CUstream(stream)))

    # kernels

    def kernel(
        self, name: str, source: str, parameters: tuple[Parameter, ...], shared: bool = False
    ) -> Kernel:
        """A printed kernel, from memory, the disk, or the compiler; `shared` if its launches ask for shared memory."""
        key = source, parameters
        with self._lock:
            if key in self._kernels:
                old = self._kernels[key]
                return Kernel(name, source, parameters, old.handle, "memory", 0.0)
            symbol, ptx, origin, seconds = compiling.ptx_of(name, source, parameters, self.capability)
            self._be_current()
            handle = function(ptx, symbol, name)
            if shared:
                self._grant(handle)
            self._kernels[key] = Kernel(name, source, parameters, handle, origin, seconds)
            return self._kernels[key]

    def _grant(self, handle: Any) -> None:
        """Let the kernel's launches ask for all shared memory that a block may have; without this CUDA refuses more than 48 KiB."""
        attribute = cu.CUfunction_attribute
        tables = ok(cu.cuFuncGetAttribute(attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, handle))
        most = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        ok(cu.cuFuncSetAttribute(handle, most, self.shared_bytes - tables))

    def launch(self, command: Launch, stream: int) -> None:
        """Run a kernel."""
        (gx, gy), (bx, by) = command.grid, command.block
        pointers = command.pointers.ctypes.data
        ok(
            cu.cuLaunchKernel(
                command.kernel.handle, gx, gy, 1, bx, by, 1, command.shared, cu.CUstream(stream), pointers, 0
            ),
            command,
        )
        if self.blocking:
            ok(cu.cuStreamSynchronize(cu.CUstream(stream)), command)

    # libraries

    def refuse(self, plan: ProductPlan | ConvolutionPlan, aligned: int = ALIGNED) -> str | None:
        """Why no library has this product or convolution of buffers at multiples of so many bytes, or None."""
        if (reason := otherwise(plan.epilogue, plan.dtype)) is not None:
            return reason
        with self._lock:
            if isinstance(plan, ConvolutionPlan):
                return self._cudnn.refuse(plan, aligned)
            return self._lt.refuse(plan, aligned)

    def library(self, plan: Any, reads: Sequence[int], writes: Sequence[int], stream: int) -> None:
        """A call of a library, in the order of the stream."""
        with self._lock:  # handles are for one thread at a time
            workspace = self._workspaces.get(stream)
            if workspace is None:
                workspace = self._workspaces[stream] = self.allocate(WORKSPACE)
            if isinstance(plan, ConvolutionPlan):
                self._cudnn.convolution(plan, reads, writes, workspace.ptr, stream)
            elif plan.epilogue:
                self._lt.product(plan, reads, writes, workspace.ptr, stream)
            else:
                (a, b), (c,) = reads, writes
                self._blas.product(plan, a, b, c, workspace.ptr, stream)

    # streams

    def _be_current(self) -> None:
        """Make our context this thread's: a new thread has none until CUDA's runtime is called in it."""
        ok(cu.cuCtxSetCurrent(self.context))

    def enter(self, owner: Any) -> int:
        """The stream of this call: CuPy's current one. It waits for the last call of `owner` where that was on another."""
        self._be_current()
        stream: int = self.cupy.cuda.get_current_stream().ptr
        last, event = getattr(owner, "last_stream", (stream, None))
        if last != stream and event is not None:
            ok(cu.cuStreamWaitEvent(cu.CUstream(stream), event, 0))
        return stream

    def leave(self, owner: Any, stream: int) -> None:
        """Remember where the work of `owner` ends."""
        event = getattr(owner, "last_stream", (0, None))[1]
        if event is None:
            event = ok(cu.cuEventCreate(2))  # CU_EVENT_DISABLE_TIMING
        ok(cu.cuEventRecord(event, cu.CUstream(stream)))
        owner.last_stream = stream, event

    def is_done(self, owner: Any) -> bool:
        """True if the device has done all of the owner's last call."""
        (status,) = cu.cuEventQuery(owner.last_stream[1])
        if status == cu.CUresult.CUDA_ERROR_NOT_READY:
            return False
        ok((status,))
        return True

    def finish(self, owner: Any) -> int:
        """Wait for the owner's last call; returns its stream."""
        self._be_current()
        stream, event = owner.last_stream
        ok(cu.cuEventSynchronize(event))
        return int(stream)

    # graphs

    @functools.cached_property
    def conditionals(self) -> bool:
        """True if graphs can decide branches and loops: since CUDA 12.4."""
        if ok(cu.cuDriverGetVersion()) < 12040 or not hasattr(cu, "cuGraphConditionalHandleCreate"):
            return False
        try:
            self.set_condition  # noqa: B018  # loaded here, where there is another way
        except DeviceError as error:
            warnings.warn(f"the host decides branches and loops, and waits for them: {error}", stacklevel=2)
            return False
        return True

    @functools.cached_property
    def set_condition(self) -> Any:
        """The kernel that tells a graph a byte."""
        with self._lock:
            self._be_current()
            return function(condition_ptx(self.capability), CONDITION, CONDITION)

    def recorder(self) -> Any:
        """A new graph under construction."""
        from hybridml.kernels.cuda.recorder import Recorder

        return Recorder(self)

    @contextlib.contextmanager
    def capturing(self, stream: Any, workspace: Any) -> Iterator[None]:
        """What is sent to the stream inside is recorded; libraries use this workspace.

        The stream is nobody else's, so CUDA need not forbid this thread what would disturb a recording: a library that loads a kernel
        at its first use, and memory that Python gives back meanwhile.
        """
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        with self._lock:
            if workspace is not None:
                self._blas.open()  # which allocates
            self._workspaces[int(stream)] = workspace
            ok(cu.cuStreamBeginCapture(stream, mode))
            try:
                yield
            finally:
                del self._workspaces[int(stream)]

    def replay(self, graph: tuple[Any, ...], stream: int) -> None:
        """Run a graph."""
        ok(cu.cuGraphLaunch(graph[0], cu.CUstream(stream)), "a recorded graph")

    def update(self, graph: tuple[Any, ...], node: Any, command: Launch) -> None:
        """Give a kernel of a graph its arguments anew."""
        ok(cu.cuGraphExecKernelNodeSetParams(graph[0], node, node_parameters(command)), command)

    def destroy(self, graph: tuple[Any, ...]) -> None:
        """Give a graph back; one that runs is finished first, by CUDA. Python may ask for it in any thread, which keeps its context."""
        cu.cuCtxPushCurrent(self.context)
        cu.cuGraphExecDestroy(graph[0])
        cu.cuGraphDestroy(graph[1])
        cu.cuCtxPopCurrent()


class _Held:
    def __init__(self, ptr: int, owner: Any) -> None:
        self.ptr, self.owner = ptr, owner


def node_parameters(command: Launch) -> Any:
    """A launch as CUDA's graphs have it, made once: it points at the arguments, which are read each time that it is handed over."""
    if command.form is not None:
        return command.form
    p = cu.CUDA_KERNEL_NODE_PARAMS()
    p.func = command.kernel.handle
    p.gridDimX, p.gridDimY, p.gridDimZ = *command.grid, 1
    p.blockDimX, p.blockDimY, p.blockDimZ = *command.block, 1
    p.sharedMemBytes = command.shared
    p.kernelParams = int(command.pointers.ctypes.data)
    p.extra = 0
    command.form = p
    return p


__all__: Sequence[str] = ["Driver", "node_parameters"]
