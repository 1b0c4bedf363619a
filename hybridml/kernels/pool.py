"""The threads that share a program's large kernels.

Daemon Python threads enter native code once and stay: they look for work, spinning for some hundred microseconds,
then sleep on a CPython lock, which native code may use without holding the interpreter lock. There is no
OpenMP and no other runtime: nothing to install, nothing that aborts when two threads call at once, nothing
that breaks after a fork.

A thread that finds the pool busy runs its own chunks itself; see `loops.run`.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading

import numpy as np

from hybridml import config
from hybridml.kernels import jit, layout, objects

MAX_WORKERS = 1023

# How long a worker looks for work before it sleeps. A pause takes some 40 to 140 cycles on x86, next to nothing elsewhere; both make
# 50 to 200 us: longer than the serial stretches of a training step and the way back into the next call, because waking a
# sleeping thread takes some 50 us, more than most kernels.
_SPINS = 4000 if platform.machine().lower() in ("x86_64", "amd64", "i686") else 80_000

SIGNATURE = "void(int64, int64)"

_lock = threading.Lock()
_threads: list[threading.Thread] = []


def _aligned_words(count: int) -> np.ndarray:
    """Zeroed int64 words that start a cache line, so that no two workers' lines are one."""
    storage = np.zeros(count + 8, np.int64)
    return storage[(-storage.ctypes.data % 64) // 8 :][:count]


_block = _aligned_words((layout.WORKER_LINES + layout.WORKER_BYTES * MAX_WORKERS) // 8)
_block[layout.PROCESS // 8] = os.getpid()

# Never freed: a daemon thread of the user's may run a program until the very end of the process.
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_block))

address: int = _block.ctypes.data
"""The pool's block, for a program's header; it stays in place for the life of the process."""


def workers() -> int:
    """Threads started so far; a program's calling thread comes on top of them."""
    return int(_block[layout.WORKERS // 8])


def ensure_started(num_threads: int | None = None) -> None:
    """Start threads until a program can use ``num_threads`` (default: of `config.get()`), its own one
    included."""
    wanted = min((config.get().num_threads if num_threads is None else num_threads) - 1, MAX_WORKERS)
    if workers() >= wanted or _block[layout.STOPPING // 8]:
        return
    kernel = jit.load(native_source(), "work", SIGNATURE)
    entry = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(kernel.address)
    with _lock:
        _fill_functions()
        # With more threads than processors a spinning worker takes the time of a working one.
        _block[layout.SPIN_LIMIT // 8] = _SPINS if wanted < config.available_cpus() else 1
        for worker in range(len(_threads), wanted):
            line = (layout.WORKER_LINES + layout.WORKER_BYTES * worker) // 8
            _block[line + layout.ASLEEP // 8] = 0
            _block[line + layout.WAKE_LOCK // 8] = _held_lock()
            thread = threading.Thread(
                target=entry, args=(address, worker), name=f"hybridml-worker-{worker}", daemon=True
            )
            thread.start()
            _threads.append(thread)
            _block[layout.WORKERS // 8] = worker + 1


def native_source() -> str:
    """The text of `loops`, which holds the entries ``run`` and ``work``."""
    from pathlib import Path

    return Path(__file__).with_name("loops.py").read_text(encoding="utf-8")


def _fill_functions() -> None:
    api = ctypes.pythonapi
    _block[layout.ACQUIRE_LOCK // 8] = objects.function_address(api.PyThread_acquire_lock)
    _block[layout.RELEASE_LOCK // 8] = objects.function_address(api.PyThread_release_lock)
    if sys.platform == "win32":
        _block[layout.YIELD_THREAD // 8] = objects.function_address(ctypes.WinDLL("kernel32").SwitchToThread)
    else:
        _block[layout.YIELD_THREAD // 8] = objects.function_address(ctypes.CDLL(None).sched_yield)


def _held_lock() -> int:
    """A new CPython lock, already taken: whoever takes it again sleeps until it is released once."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
        ("PyThread_acquire_lock", ctypes.pythonapi)
    )
    lock = allocate()
    if not lock or not acquire(lock, 1):
        raise MemoryError("no lock for a thread of the pool")
    return int(lock)


def _stop() -> None:
    """Send all threads home before the interpreter takes itself apart; later programs run on their caller
    alone."""
    release = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("PyThread_release_lock", ctypes.pythonapi))
    _block[layout.STOPPING // 8] = 1
    for worker, thread in enumerate(_threads):
        line = (layout.WORKER_LINES + layout.WORKER_BYTES * worker) // 8
        for _ in range(100):
            if _block[line + layout.ASLEEP // 8]:
                _block[line + layout.ASLEEP // 8] = 0
                release(int(_block[line + layout.WAKE_LOCK // 8]))
            thread.join(0.01)
            if not thread.is_alive():
                break
    _block[layout.WORKERS // 8] = 0


def _reset_in_child() -> None:
    """A fork's child has no workers, and whatever its parent was in the middle of is not its own."""
    global _lock
    _lock = threading.Lock()
    _threads.clear()
    _block[:] = 0
    _block[layout.PROCESS // 8] = os.getpid()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
