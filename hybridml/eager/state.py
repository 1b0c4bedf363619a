"""What is going on in this thread: which tapes record, which trace, if any, is being written, and which `vmap`s are under way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hybridml.eager.tape import GradientTape


class Trace(Protocol):
    """What the eager layer asks of a trace in progress."""

    def read(self, variable: Any) -> Any: ...
    def assign(self, variable: Any, value: Any) -> None: ...
    def create_variable(self, make: Any, spec: Any) -> Any: ...
    def append(self, op: Any, operands: list[Any], attrs: dict[str, Any]) -> Any: ...
    def named(self, variable: Any) -> None: ...
    def converted(self, f: Any) -> Any: ...
    def checkpoint(self, run: Any) -> Any: ...
    def custom_gradient(self, f: Any, args: Any, kwargs: Any) -> Any: ...


class Activity:
    """What one thread is about."""

    __slots__ = ("levels", "tapes", "traces")

    def __init__(self) -> None:
        self.tapes: list[GradientTape] = []
        self.traces: list[Trace] = []
        self.levels: list[Any] = []  # of `hybridml.eager.vmap`, the innermost last


class ThreadState(threading.local):
    """`state.now` is this thread's, looked up in storage of the thread: where microseconds count, one look serves several questions."""

    def __init__(self) -> None:
        self.now = Activity()


state = ThreadState()


def traced_form(f: Any) -> Any:
    """A user's function as the open trace wants it, its control flow converted; outside of traces, the function itself.

    For code that is not converted itself and calls functions of its users: libraries, layers.

    >>> import hybridml as hml
    >>> def f(x):
    ...     return x if x > 0 else -x
    >>> hml.traced_form(f) is f
    True
    >>> float(hml.function(lambda x: hml.traced_form(f)(x))(hml.asarray(-2.0)))
    2.0
    """
    return state.now.traces[-1].converted(f) if state.now.traces else f


def inside_function() -> bool:
    """True while a `@hml.function` is being traced in this thread. (The name is TensorFlow's.)

    >>> import hybridml as hml
    >>> seen = []
    >>> f = hml.function(lambda x: (seen.append(hml.inside_function()), x)[1])
    >>> y = f(hml.ones(2))
    >>> seen, hml.inside_function()
    ([True], False)
    """
    return bool(state.now.traces)


@contextmanager
def init_scope() -> Iterator[None]:
    """As if nothing were going on around: no tape records and no trace is written. (The name is TensorFlow's.)

    Variables made inside belong to whoever makes them, and not to a function being traced: for objects that make their state at
    first use and know for themselves whether they have it.

    >>> import hybridml as hml
    >>> class Counter:
    ...     n = None
    ...     def __call__(self):
    ...         if self.n is None:
    ...             with hml.init_scope():
    ...                 self.n = hml.Variable(0)
    ...         self.n.assign_add(1)
    ...         return self.n * 1
    >>> first, second = Counter(), Counter()
    >>> f = hml.function(lambda c: c())
    >>> int(f(first)), int(f(second)), int(f(second))
    (1, 1, 2)
    """
    now = state.now
    saved = now.tapes, now.traces, now.levels
    now.tapes, now.traces, now.levels = [], [], []
    try:
        yield
    finally:
        now.tapes, now.traces, now.levels = saved
