"""What a function remembers of its calls for the sake of its users: why it was traced again, and which values it froze."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from hybridml.errors import ChangedValueWarning, RetraceWarning, user_line, user_stacklevel
from hybridml.symbolic import Guard
from hybridml.trace.guard import Trace
from hybridml.trace.signature import Binder, CallKey, difference

WARN_AFTER = 4  # retraces for the same cause


class History:
    """The retraces of one function by cause, and what was said about them: everything is said once."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._causes: dict[str, list[tuple[str, str, str]]] = {}
        self._said: set[str] = set()
        self._notes: dict[str, None] = {}  # what was found out about sizes, in order

    def note_retrace(self, old: CallKey, new: CallKey, binder: Binder) -> None:
        """Remember why a call with this key is traced; warn when one cause has come up too often."""
        found = difference(old, new, binder)
        if found is None:
            return
        what, before, after, cure = found
        seen = self._causes.setdefault(what, [])
        seen.append((before, after, cure))
        if len(seen) >= WARN_AFTER:
            self._say(
                what,
                f"@hml.function `{self._name}` was traced {len(seen)} times more because {what} changed, "
                f"last from {before} to {after}. To trace once: {cure}.",
                RetraceWarning,
            )

    def note_general(self, axes: Sequence[tuple[str, int]]) -> None:
        """Remember that a trace takes all sizes of these dimensions."""
        for what, axis in axes:
            self._notes.setdefault(f"{what}, axis {axis}, varies: one trace takes all sizes from 2 on.")

    def note_fixed(self, what: str, axis: int, guard: Guard) -> None:
        """Remember that the function needs the size of a dimension, and where."""
        self._notes.setdefault(f"{what}, axis {axis}: each size has a trace of its own, because {guard}")

    def note_refusal(self, guard: Guard) -> None:
        """Remember what a trace for all sizes was traced for and a call did not meet."""
        self._notes.setdefault(
            f"a size was traced for itself, because an earlier trace holds only where {guard}"
        )

    def notice(self, trace: Trace) -> None:
        """Warn about Python values that the trace read and that are others now."""
        changed = [r for r in trace.reads if r.changed]
        if not changed:
            return
        trace.reads = tuple([r for r in trace.reads if r not in changed])
        for r in changed:
            self._say(
                f"value {r.name}",
                f"`{r.name}` was {r.value!r} when @hml.function `{self._name}` was traced and is {r.now()!r} now; "
                f"calls go on with {r.value!r}. Pass it as an argument, or keep it in an hml.Variable.",
                ChangedValueWarning,
            )

    def _say(self, subject: str, message: str, category: type[Warning]) -> None:
        if subject in self._said:
            return
        self._said.add(subject)
        where = user_line()
        warnings.warn(message + (f"\n  at {where}" if where else ""), category, stacklevel=user_stacklevel())

    def explain(self, traces: int) -> str:
        """Which arguments made new traces, from what to what, and the one-line cure of each."""
        if not self._causes and not self._notes:
            return f"`{self._name}` has {traces} trace(s) and was never traced again for another signature."
        lines = [f"`{self._name}` has {traces} traces:"]
        for what, seen in self._causes.items():
            before, after, cure = seen[-1]
            lines.append(
                f"  {what} changed {len(seen)} time(s), last from {before} to {after}. Cure: {cure}."
            )
        return "\n".join(lines + [f"  {note}" for note in self._notes])
