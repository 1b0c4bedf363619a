"""The traces that a function used last, and the shortest ways into them.

Native code looks whether a call's arguments fit the last one (`fast`, `named`). If they do not, the few before it are asked, as calls with
other shapes or another flag often come in turns. The first calls, and arguments that native code does not recognise, are looked at here;
only where they do not fit either does the function build a key and look for another trace.
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
FEW = 4  # traces that are asked before a key is built

NamedWay = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def _no_fast_way(args: tuple[Any, ...]) -> Any:
    return NO_ANSWER


def _no_named_way(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return NO_ANSWER


class Recent:
    """A function's last traces, the last one first. `fast` answers calls by position and `named` those by name, if they fit that one and
    there is a native way into it; `answer` all that fit one of them."""

    __slots__ = ("_binder", "_entrances", "_history", "_hits", "fast", "key", "named")

    def __init__(self, binder: Binder, history: History, hits: array[int]) -> None:
        self._binder, self._history, self._hits = binder, history, hits
        self.key: CallKey | None = None  # of the last call's trace
        self.clear()

    @property
    def trace(self) -> Trace | None:
        """The last one."""
        return self._entrances[0].trace if self._entrances else None

    @property
    def traces(self) -> list[Trace]:
        """Those at hand, the last one first."""
        return [e.trace for e in self._entrances]

    def clear(self) -> None:
        """Forget the traces, so that nothing keeps one alive that is dropped."""
        self._entrances: list[_Entrance] = []
        self.fast: FastWay = _no_fast_way
        self.named: NamedWay = _no_named_way

    def use(self, trace: Trace, key: CallKey) -> None:
        """This one is the last. Of those that are for certain variables among the arguments, which they keep alive, one is remembered."""
        known = [e for e in self._entrances if e.trace is trace]
        others = [e for e in self._entrances if e.trace is not trace and not e.trace.places]
        new = known or [_Entrance(trace, key, self._binder, self._history, self._hits)]
        self._begin_with([*new, *others[: FEW - 1]])

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns, or NO_ANSWER; it makes the way for the calls that follow."""
        entrances = self._entrances
        for e in entrances[1:]:
            found = e.named(args, kwargs) if kwargs else e.fast(args)
            if found is not NO_ANSWER:
                self._begin_with([e, *[other for other in entrances if other is not e]])
                return found
        simple = not kwargs and len(args) == self._binder.simple
        given = args if simple else self._binder.positional(args, kwargs)
        if given is None:
            return NO_ANSWER
        for e in entrances:
            found = e.answer(given, len(args), kwargs, is_last=e is entrances[0])
            if found is not NO_ANSWER:
                self._begin_with([e, *[other for other in entrances if other is not e]])
                return found
        return NO_ANSWER

    def _begin_with(self, entrances: list[_Entrance]) -> None:
        first = entrances[0]
        self._entrances = entrances
        self.fast, self.named, self.key = first.fast, first.named, first.key


class _Entrance:
    """The ways into one trace."""

    __slots__ = ("_binder", "_history", "_hits", "_n", "_names", "fast", "key", "named", "trace")

    def __init__(
        self, trace: Trace, key: CallKey, binder: Binder, history: History, hits: array[int]
    ) -> None:
        self.trace, self.key, self._binder, self._history, self._hits = trace, key, binder, history, hits
        self.fast: FastWay = _no_fast_way
        self._n = -1  # of how many arguments the calls are that it is for
        self.named: NamedWay = _no_named_way
        self._names: tuple[int, Collection[str]] = (-1, ())  # likewise, and which come by name

    def answer(self, given: tuple[Any, ...], n: int, kwargs: dict[str, Any], is_last: bool) -> Any:
        """What the function returns if the call fits the trace. Only of the last one Python code looks at what native code did not take.

        `given` are all arguments by position, of which the first n came so, and those in `kwargs` by name.
        """
        trace = self.trace
        tried = (n, kwargs.keys()) == self._names if kwargs else n == self._n
        if tried and not is_last:
            return NO_ANSWER
        found = trace.answer(given, tried)
        if found is not NO_ANSWER:
            self._notice(trace)
            if trace.fast is not None and not tried:
                if kwargs:
                    names = frozenset(kwargs)
                    self._names, self.named = (n, names), self._named_way(trace.fast, trace, n, names)
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
