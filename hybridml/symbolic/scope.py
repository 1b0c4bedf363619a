"""The sizes of one trace, and the guards: what was decided by their present values and must hold for a size to share the trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hybridml.errors import SourceLine, located, user_line
from hybridml.symbolic.polynomial import Polynomial, Symbol, atom, constant, renewed

NAMES = "nmkpqrstuvw"


@dataclass(frozen=True)
class Guard:
    """`difference relation 0` came out as `outcome`, and whoever asked went on from there."""

    relation: str  # "==", "<" or "<="
    difference: Any  # a polynomial, or a real number of sizes
    outcome: bool
    text: str
    line: SourceLine | None
    pins: bool = False  # a Python number was asked for: another size would be asked again

    def holds(self, values: Mapping[Symbol, int]) -> bool:
        return compare(self.relation, self.difference.evaluate(values)) is self.outcome

    def __str__(self) -> str:
        return located(self.text, self.line)


def compare(relation: str, difference: Any) -> bool:
    if relation == "==":
        return bool(difference == 0)
    return bool(difference < 0) if relation == "<" else bool(difference <= 0)


class Guards:
    """Guards in the order in which they came up, those of an earlier stage first; what is equal is known to be."""

    def __init__(self, before: Guards | None = None) -> None:
        self.before = before
        self.own: dict[tuple[str, Any], Guard] = {}
        self.equal: dict[Symbol, Polynomial] = dict(before.equal) if before is not None else {}

    def __iter__(self) -> Iterator[Guard]:
        if self.before is not None:
            yield from self.before
        yield from self.own.values()

    def find(self, key: tuple[str, Any]) -> Guard | None:
        return self.own.get(key) or (self.before.find(key) if self.before is not None else None)

    def add(self, key: tuple[str, Any], guard: Guard) -> None:
        self.own[key] = guard
        if guard.outcome and guard.relation == "==" and isinstance(guard.difference, Polynomial):
            solved = _solved(self.reduced(guard.difference))
            if solved is not None:
                self.equal[solved[0]] = solved[1]
                for s, p in self.equal.items():
                    self.equal[s] = renewed(p, self.equal.get)

    def reduced(self, p: Polynomial) -> Polynomial:
        """The polynomial with what is equal to something simpler replaced by that."""
        return renewed(p, self.equal.get) if self.equal else p

    def failing(self, values: Mapping[Symbol, int]) -> Guard | None:
        """The first guard that these sizes do not meet."""
        return next((g for g in self.own.values() if not g.holds(values)), None)

    def pinned(self, symbol: Symbol) -> bool:
        """True where only one size is allowed."""
        p = self.equal.get(symbol)
        return p is not None and p.constant is not None


def _solved(d: Polynomial) -> tuple[Symbol, Polynomial] | None:
    """d == 0 as symbol == polynomial, for a symbol that appears once, alone: the last one by name."""
    for m, c in sorted(d.terms.items(), key=lambda t: [a.text for a in t[0]], reverse=True):
        if len(m) != 1 or not isinstance(m[0], Symbol):
            continue
        rest = d - Polynomial({m: c})
        if m[0] in rest.symbols or any(k % c for k in rest.terms.values()):
            continue
        return m[0], Polynomial({n: -k // c for n, k in rest.terms.items()})
    return None


class Scope:
    """Where the sizes of one trace live. Decisions need an open stage: `with scope.deciding(guards): ...`.

    `hints` are the sizes of the call that is being traced: a comparison that no algebra settles is answered by them, and recorded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.symbols: list[Symbol] = []
        self.hints: dict[Symbol, int] = {}
        self.guards: Guards | None = None
        self._lock = threading.RLock()

    def symbol(self, hint: int) -> Symbol:
        """One more size, at least 2, with the value it has now."""
        k = len(self.symbols)
        s = Symbol(NAMES[k] if k < len(NAMES) else f"n{k}")
        self.symbols.append(s)
        self.hints[s] = hint
        return s

    def values(self, sizes: Sequence[Any]) -> dict[Symbol, Any]:
        return dict(zip(self.symbols, sizes, strict=True))

    @contextmanager
    def deciding(self, guards: Guards, hints: Mapping[Symbol, int] | None = None) -> Iterator[Guards]:
        """Decisions inside are recorded in `guards`, and made for the sizes in `hints` (default: as before)."""
        with self._lock:
            saved = self.guards, self.hints
            self.guards, self.hints = guards, dict(self.hints if hints is None else hints)
            try:
                yield guards
            finally:
                self.guards, self.hints = saved

    def decide(self, relation: str, difference: Polynomial, text: str) -> bool:
        """Whether `difference relation 0`: by algebra, by an earlier decision, or by the hints."""
        settled = _settled(relation, difference)
        if settled is not None:
            return settled
        guards = self._open()
        difference = guards.reduced(difference)
        settled = _settled(relation, difference)
        if settled is not None:
            return settled
        return self.ask(relation, difference, text)

    def ask(self, relation: str, difference: Any, text: str) -> bool:
        guards = self._open()
        key = (relation, difference)
        known = guards.find(key)
        if known is not None:
            return known.outcome
        outcome = compare(relation, difference.evaluate(self.hints))
        guards.add(key, Guard(relation, difference, outcome, text if outcome else f"not {text}", user_line()))
        return outcome

    def pin(self, p: Polynomial, what: str) -> int:
        """The present value, for somebody who needs a Python number: the sizes in it are fixed from now on."""
        guards = self._open()
        for s in sorted(p.symbols, key=lambda s: s.text):
            difference = guards.reduced(atom(s) - constant(self.hints[s]))
            if difference.terms:
                text = f"{s.text} == {self.hints[s]} ({what} was asked of {p})"
                guards.add(
                    ("==", difference),
                    Guard("==", atom(s) - constant(self.hints[s]), True, text, user_line(), pins=True),
                )
        return int(p.evaluate(self.hints))

    def _open(self) -> Guards:
        """Where decisions go. Sizes that a user kept when the trace had ended are what they were then, as all that Python keeps of it."""
        return Guards() if self.guards is None else self.guards


def _settled(relation: str, d: Polynomial) -> bool | None:
    """The answer where it is the same for all sizes."""
    low, high = d.low, d.high
    if relation == "==":
        if not d.terms:
            return True
        return False if (low is not None and low > 0) or (high is not None and high < 0) else None
    if relation == "<":
        if high is not None and high < 0:
            return True
        return False if low is not None and low >= 0 else None
    if high is not None and high <= 0:
        return True
    return False if low is not None and low > 0 else None
