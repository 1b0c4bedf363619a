"""The trace that a function used last, and the shortest way into it.

Native code looks whether a call's arguments fit it (`fast`). The first calls, calls by name, and arguments that native code does not
recognise are looked at here; only where they do not fit either does the function build a key and look for another trace.
"""

from __future__ import annotations

from array import array
from typing import Any

from hybridml.kernels.recognise import NO_ANSWER
from hybridml.trace.entry import FastWay
from hybridml.trace.guard import Trace
from hybridml.trace.history import History
from hybridml.trace.signature import Binder, CallKey

EVERY = 32  # calls between two looks at the Python values that a trace read


def _no_fast_way(args: tuple[Any, ...]) -> Any:
    return NO_ANSWER


class Recent:
    """A function's last trace. `fast` answers calls by position, once there is a native way into it; `answer` all that fit."""

    __slots__ = ("_binder", "_history", "_hits", "_n", "fast", "key", "trace")

    def __init__(self, binder: Binder, history: History, hits: array[int]) -> None:
        self._binder, self._history, self._hits = binder, history, hits
        self.trace: Trace | None = None
        self.key: CallKey | None = None
        self.fast: FastWay = _no_fast_way
        self._n = -1  # of how many arguments the calls are that it is for

    def use(self, trace: Trace, key: CallKey) -> None:
        self.trace, self.key, self.fast, self._n = trace, key, _no_fast_way, -1

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns, or NO_ANSWER; it makes the way for the calls that follow."""
        trace = self.trace
        if trace is None:
            return NO_ANSWER
        simple = not kwargs and len(args) == self._binder.simple
        given = args if simple else self._binder.positional(args, kwargs)
        tried = not kwargs and len(args) == self._n
        found = NO_ANSWER if given is None else trace.answer(given, tried)
        if found is not NO_ANSWER:
            self._notice(trace)
            if not (kwargs or tried or trace.fast is None) and given is not None:
                self._n = len(args)
                self.fast = self._way(trace.fast, trace, given[self._n :])
        return found

    def _notice(self, trace: Trace) -> None:
        """Now and then look at the Python values that the trace read."""
        if trace.reads and (self._hits[0] < EVERY or not self._hits[0] % EVERY):
            self._history.notice(trace)

    def _way(self, fast: FastWay, trace: Trace, defaults: tuple[Any, ...]) -> FastWay:
        """The trace's fast way, with that where it is needed, for calls that leave these defaults out."""
        notice, n = self._notice, self._n
        if not defaults and not trace.reads:
            return fast

        def answer(args: tuple[Any, ...]) -> Any:
            if len(args) != n:
                return NO_ANSWER
            found = fast(args + defaults)
            if found is not NO_ANSWER:
                notice(trace)
            return found

        return answer
