"""What is going on in this thread: which tapes record, which trace, if any, is being written, and which `vmap`s are under way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from hybridml.eager.tape import GradientTape


class Trace(Protocol):
    """What the eager layer asks of a trace in progress."""

    def read(self, variable: Any) -> Any: ...
    def assign(self, variable: Any, value: Any) -> None: ...
    def create_variable(self, make: Any) -> Any: ...
    def append(self, op: Any, operands: list[Any], attrs: dict[str, Any]) -> Any: ...
    def checkpoint(self, run: Any) -> Any: ...
    def custom_gradient(self, f: Any, args: Any, kwargs: Any) -> Any: ...


class ThreadState(threading.local):
    def __init__(self) -> None:
        self.tapes: list[GradientTape] = []
        self.traces: list[Trace] = []
        self.levels: list[Any] = []  # of `hybridml.eager.vmap`, the innermost last


state = ThreadState()
