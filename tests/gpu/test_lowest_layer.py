"""The lowest layer itself, through CUDA's real bindings, on a library that answers like a driver and does nothing.

So arguments, their order, structs and what is read back of them are checked; what a GPU would do with them is not.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CC = shutil.which("cc") or shutil.which("gcc")

needed = pytest.mark.skipif(
    CC is None or sys.platform != "linux" or importlib.util.find_spec("numba_cuda") is None,
    reason="needs a C compiler, Linux and numba-cuda",
)

PROGRAM = """
import contextlib, sys, types
import numpy as np
sys.path.insert(0, {device!r})
import test_basics as basics
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda import modules
from hybridml.kernels.cuda.commands import Launch
from hybridml.kernels.cuda.driver import Driver

def step(text):
    print("#", text, file=sys.stderr, flush=True)

class Memory:
    def __init__(self, n):
        self.bytes = np.zeros(n, np.uint8)
        self.ptr = self.bytes.ctypes.data

class Pinned(bytearray):
    @property
    def ptr(self):
        return np.frombuffer(self, np.uint8).ctypes.data

cuda = types.SimpleNamespace(
    Device=lambda number: contextlib.nullcontext(), runtime=types.SimpleNamespace(free=lambda address: None), alloc=Memory,
    get_current_stream=lambda: types.SimpleNamespace(ptr=stream), alloc_pinned_memory=Pinned,
)
stream = 0
driver = Driver(types.SimpleNamespace(cuda=cuda), 0)
assert (driver.capability, driver.multiprocessors, driver.shared_bytes) == ((9, 0), 132, 232448)
step("load")
kernel = basics.scaled(driver)
step("grant")
basics.turned(driver)
step("launch")
byte = Memory(8)
command = Launch(kernel, (2, 3), (32, 4), [External(0), Fixed(5), Fixed(6), 7, 2.5], shared=16)
command.point_at([0x1234])
driver.launch(command, 0x77)
driver.copy(1, 2, 3, 0x78)
driver.clear(1, 3, 0)
assert driver.read(1, 4, 9) == b"\\7" * 4
seen = driver.pinned(4)
assert seen.bytes.tolist() == 4 * [0]
driver.to_host(seen.ptr, 1, 3, 0x79)
assert seen.bytes.tolist() == [7, 7, 7, 0]
step("streams")
owner = types.SimpleNamespace()
driver.leave(owner, driver.enter(owner))
driver.leave(owner, driver.enter(owner))
stream = 0x55
assert driver.enter(owner) == 0x55
assert not driver.is_done(owner)
assert driver.is_done(owner)
assert driver.finish(owner) == 0
assert driver.conditionals
step("record")
recorder = driver.recorder()
node = recorder.launch(command)
recorder.call(lambda side: driver.copy(1, 2, 3, side), False)
step("branch")
true, false = recorder.branch(byte.ptr)
true.launch(command)
step("loop")
loop = recorder.loop(byte.ptr, byte.ptr + 1)
loop.launch(command)
loop.again(byte.ptr)
step("guard")
recorder.guard(byte.ptr).launch(command)
step("finish")
graph = recorder.finish()
driver.replay(graph, 0x10)
command.point_at([0x9999])
driver.update(graph, node, command)
driver.destroy(graph)
step("refused")
try:
    modules.function(b".version 9.5\\n.target sm_90\\n.version 9.5", "k", "newest")
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each step of the program called, in order."""
    folder = tmp_path_factory.mktemp("cuda")
    library = folder / "libcuda.so.1"
    command = [
        str(CC),
        "-shared",
        "-fPIC",
        "-w",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(library),
        str(HERE / "stand_in_cuda.c"),
        "-ldl",
    ]
    subprocess.run(command, check=True, timeout=120)
    path = os.pathsep.join([str(folder), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    env = {**os.environ, "LD_LIBRARY_PATH": path, "PYTHONPATH": str(ROOT)}
    program = PROGRAM.format(device=str(HERE / "device"))
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    steps: dict[str, list[str]] = {}
    for line in done.stderr.splitlines():
        if line.startswith("# "):
            now = steps.setdefault(line[2:], [])
        elif steps:
            now.append(line)
    return steps


@needed
def test_a_kernel_is_loaded_into_our_context_and_as_an_older_text_where_the_driver_is_old(
    said: dict[str, list[str]],
) -> None:
    assert said["load"][0] == "current 0xc0"
    assert said["load"][-1].startswith("load .version")
    assert said["grant"][-1] == "attribute 8=232320", "all that a block may have, but for its tables"


@needed
def test_a_launch(said: dict[str, list[str]]) -> None:
    launch, copy, clear, waits, to_host = said["launch"]
    assert launch == "launch grid 2 3 1 block 32 4 1 shared 16 stream 77 first 1234 extra (nil)"
    assert (copy, clear, waits) == ("copy 3 stream 78", "set 0 3", "synchronize 9")
    assert to_host == "to host 3 stream 79"


@needed
def test_another_stream_waits_for_the_last_call(said: dict[str, list[str]]) -> None:
    found = [line for line in said["streams"] if not line.startswith(("current", "load"))]
    assert found == [
        "record stream 0",
        "record stream 0",
        "wait stream 55",
        "query",
        "query",
        "event waited for",
    ]


@needed
def test_a_recording(said: dict[str, list[str]]) -> None:
    assert said["record"][:3] == [
        "stream flags 1",
        "kernel in 96a after 0 grid 2 3 1 block 32 4 1 shared 16 first 1234 kern (nil) ctx (nil) extra (nil)",
        "capture mode 2",
    ]
    assert said["record"][3:5] == ["copy 3 stream 51de", "child in 96a after 1"]
    assert said["finish"] == [
        "stream destroyed", "instantiate 96a", "replay e8ec stream 10", "update e8ec first 9999",
        "push 0xc0", "exec destroyed", "graph destroyed 96a", "pop",
    ]  # fmt: skip


@needed
def test_branches_and_loops(said: dict[str, list[str]]) -> None:
    handles, decide = said["branch"][:2], said["branch"][2]
    assert handles == 2 * ["handle in 96a ctx 0xc0 value 0 flags 0"]
    assert decide.startswith("kernel in 96a after 1 grid 1 1 1 block 1 1 1 shared 0 first abc")
    for line in said["branch"][3:5]:
        assert re.match(
            r"decides in 96a after 1 edges \(nil\) type 13 handle abc kind 0 size 1 ctx 0xc0 body", line
        )
    inside = said["branch"][3].rpartition(" ")[2]
    assert said["branch"][5].startswith(f"kernel in {inside} after 0 "), (
        "the first body is the one for a byte that is true"
    )
    assert said["loop"][2].startswith("decides in 96a after 1 edges (nil) type 13 handle abc kind 1 ")
    inside = said["loop"][2].rpartition(" ")[2]
    assert [line.split(" grid")[0] for line in said["loop"][3:]] == [
        f"kernel in {inside} after {k}" for k in (0, 1)
    ]
    assert said["guard"][0] == "handle in 96a ctx 0xc0 value 0 flags 0"
    assert said["guard"][1].startswith("kernel in 96a after 1 ")
    assert said["guard"][2].startswith("decides in 96a after 1 edges (nil) type 13 handle abc kind 0 size 1 ")
    inside = said["guard"][2].rpartition(" ")[2]
    assert said["guard"][3].startswith(f"kernel in {inside} after 0 ")


@needed
def test_what_the_driver_refuses_is_told(said: dict[str, list[str]]) -> None:
    (told,) = [line for line in said["refused"] if line.startswith("DeviceError")]
    assert "CUDA 13.0" in told and "newest" in told
    assert told.count("UNSUPPORTED_PTX_VERSION: meaning a complaint") == 2
