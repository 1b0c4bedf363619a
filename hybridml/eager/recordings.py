"""What was recorded, by kind of call: the first call of a kind is noted, the second is recorded, those that follow are played."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml.eager.recorder import Unrecordable
from hybridml.errors import HybridMLError

MOST = 1024  # kinds that are kept; the oldest give way
LONGEST = 64  # elements of a list or tuple: a longer one is data, and no part of a kind
_NOTED, _NEVER = (
    0,
    False,
)  # a kind that came once, and one that cannot be recorded: both false, as nothing is there to play


class Odd(Exception):  # the call runs as it is written
    """An argument that makes no key."""


class Recordings:
    """A table from kinds of calls to what plays them; a kind is a tuple that says all that the steps depend on."""

    def __init__(self) -> None:
        self.known: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def note(self, kind: tuple[Any, ...], make: Callable[[], Any]) -> None:
        """A call of a kind that has nothing to play was made; `make` records it, or raises Unrecordable."""
        found = self.known.get(kind)
        if found is None:
            with self._lock:
                if len(self.known) >= MOST:
                    self.known.pop(next(iter(self.known)))
                self.known[kind] = _NOTED
        elif found is not _NEVER:
            self.known[kind] = _NEVER  # so it stays if recording fails
            try:
                self.known[kind] = make()
            except (Unrecordable, HybridMLError):
                pass


def key_of(x: Any) -> Any:
    """A part of a kind for an argument that is no tensor: equal for arguments that mean the same, and only for them."""
    cls = type(x)
    if cls is int or cls is bool or cls is str or x is None or x is Ellipsis:
        return cls, x
    if cls is float:
        return cls, x.hex()  # 0.0 == -0.0, and NaN != NaN
    if isinstance(x, np.dtype):
        return x
    if (cls is tuple or cls is list) and len(x) <= LONGEST:
        return (cls, *[key_of(part) for part in x])
    if cls is slice:
        return cls, key_of(x.start), key_of(x.stop), key_of(x.step)
    raise Odd
