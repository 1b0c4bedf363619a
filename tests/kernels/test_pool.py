"""The thread pool: parallel work, busy callers, forks, exits, and its size."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from hybridml import config
from hybridml.kernels import jit, pool
from hybridml.kernels.driver import Table

# Each chunk waits until another chunk has started too: done only if two threads are inside at once.
MEET = """
from hybridml.kernels.native import atomic_add, atomic_load, pause
def meet(args, begin, end):
    atomic_add(args[0], 1)
    waited = 0
    while atomic_load(args[0]) < args[1] and waited < 2000000000:
        pause()
        waited += 1
    args[2] = atomic_load(args[0])
"""

PROGRAM = """
import os, sys, time, threading
import numpy as np
from hybridml.kernels import jit, pool
from hybridml.kernels.driver import Table

source = '''
from hybridml.kernels.pointer import float32_in, float32_out
def twice(args, begin, end):
    x = float32_in(args, 0, 0)
    out = float32_out(args, 1, 1)
    for i in range(begin, end):
        out[i] = x[i] + x[i]
'''
kernel = jit.load(source, "twice")
x = np.arange(50_000, dtype=np.float32)
out = np.zeros_like(x)
table = Table()
table.run(kernel.address, table.block([x.ctypes.data, out.ctypes.data]), x.size, chunks=8)
program = table.finish()

def check():
    out[:] = 0
    program.run([])
    assert (out == 2 * x).all()

check()
"""


def meeting(threads):
    table = Table()
    block = table.block([0, threads, 0])
    counter = table.block([0])
    table.set(block, counter)
    table.set(counter, 0)
    table.run(jit.load(MEET, "meet").address, block, threads, chunks=threads)
    return table.finish(), counter


def test_chunks_run_at_the_same_time():
    import ctypes

    with config.scope(num_threads=3):
        program, counter = meeting(3)
        assert pool.workers() >= 2
        for _ in range(20):
            assert program.run([]) == 0
            assert ctypes.c_int64.from_address(counter).value == 3


def test_sleeping_workers_wake_up():
    import time

    with config.scope(num_threads=2):
        program, _ = meeting(2)
        for _ in range(5):
            time.sleep(0.01)  # far longer than a worker spins
            program.run([])


def test_a_smaller_setting_starts_no_threads(process):
    program = (
        PROGRAM
        + "print(pool.workers(), [t.name.split('-')[1] for t in threading.enumerate()[1:]].count('worker'))\n"
    )
    assert process(program, HYBRIDML_NUM_THREADS="1") == "0 0\n"
    assert process(program, HYBRIDML_NUM_THREADS="4") == "3 3\n"


def test_a_program_without_chunks_starts_no_threads(process):
    program = PROGRAM.replace("chunks=8", "chunks=1") + "print(pool.workers())\n"
    assert process(program, HYBRIDML_NUM_THREADS="4") == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_s_child_runs_programs_of_its_parent():
    with config.scope(num_threads=3):
        program, _ = meeting(1)
        program.run([])
        big = np.arange(100_000, dtype=np.float32)
        out = np.zeros_like(big)
        table = Table()
        kernel = jit.load(COPY, "copy")
        table.run(kernel.address, table.block([big.ctypes.data, out.ctypes.data]), big.size, chunks=6)
        parallel = table.finish()
        parallel.run([])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(30)
                before = pool.workers()
                for _ in range(20):
                    out[:] = 0
                    parallel.run([])
                    if not (out == big).all():
                        os._exit(2)
                code = 0 if before == 0 and pool.workers() == 2 else 3
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        parallel.run([])  # and the parent's own pool still works
        assert pool.workers() >= 2


COPY = """
from hybridml.kernels.pointer import float32_in, float32_out
def copy(args, begin, end):
    x = float32_in(args, 0, 0)
    out = float32_out(args, 1, 1)
    for i in range(begin, end):
        out[i] = x[i]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forks_while_other_threads_run_programs(process):
    program = (
        "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
        + PROGRAM
        + """
import signal
stop = False
def keep_running():
    while not stop:
        program.run([])
threads = [threading.Thread(target=keep_running) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            check()
            check()
            os._exit(0)
        except BaseException:
            os._exit(1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop = True
for thread in threads:
    thread.join()
print(set(codes))
"""
    )
    assert process(program, HYBRIDML_NUM_THREADS="3") == "{0}\n"


EXITS = {
    "at once": "print('done')",
    "after the workers sleep": "time.sleep(0.02); print('done')",
    "by sys.exit": "print('done'); sys.exit(0)",
    "in a thread's middle": (
        "def forever():\n    while True: program.run([])\n"
        "threading.Thread(target=forever, daemon=True).start()\ntime.sleep(0.01)\nprint('done')"
    ),
    "from an atexit function that runs a program": "import atexit; atexit.register(check); print('done')",
}


@pytest.mark.parametrize("end", EXITS.values(), ids=EXITS)
def test_the_interpreter_exits_cleanly(process, end):
    for _ in range(3):
        assert process(PROGRAM + end, timeout=60, HYBRIDML_NUM_THREADS="4") == "done\n"


def test_a_program_still_runs_when_the_pool_has_stopped(process):
    end = "pool._stop(); check(); pool.ensure_started(); print(pool.workers())"
    assert process(PROGRAM + end, HYBRIDML_NUM_THREADS="4") == "0\n"


def test_multiprocessing_workers_run_programs(tmp_path):
    if sys.platform == "win32":
        pytest.skip("the script below relies on fork or spawn by a file, tested on the other systems")
    script = tmp_path / "script.py"
    script.write_text(
        PROGRAM
        + """
def task(number):
    check()
    return number

if __name__ == "__main__":
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        assert workers.map(task, range(4)) == [0, 1, 2, 3]
    print("done")
"""
    )
    environ = dict(
        os.environ,
        PYTHONPATH=str(Path(jit.__file__).parents[2]),
        HYBRIDML_CACHE_DIR=str(tmp_path / "cache"),
        HYBRIDML_NUM_THREADS="3",
    )
    done = subprocess.run([sys.executable, script], env=environ, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


def test_the_first_piece_is_the_callers_own():
    """So a thread finds in its cache what it made in the instruction before."""
    found = []
    entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(
        lambda args, begin, end: found.append((begin, threading.get_ident()))
    )
    table = Table()
    table.keep(entry)
    table.run(ctypes.cast(entry, ctypes.c_void_p).value, table.block([0]), 4, chunks=4)
    with config.scope(num_threads=2):
        program = table.finish()
        for _ in range(50):
            program.run([])
    assert sorted(begin for begin, _ in found) == sorted([0, 1, 2, 3] * 50)
    assert {thread for begin, thread in found if begin == 0} == {threading.get_ident()}
