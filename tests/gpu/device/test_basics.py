"""The lowest layer alone, one step after the other: which of them fails first says where to look."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hybridml import backends, config
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda.commands import Launch, ProductPlan
from hybridml.kernels.cuda.epilogue import Epilogue
from hybridml.kernels.cuda.executable import driver_of
from hybridml.kernels.emit_cuda import Parameter

FLOAT, BYTE, WORD = np.dtype("f4"), np.dtype("u1"), np.dtype("i4")

SCALE = """
import numpy as np
from numba import cuda

ix, ux = np.int32, np.uint32


def scale(x0, x1, o0, n, factor):
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        o0[i] = x0[i] * factor if x1[i] != 0 else x0[i]
"""
COUNT_DOWN = """
import numpy as np
from numba import cuda

ix, ux = np.int32, np.uint32


def count_down(o0, o1, n):
    if cuda.grid(1) == 0:
        o0[0] = o0[0] - n
        o1[0] = np.uint8(o0[0] > 0)
"""
TURN_ROUND = """
import numpy as np
from numba import cuda

ix, ux = np.int32, np.uint32


def turn_round(x0, o0, n):
    memory = cuda.shared.array(0, np.float32)
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        memory[i] = x0[i]
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, n, cuda.blockDim.x):
        o0[i] = memory[n - 1 - i]
