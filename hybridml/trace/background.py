"""Programs that are made by another thread while calls go on.

One daemon thread makes them one after the other and ends when there is nothing left to make. It never runs the user's Python: a
function is traced by the thread that calls it, and a graph never changes.

A process that ends does not wait for what is in the making: `jit` is closed when the interpreter begins to go, so that no thread is
inside LLVM while the process takes itself apart. A fork's child takes over what its parent had not finished.
"""

from __future__ import annotations

import atexit
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from hybridml.kernels import jit

T = TypeVar("T")


class Later(Generic[T]):
    """What `make()` returns, once another thread has called it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._context = contextvars.copy_context()  # the configuration in force
        self._done = threading.Event()
        self._value: T | None = None
        self.error: BaseException | None = None
        self.said = False  # that there was an error
        _queue.add(self)

    @property
    def ready(self) -> bool:
        """True when it is made, or has failed: `error` then says why."""
        if not self._done.is_set():
            _queue.see_to_thread()
        return self._done.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is ready; False if it is not after `timeout` seconds."""
        return self.ready or self._done.wait(timeout)

    def result(self) -> T:
        """Wait for it; raises what `make` raised."""
        self.wait()
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]  # set before the event is

    def run(self) -> None:
        """Make it, in this thread."""
        make = self._make
        assert make is not None
        try:
            self._value = self._context.copy().run(
                make
            )  # a fork may come in the middle, and its child begins anew
        except Exception as error:
            self.error = error
        self._make = None
        self._done.set()


class _Queue:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: deque[Later[Any]] = deque()
        self.current: Later[Any] | None = None
        self.thread: threading.Thread | None = None
        self.closed = False

    def add(self, later: Later[Any]) -> None:
        with self.lock:
            self.waiting.append(later)
        self.see_to_thread()

    def see_to_thread(self) -> None:
        """Start the thread if there is work and none is there for it."""
        with self.lock:
            if self.thread is None and self.waiting and not self.closed:
                self.thread = threading.Thread(target=self.work, name="hybridml-compiler", daemon=True)
                self.thread.start()

    def work(self) -> None:
        while True:
            with self.lock:
                if not self.waiting or self.closed:
                    self.thread = self.current = None
                    return
                self.current = self.waiting.popleft()
            self.current.run()

    def close(self) -> None:
        with self.lock:
            self.closed = True
        jit.close()

    def reset_in_child(self) -> None:
        """A fork's child has no such thread: what it was making is made anew, when somebody asks for it."""
        self.lock = threading.Lock()
        if self.current is not None:
            self.waiting.appendleft(self.current)
        self.thread = self.current = None


_queue = _Queue()
atexit.register(_queue.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_queue.reset_in_child)
