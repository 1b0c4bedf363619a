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
    """What `work()` returns or raises, in whichever thread comes first. `work` asks for no other jobs; it may be run again if an interrupt
    ended it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._value: T | None = None
        self._error: Exception | None = None
        most = config.get().num_threads - 1  # but for the one that is here
        with _changed:
            _waiting.append(self)
            _start_thread(most)
            _changed.notify_all()

    @property
    def _done(self) -> bool:
        return self._work is None

    def result(self) -> T:
        """Its result; until it is there, this thread does what waits."""
        while not self._done:
            job: Job[Any] | None = None
            try:
                with _changed:
                    _changed.wait_for(lambda: self._done or _some_may_begin())
                    if not self._done:
                        job = _begin(self if self in _waiting else _waiting[0])
                if job is not None:
                    job._do()
            except BaseException:  # an interrupt
                if job is not None:
                    job._give_up()
                raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # set where there is no error

    def _do(self) -> None:
        assert self._work is not None
        try:
            self._value = self._work()
        except Exception as error:
            self._error = error
        with _changed:
            self._work = None
            _inside.discard(threading.get_ident())
            _changed.notify_all()

    def _give_up(self) -> None:
        """Put it back in line, for this thread did not end it."""
        with _changed:
            _inside.discard(threading.get_ident())
            if not self._done and self not in _waiting:
                self._error = None
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
    if _holder is not None or _threads >= min(most, len(_waiting) + len(_inside)):
        return
    try:
        threading.Thread(target=_take_jobs, name="hybridml-llvm", daemon=True).start()
    except RuntimeError:  # the system's limit, or the interpreter ends: who asks for results does the work
        return
    _threads += 1


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
    me = _holder = threading.get_ident()
    while _inside - {me}:
        _changed.wait()
        _holder = me  # another thread may have held the line, and let go of it, meanwhile


def _release() -> None:
    global _holder
    _holder = None
    _changed.notify_all()
    _changed.release()


def _release_in_child() -> None:
    global _threads
    _threads = 0
    _inside.intersection_update({threading.get_ident()})
    _release()


atexit.register(_hold)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_in_child)
