"""A size as an expression: `Dim` for whole numbers, `Real` for what division and floats make of it.

A Dim is no int: C code such as `range` would use the number behind it in silence. Where somebody needs a Python number, it gives the
one of the present trace, and the trace is then good for that size alone (the idea of PyTorch's SymInt and its guards).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hybridml.symbolic.polynomial import Polynomial, Symbol, atom, constant
from hybridml.symbolic.scope import Scope, compare


class Sized:
    """What Dim and Real share: comparisons that are decided, and Python numbers that pin."""

    __slots__ = ("scope",)
    scope: Scope

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        """The value for these sizes."""
        raise NotImplementedError

    def _decide(self, relation: str, other: Any, text: str) -> bool:
        raise NotImplementedError

    def __lt__(self, other: Any) -> Any:
        return self._decide("<", other, f"{self} < {other}") if _is_number(other) else NotImplemented

    def __le__(self, other: Any) -> Any:
        return self._decide("<=", other, f"{self} <= {other}") if _is_number(other) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        return not self._decide("<=", other, f"{self} <= {other}") if _is_number(other) else NotImplemented

    def __ge__(self, other: Any) -> Any:
        return not self._decide("<", other, f"{self} < {other}") if _is_number(other) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not _is_number(other):
            return False
        return self._decide("==", other, f"{self} == {other}")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return not self._decide("==", 0, f"{self} == 0")

    def __hash__(self) -> int:
        raise NotImplementedError


class Dim(Sized):
    """A whole number that depends on sizes. Arithmetic gives Dims, or ints where the sizes cancel.

    >>> scope = Scope("f")
    >>> n = Dim(atom(scope.symbol(5)), scope)
    >>> n * 3 + n, (n * 6) // 3 - 2 * n, n >= 2
    (4*n, 0, True)
    """

    __slots__ = ("polynomial",)

    def __init__(self, polynomial: Polynomial, scope: Scope) -> None:
        self.polynomial, self.scope = polynomial, scope

    @property
    def hint(self) -> int:
        """Its value in the present trace. No guard: for estimates that change no result."""
        return int(self.polynomial.evaluate(self.scope.hints))

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        return self.polynomial.evaluate(values)

    def _decide(self, relation: str, other: Any, text: str) -> bool:
        if isinstance(other, Dim):
            return self.scope.decide(relation, self.polynomial - other.polynomial, text)
        if isinstance(other, (int, np.integer)):
            return self.scope.decide(relation, self.polynomial - constant(int(other)), text)
        return Real(operator.sub, (self, other))._decide(relation, 0, text)

    def __hash__(self) -> int:
        return hash(self.polynomial)

    def __repr__(self) -> str:
        return str(self.polynomial)

    # arithmetic

    def _with(self, other: Any, f: Callable[[Any, Any], Any], swapped: bool = False) -> Any:
        if isinstance(other, Dim):
            p = other.polynomial
        elif isinstance(other, (int, np.integer)):
            p = constant(int(other))
        elif _is_number(other):
            return Real(f, (other, self) if swapped else (self, other))
        else:
            return NotImplemented
        found = f(p, self.polynomial) if swapped else f(self.polynomial, p)
        number = found.constant
        return Dim(found, self.scope) if number is None else number

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, operator.sub, swapped=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._with(other, operator.floordiv, swapped=True)

    def __mod__(self, other: Any) -> Any:
        return self._with(other, operator.mod)

    def __rmod__(self, other: Any) -> Any:
        return self._with(other, operator.mod, swapped=True)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __truediv__(self, other: Any) -> Any:
        return Real(operator.truediv, (self, other)) if _is_number(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Any:
        return Real(operator.truediv, (other, self)) if _is_number(other) else NotImplemented

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)) and other >= 0:
            result: Any = 1
            for _ in range(int(other)):
                result = self * result
            return result
        return Real(operator.pow, (self, other)) if _is_number(other) else NotImplemented

    def __rpow__(self, other: Any) -> Any:
        return Real(operator.pow, (other, self)) if _is_number(other) else NotImplemented

    def __neg__(self) -> Dim:
        return Dim(-self.polynomial, self.scope)

    def __pos__(self) -> Dim:
        return self

    def __abs__(self) -> Dim:
        return self if self >= 0 else -self

    # Python numbers

    def __index__(self) -> int:
        return self.scope.pin(self.polynomial, "a Python int")

    __int__ = __index__
    __trunc__ = __index__

    def __float__(self) -> float:
        return float(self.scope.pin(self.polynomial, "a Python float"))

    def __round__(self, digits: int | None = None) -> Dim:
        return self


class Real(Sized):
    """A real number that depends on sizes: an operator and what it is applied to."""

    __slots__ = ("args", "f")

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.f, self.args = f, args
        self.scope = next(x.scope for x in args if isinstance(x, Sized))

    @property
    def hint(self) -> float:
        """Its value in the present trace. No guard: for estimates that change no result."""
        return float(self.evaluate(self.scope.hints))

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        return self.f(*[x.evaluate(values) if isinstance(x, Sized) else x for x in self.args])

    def _decide(self, relation: str, other: Any, text: str) -> bool:
        if isinstance(other, Real) and (self.f, self.args) == (other.f, other.args):
            return compare(relation, 0)
        difference = (
            self if other == 0 and not isinstance(other, Sized) else Real(operator.sub, (self, other))
        )
        return self.scope.ask(relation, _Text(difference), text)

    def __hash__(self) -> int:
        return hash((self.f, self.args))

    def __repr__(self) -> str:
        sign = _SIGNS.get(self.f)
        if sign is None or len(self.args) != 2:
            return f"{self.f.__name__}({', '.join(map(repr, self.args))})"
        return f"({self.args[0]!r} {sign} {self.args[1]!r})"

    def _with(self, other: Any, f: Callable[[Any, Any], Any], swapped: bool = False) -> Any:
        if not _is_number(other):
            return NotImplemented
        return Real(f, (other, self) if swapped else (self, other))

    def __add__(self, other: Any) -> Any:
        return self._with(other, operator.add)

    def __radd__(self, other: Any) -> Any:
        return self._with(other, operator.add, swapped=True)

    def __sub__(self, other: Any) -> Any:
        return self._with(other, operator.sub)

    def __rsub__(self, other: Any) -> Any:
        return self._with(other, operator.sub, swapped=True)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, operator.mul)

    def __rmul__(self, other: Any) -> Any:
        return self._with(other, operator.mul, swapped=True)

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, operator.truediv)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(other, operator.truediv, swapped=True)

    def __pow__(self, other: Any) -> Any:
        return self._with(other, operator.pow)

    def __rpow__(self, other: Any) -> Any:
        return self._with(other, operator.pow, swapped=True)

    def __neg__(self) -> Real:
        return Real(operator.neg, (self,))

    def __abs__(self) -> Real:
        return Real(operator.abs, (self,))

    def __float__(self) -> float:
        for s in _symbols(self):
            self.scope.pin(atom(s), "a Python float")
        return self.hint

    def __int__(self) -> int:
        return int(float(self))


class _Text:
    """A real number as a difference to be remembered: known by its text."""

    def __init__(self, real: Real) -> None:
        self._real, self._text = real, repr(real)

    def evaluate(self, values: Mapping[Symbol, Any]) -> Any:
        return self._real.evaluate(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


_SIGNS: dict[Any, str] = {
    operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.pow: "**",
    operator.floordiv: "//", operator.mod: "%",
}  # fmt: skip


def _symbols(x: Sized) -> list[Symbol]:
    if isinstance(x, Dim):
        return sorted(x.polynomial.symbols, key=lambda s: s.text)
    assert isinstance(x, Real)
    return list(dict.fromkeys(s for a in x.args if isinstance(a, Sized) for s in _symbols(a)))


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, Sized, np.integer, np.floating))


def is_number(x: Any) -> bool:
    """True for a Python number and for one that depends on sizes."""
    return isinstance(x, (bool, int, float, Sized))


def dim(x: Any) -> Any:
    """A size as it is kept in shapes: an int, or a Dim as it is."""
    return x if isinstance(x, Dim) else int(x)


def hint(x: Any) -> Any:
    """A number as it is in the present trace, without a guard: for estimates that change no result."""
    return x.hint if isinstance(x, (Dim, Real)) else x


def has_dims(x: Any) -> bool:
    """True if a value, or a nest of tuples, lists, dicts and slices, holds a size that is not known."""
    if isinstance(x, (tuple, list)):
        return any(map(has_dims, x))
    if isinstance(x, dict):
        return any(map(has_dims, x.values()))
    if isinstance(x, slice):
        return has_dims((x.start, x.stop, x.step))
    return isinstance(x, Sized)


def substitute(x: Any, values: Mapping[Symbol, Any]) -> Any:
    """The same nest with the sizes put in."""
    if isinstance(x, Sized):
        return x.evaluate(values)
    if isinstance(x, (tuple, list)):
        found = [substitute(y, values) for y in x]
        return type(x)(*found) if hasattr(x, "_fields") else type(x)(found)
    if isinstance(x, dict):
        return {k: substitute(y, values) for k, y in x.items()}
    if isinstance(x, slice):
        return slice(*substitute((x.start, x.stop, x.step), values))
    return x
