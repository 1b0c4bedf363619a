"""The trace that a function used last, and the shortest way into it.

Native code looks whether a call's arguments fit it (`fast`). The first calls, calls by name, and arguments that native code does not
recognise are looked at here; only where they do not fit either does the function build a key and look for another trace.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection
from typing import Any

from hybridml.kernels.recognise import NO_ANSWER
from hybridml.trace.entry import FastWay
from hybridml.trace.guard import Trace
from hybridml.trace.history import History
from hybridml.trace.signature import Binder, CallKey

EVERY = 32  # calls between two looks at the Python values that a trace read


NamedWay = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def _no_fast_way(args: tuple[Any, ...]) -> Any:
    return NO_ANSWER


def _no_named_way(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NO_ANSWER


class Recent:
    """A function's last trace. `fast` answers calls by position and `named` those by name, once there is a native way into it; `answer` all
    that fit."""

    __slots__ = ("_binder", "_history", "_hits", "_n", "_names", "fast", "key", "named", "trace")

    def __init__(self, binder: Binder, history: History, hits: array[int]) -> None:
        self._binder, self._history, self._hits = binder, history, hits
        self.trace: Trace | None = None
        self.key: CallKey | None = None
        self._forget_ways()

    def _forget_ways(self) -> None:
        self.fast: FastWay = _no_fast_way
        self._n = -1  # of how many arguments the calls are that it is for
        self.named: NamedWay = _no_named_way
        self._names: tuple[int, Collection[str]] = (-1, ())  # likewise, and which come by name

    def use(self, trace: Trace, key: CallKey) -> None:
        self.trace, self.key = trace, key
        self._forget_ways()

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns, or NO_ANSWER; it makes the way for the calls that follow."""
        trace, n = self.trace, len(args)
        if trace is None:
            return NO_ANSWER
        given = args if not kwargs and n == self._binder.simple else self._binder.positional(args, kwargs)
        if given is None:
            return NO_ANSWER
        tried = (n, kwargs.keys()) == self._names if kwargs else n == self._n
        found = trace.answer(given, tried)
        if found is not NO_ANSWER:
            self._notice(trace)
            if trace.fast is not None and not tried:
                if kwargs:
                    self._names, self.named = (
                        (n, frozenset(kwargs)),
                        self._named_way(trace.fast, trace, n, frozenset(kwargs)),
                    )
                else:
                    self._n, self.fast = n, self._way(trace.fast, trace, n, given[n:])
        return found

    def _notice(self, trace: Trace) -> None:
        """Now and then look at the Python values that the trace read."""
        if trace.reads and (self._hits[0] < EVERY or not self._hits[0] % EVERY):
            self._history.notice(trace)

    def _way(self, fast: FastWay, trace: Trace, n: int, defaults: tuple[Any, ...]) -> FastWay:
        """The trace's fast way, with that where it is needed, for calls that leave these defaults out."""
        notice = self._notice
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

    def _named_way(self, fast: FastWay, trace: Trace, n: int, names: Collection[str]) -> NamedWay:
        """The trace's fast way for calls with so many arguments by position and these by name."""
        notice, count, reads = self._notice, len(names), bool(trace.reads)
        put = self._binder.positional_of(n, names)
        assert put is not None, "such a call was put into order"

        def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if len(args) != n or len(kwargs) != count:
                return NO_ANSWER
            try:
                given = put(args, kwargs)
            except KeyError:  # as many other names
                return NO_ANSWER
            found = fast(given)
            if reads and found is not NO_ANSWER:
                notice(trace)
            return found

        return answer
