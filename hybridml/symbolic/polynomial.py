"""Integer polynomials over named sizes, in a normal form: equal polynomials are equal objects' worth of terms.

A floor-division or remainder that does not come out is an atom of its own. Every symbol has a least value, so that many comparisons
are settled whatever the sizes: substituting `n = n' + low` makes the sign of a polynomial whose coefficients agree plain.
(jax.export decides inequalities over its symbolic dimensions by bounds too; PyTorch's SymInt asks SymPy.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union


@dataclass(frozen=True, eq=False)
class Symbol:
    """A size by name, known by identity, at least `low`."""

    text: str
    low: int = 2

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        return values[self]

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Division:
    """`a // b` or `a % b` where it has no simpler form."""

    kind: str
    a: Polynomial
    b: Polynomial

    @property
    def text(self) -> str:
        return f"({_bracketed(self.a)} {self.kind} {_bracketed(self.b)})"

    @property
    def low(self) -> int | None:
        if self.kind == "%":
            return 0 if (self.b.low or 0) > 0 else None
        low, by = self.a.low, self.b.constant
        if low is None or (by is None and low < 0) or (self.b.low or 0) < 1:
            return None
        return 0 if by is None else low // by

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        a, b = self.a.evaluate(values), self.b.evaluate(values)
        return a // b if self.kind == "//" else a % b


Atom = Union[Symbol, Division]  # noqa: UP007  # the classes refer to each other before either is complete
Monomial = tuple[Atom, ...]  # in the order of their texts; a square holds its atom twice


def _bracketed(p: Polynomial) -> str:
    return f"({p})" if len(p.terms) > 1 else str(p)


class Polynomial:
    """Coefficients by monomial, none of them 0."""

    __slots__ = ("_bounds", "_hash", "terms")

    def __init__(self, terms: dict[Monomial, int]) -> None:
        self.terms = terms
        self._hash: int | None = None
        self._bounds: tuple[int | None, int | None] | None = None

    # arithmetic

    def __add__(self, other: Polynomial) -> Polynomial:
        return self.plus(other, 1)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self.plus(other, -1)

    def plus(self, other: Polynomial, times: int) -> Polynomial:
        terms = dict(self.terms)
        for m, c in other.terms.items():
            total = terms.get(m, 0) + times * c
            if total:
                terms[m] = total
            else:
                terms.pop(m, None)
        return Polynomial(terms)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, int] = {}
        for m, c in self.terms.items():
            for n, d in other.terms.items():
                both = tuple(sorted((*m, *n), key=_text)) if m and n else m or n
                total = terms.get(both, 0) + c * d
                if total:
                    terms[both] = total
                else:
                    terms.pop(both, None)
        return Polynomial(terms)

    def __neg__(self) -> Polynomial:
        return Polynomial({m: -c for m, c in self.terms.items()})

    def __floordiv__(self, other: Polynomial) -> Polynomial:
        quotient, rest = self._divided(other)
        if _is_remainder(rest, other):
            return quotient
        shared = _shared([*rest.terms, *other.terms])
        return quotient + atom(Division("//", _cancelled(rest, shared), _cancelled(other, shared)))

    def __mod__(self, other: Polynomial) -> Polynomial:
        rest = self._divided(other)[1]
        return rest if _is_remainder(rest, other) else atom(Division("%", rest, other))

    def _divided(self, by: Polynomial) -> tuple[Polynomial, Polynomial]:
        """(quotient, rest) with self == quotient * by + rest, the rest as small as long division makes it."""
        if not by.terms:
            raise ZeroDivisionError("integer division or modulo by zero")
        number = by.constant
        if number is not None:
            quotient = Polynomial({m: c // number for m, c in self.terms.items() if c // number})
            return quotient, Polynomial({m: c % number for m, c in self.terms.items() if c % number})
        lead = max(by.terms, key=lambda m: (len(m), [a.text for a in m]))
        quotient, rest, done = ZERO, self, False
        while not done:
            done = True
            for m, c in rest.terms.items():
                left = _without(m, lead)
                if left is not None and c % by.terms[lead] == 0:
                    step = Polynomial({left: c // by.terms[lead]})
                    quotient, rest, done = quotient + step, rest - step * by, False
                    break
        return quotient, rest

    # facts

    @property
    def constant(self) -> int | None:
        """The value, where it does not depend on any size."""
        if not self.terms:
            return 0
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def low(self) -> int | None:
        """A value that it is never below, if one is known."""
        return self._bounded()[0]

    @property
    def high(self) -> int | None:
        """A value that it is never above, if one is known."""
        return self._bounded()[1]

    def _bounded(self) -> tuple[int | None, int | None]:
        if self._bounds is None:
            shifted = self._shifted()
            low = high = None
            if shifted is not None:
                rest = [c for m, c in shifted.items() if m]
                if all(c >= 0 for c in rest):
                    low = shifted.get((), 0)
                if all(c <= 0 for c in rest):
                    high = shifted.get((), 0)
            self._bounds = (low, high)
        return self._bounds

    def _shifted(self) -> dict[Monomial, int] | None:
        """Coefficients over what each atom is above its least value; None where one has none."""
        found: dict[Monomial, int] = {}
        for m, c in self.terms.items():
            parts: dict[Monomial, int] = {(): c}
            for a in m:
                low = a.low
                if low is None:
                    return None
                more: dict[Monomial, int] = {}
                for n, d in parts.items():
                    more[(*n, a)] = more.get((*n, a), 0) + d
                    more[n] = more.get(n, 0) + d * low
                parts = more
            for n, d in parts.items():
                n = tuple(sorted(n, key=_text))
                found[n] = found.get(n, 0) + d
        return found

    @property
    def symbols(self) -> set[Symbol]:
        found: set[Symbol] = set()
        for m in self.terms:
            for a in m:
                found |= {a} if isinstance(a, Symbol) else a.a.symbols | a.b.symbols
        return found

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        """The value for these sizes (numbers, or anything with the arithmetic of integers)."""
        total: Any = 0
        for m, c in self.terms.items():
            for a in m:
                c = a.evaluate(values) * c
            total = total + c
        return total

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __str__(self) -> str:
        parts = []
        for m, c in sorted(self.terms.items(), key=lambda t: (-len(t[0]), [a.text for a in t[0]])):
            factors = "*".join(a.text for a in m)
            size = factors if abs(c) == 1 and m else f"{abs(c)}*{factors}" if m else str(abs(c))
            parts.append(("- " if c < 0 else "+ ") + size)
        text = " ".join(parts) or "0"
        return text[2:] if text.startswith("+ ") else text.replace("- ", "-", 1)


def _text(a: Atom) -> str:
    return a.text


def _without(m: Monomial, factor: Monomial) -> Monomial | None:
    """The monomial divided by another, or None."""
    left = list(m)
    for a in factor:
        if a not in left:
            return None
        left.remove(a)
    return tuple(left)


def _shared(monomials: list[Monomial]) -> Monomial:
    """The largest monomial that divides all of these."""
    found: list[Atom] = []
    for a in monomials[0]:
        if all(_without(m, (*found, a)) is not None for m in monomials):
            found.append(a)
    return tuple(found)


def _cancelled(p: Polynomial, factor: Monomial) -> Polynomial:
    return Polynomial({_without(m, factor) or (): c for m, c in p.terms.items()}) if factor else p


def _is_remainder(rest: Polynomial, by: Polynomial) -> bool:
    """True if 0 <= rest < by whatever the sizes."""
    if not rest.terms:
        return True
    return (rest.low or -1) >= 0 and ((by - rest).low or 0) > 0


ZERO = Polynomial({})


def constant(value: int) -> Polynomial:
    return Polynomial({(): value}) if value else ZERO


def atom(a: Atom) -> Polynomial:
    return Polynomial({(a,): 1})


def renewed(p: Polynomial, new: Callable[[Symbol], Polynomial | None]) -> Polynomial:
    """The polynomial with some symbols replaced."""
    return _Renewal(new).of(p)


class _Renewal:
    def __init__(self, new: Callable[[Symbol], Polynomial | None]) -> None:
        self._new = new

    def of(self, p: Polynomial) -> Polynomial:
        total = ZERO
        for m, c in p.terms.items():
            term = constant(c)
            for a in m:
                term = term * self._atom(a)
            total = total + term
        return total

    def _atom(self, a: Atom) -> Polynomial:
        if isinstance(a, Symbol):
            return self._new(a) or atom(a)
        x, y = self.of(a.a), self.of(a.b)
        return x // y if a.kind == "//" else x % y