"""


@pytest.fixture
def gpu() -> Any:
    return backends.named("gpu:0")


@pytest.fixture
def driver(gpu: Any) -> Any:
    return driver_of(gpu)


@pytest.fixture
def stream(driver: Any) -> int:
    found: int = driver.enter(object())
    return found


def array(gpu: Any, values: Any, dtype: Any = FLOAT) -> Any:
    return gpu.put(np.asarray(values, dtype))


def scaled(driver: Any) -> Any:
    """A kernel with pointers to floats and bytes, an int and a float."""
    given = (
        Parameter("x0", FLOAT, True), Parameter("x1", BYTE, True), Parameter("o0", FLOAT, True), Parameter("n", WORD),
        Parameter("factor", FLOAT),
    )  # fmt: skip
    return driver.kernel("scale", SCALE, given)


def turned(driver: Any) -> Any:
    """A kernel whose block keeps all elements in shared memory."""
    given = (Parameter("x0", FLOAT, True), Parameter("o0", FLOAT, True), Parameter("n", WORD))
    return driver.kernel("turn_round", TURN_ROUND, given, True)


def test_cupy_computes_and_sums(gpu: Any) -> None:
    x = gpu.xp.arange(1000, dtype=np.float32)
    np.testing.assert_array_equal(gpu.get(gpu.xp.sum(x * 2)), 999_000)


def test_the_device_says_what_it_is(driver: Any) -> None:
    assert driver.capability >= (7, 0)
    assert driver.multiprocessors > 0
    assert driver.shared_bytes >= 48 << 10
    assert driver.conditionals, "the driver cannot decide branches in a graph"


def test_a_kernel_runs(gpu: Any, driver: Any, stream: int) -> None:
    x, flags, out = (
        array(gpu, range(100)),
        array(gpu, [k % 3 == 0 for k in range(100)], BYTE),
        array(gpu, np.zeros(100)),
    )
    at = [Fixed(a.data.ptr) for a in (x, flags, out)]
    driver.launch(Launch(scaled(driver), (2, 1), (32, 1), [*at, 100, 2.5]), stream)
    np.testing.assert_array_equal(gpu.get(out), [k * 2.5 if k % 3 == 0 else k for k in range(100)])


def test_a_kernel_has_the_shared_memory_that_it_asks_for(gpu: Any, driver: Any, stream: int) -> None:
    n = (driver.shared_bytes - 1024) // 4
    x, out = array(gpu, range(n)), array(gpu, np.zeros(n))
    at = [Fixed(a.data.ptr) for a in (x, out)]
    driver.launch(Launch(turned(driver), (1, 1), (128, 1), [*at, n], shared=4 * n), stream)
    np.testing.assert_array_equal(gpu.get(out), np.arange(n)[::-1])


def test_bytes_are_copied_cleared_and_read(gpu: Any, driver: Any, stream: int) -> None:
    x, y = array(gpu, range(10)), array(gpu, np.zeros(10))
    driver.copy(y.data.ptr, x.data.ptr, 40, stream)
    driver.clear(y.data.ptr + 4, 8, stream)
    assert np.frombuffer(driver.read(y.data.ptr, 40, stream), FLOAT).tolist() == [0, 0, 0, *range(3, 10)]


def test_memory_is_seen_as_an_array(gpu: Any, driver: Any) -> None:
    x = array(gpu, range(12))
    seen = driver.array(x.data.ptr + 4 * 11, (3, 4), FLOAT, (-16, -4))
    np.testing.assert_array_equal(gpu.get(seen + 0), np.arange(12).reshape(3, 4)[::-1, ::-1])
    assert driver.array(0, (0, 3), FLOAT, (12, 4)).shape == (0, 3)


def test_a_recorded_kernel_is_replayed_and_patched(gpu: Any, driver: Any, stream: int) -> None:
    x, y, out = array(gpu, range(8)), array(gpu, range(8, 16)), array(gpu, np.zeros(8))
    flags = array(gpu, np.ones(8), BYTE)
    command = Launch(
        scaled(driver),
        (1, 1),
        (32, 1),
        [External(0), Fixed(flags.data.ptr), Fixed(out.data.ptr), 8, 2.0],
    )
    command.point_at([x.data.ptr])
    recorder = driver.recorder()
    node = recorder.launch(command)
    copied = array(gpu, np.zeros(8))
    recorder.call(lambda s: driver.copy(copied.data.ptr, out.data.ptr, 32, s), False)
    graph = recorder.finish()
    driver.replay(graph, stream)
    np.testing.assert_array_equal(gpu.get(copied), 2 * np.arange(8))
    command.point_at([y.data.ptr])
    driver.update(graph, node, command)
    driver.replay(graph, stream)
    np.testing.assert_array_equal(gpu.get(copied), 2 * np.arange(8, 16))
    driver.destroy(graph)


def counter(gpu: Any, driver: Any, start: int) -> tuple[Any, Any, Launch]:
    """A number, the byte that says whether it is above 0, and the kernel that takes 1 off it and writes the byte."""
    number, byte = array(gpu, [start], WORD), array(gpu, [start > 0], BYTE)
    given = (Parameter("o0", WORD, True), Parameter("o1", BYTE, True), Parameter("n", WORD))
    kernel = driver.kernel("count_down", COUNT_DOWN, given)
    return (
        number,
        byte,
        Launch(kernel, (1, 1), (32, 1), [Fixed(number.data.ptr), Fixed(byte.data.ptr), 1]),
    )


def test_a_graph_decides_a_branch(gpu: Any, driver: Any, stream: int) -> None:
    byte, out = array(gpu, [True], BYTE), array(gpu, np.zeros(4))
    one, two = array(gpu, np.full(4, 1)), array(gpu, np.full(4, 2))
    recorder = driver.recorder()
    for branch, source in zip(recorder.branch(byte.data.ptr), (one, two), strict=True):
        branch.call(lambda s, source=source: driver.copy(out.data.ptr, source.data.ptr, 16, s), False)
    graph = recorder.finish()
    for truth in (True, False, True):
        gpu.store(byte, array(gpu, [truth], BYTE))
        driver.replay(graph, stream)
        np.testing.assert_array_equal(gpu.get(out), 1 if truth else 2)
    driver.destroy(graph)


@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_graph_decides_a_loop(start: int, gpu: Any, driver: Any, stream: int) -> None:
    number, byte, command = counter(gpu, driver, start)
    recorder = driver.recorder()
    body = recorder.loop(byte.data.ptr)
    body.launch(command)
    body.again(byte.data.ptr)
    graph = recorder.finish()
    driver.replay(graph, stream)
    assert gpu.get(number).tolist() == [0]
    driver.destroy(graph)


@pytest.mark.parametrize("stopped", [False, True])
def test_a_byte_stops_what_waits_for_it(stopped: bool, gpu: Any, driver: Any, stream: int) -> None:
    """A loop ends after the iteration that has set the byte, and what is guarded does not run; the host sees it in the end."""
    number, byte, command = counter(gpu, driver, 3)
    stop, out, ones = array(gpu, [False], BYTE), array(gpu, np.zeros(4)), array(gpu, np.ones(4))
    one = array(gpu, [1 if stopped else -1], WORD)
    sets = Launch(command.kernel, (1, 1), (32, 1), [Fixed(one.data.ptr), Fixed(stop.data.ptr), 0])
    seen = driver.pinned(1)
    recorder = driver.recorder()
    body = recorder.loop(byte.data.ptr, stop.data.ptr)
    body.launch(command)
    body.launch(sets)
    body.again(byte.data.ptr)
    recorder.guard(stop.data.ptr).call(lambda s: driver.copy(out.data.ptr, ones.data.ptr, 16, s), False)
    recorder.call(lambda s: driver.to_host(seen.ptr, stop.data.ptr, 1, s), False)
    graph = recorder.finish()
    owner = type("Owner", (), {})()
    now = driver.enter(owner)
    driver.replay(graph, now)
    driver.leave(owner, now)
    assert driver.finish(owner) == now
    assert driver.is_done(owner)
    assert bool(seen.bytes[0]) is stopped
    assert gpu.get(number).tolist() == [2 if stopped else 0]
    np.testing.assert_array_equal(gpu.get(out), 0 if stopped else 1)
    driver.destroy(graph)


def product(m: int, n: int, k: int, epilogue: Epilogue | None = None) -> ProductPlan:
    more = {} if epilogue is None else {"epilogue": epilogue}
    return ProductPlan(m, n, k, "float32", False, False, 1, k, n, (0, 0, 0), "float32", **more)  # type: ignore[arg-type]  # one keyword


@pytest.mark.parametrize("recorded", [False, True], ids=["called", "recorded"])
@pytest.mark.parametrize("epilogue", [False, True], ids=["cuBLAS", "cuBLASLt"])
def test_a_library_multiplies(epilogue: bool, recorded: bool, gpu: Any, driver: Any, stream: int) -> None:
    rng = np.random.default_rng(0)
    a, b, bias = rng.normal(size=(64, 32)), rng.normal(size=(32, 48)), rng.normal(size=48)
    there = [array(gpu, x) for x in (a, b, bias)]
    out = array(gpu, np.zeros((64, 48)))
    plan = product(64, 48, 32, Epilogue(bias=True, function="relu") if epilogue else None)
    with config.scope(fast_math=True):  # else relu is taken by nobody
        assert not epilogue or driver.refuse(plan) is None
    reads = [x.data.ptr for x in there[: 3 if epilogue else 2]]
    if recorded:
        recorder = driver.recorder()
        recorder.call(lambda s: driver.library(plan, reads, [out.data.ptr], s), True)
        driver.replay(recorder.finish(), stream)
    else:
        driver.library(plan, reads, [out.data.ptr], stream)
    expected = np.maximum(a @ b + bias, 0) if epilogue else a @ b
    np.testing.assert_allclose(gpu.get(out), expected, rtol=1e-4, atol=1e-4)
