"""LLVM at work in other threads, while this one plans and prints the next kernel.

A `Job` waits in line until a thread takes it, or until somebody needs a result: who waits helps. So nothing depends on there being a
thread, and whoever asked for many kernels takes part in what is left of them.

LLVM must be left in peace when a process forks, and when it takes itself apart: both wait until no job is going on, and hold the line.
A fork's child finds the jobs that had not begun where they were.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hybridml import config

T = TypeVar("T")

LINGER = 0.5  # seconds that a thread waits for another job


class Job(Generic[T]):
    """What `work()` returns or raises, in whichever thread comes first. `work` asks for no other jobs."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._value: T | None = None
        self._error: Exception | None = None
        self._done = False
        most = config.get().num_threads - 1  # but for the one that is here
        with _changed:
            _waiting.append(self)
            _start_thread(most)
            _changed.notify_all()

    def result(self) -> T:
        """Its result; until it is there, this thread does what waits."""
        while True:
            with _changed:
                _changed.wait_for(lambda: self._done or _some_may_begin())
                if self._done:
                    break
                job = _begin(self if self in _waiting else _waiting[0])
            job._do()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set where there is no error

    def _do(self) -> None:
        try:
            self._value = self._work()
            self._done = True
        except Exception as error:
            self._error = error
            self._done = True
        finally:
            with _changed:
                _inside.discard(threading.get_ident())
                if not self._done:  # interrupted
                    _waiting.appendleft(self)
                _changed.notify_all()


_changed = threading.Condition()  # guards what follows
_waiting: deque[Job[Any]] = deque()
_inside: set[int] = set()  # threads that are doing a job
_threads = 0
_holder: int | None = (
    None  # the thread that alone may begin a job: all others wait for it to fork, or for the end
)


def _some_may_begin() -> bool:
    return bool(_waiting) and _holder in (None, threading.get_ident())


def _begin(job: Job[Any]) -> Job[Any]:
    _waiting.remove(job)
    _inside.add(threading.get_ident())
    return job


def _start_thread(most: int) -> None:
    global _threads
    if _threads < min(most, len(_waiting) + len(_inside)):
        _threads += 1
        threading.Thread(target=_take_jobs, name="hybridml-llvm", daemon=True).start()


def _take_jobs() -> None:
    global _threads
    while True:
        with _changed:
            if not _changed.wait_for(_some_may_begin, LINGER):
                _threads -= 1
                return
            job = _begin(_waiting[0])
        job._do()


def _hold() -> None:
    """Let nobody begin a job, and wait for those that are going on."""
    global _holder
    _changed.acquire()
    _holder = threading.get_ident()
    while _inside - {_holder}:
        _changed.wait()


def _release() -> None:
    global _holder
    _holder = None
    _changed.notify_all()
    _changed.release()


def _release_in_child() -> None:
    global _threads
    _threads = 0
    _release()


atexit.register(_hold)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
