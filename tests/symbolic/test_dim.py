"""Dims: arithmetic without guards, decisions by algebra or with a guard, Python numbers that pin."""

import operator

import numpy as np
import pytest

from hybridml.symbolic import Dim, Guards, Real, Scope, dim, has_dims, hint, substitute
from hybridml.symbolic.polynomial import atom
from hybridml.symbolic.slices import bounds, length


@pytest.fixture
def world():
    """(scope, guards, n, m): n is 6 and m is 6, decisions are open."""
    scope, guards = Scope("f"), Guards()
    n, m = (Dim(atom(scope.symbol(6)), scope) for _ in range(2))
    with scope.deciding(guards):
        yield scope, guards, n, m


def texts(guards):
    return [g.text for g in guards]


def test_algebra_needs_no_guard(world):
    _, guards, n, m = world
    assert n > 1 and n != 1 and not n == 0 and bool(n) and n * m >= 2 * m and n * 2 // 2 == n and n - n == 0
    assert 0 not in (n, m) and n + m == m + n and hash(n + m) == hash(m + n)
    assert type(n - n) is int and type(n * 6 // n) is int
    assert not texts(guards)


DECISIONS = {
    "equal sizes": (lambda n, m: n == m, True, "n == m"),
    "against a number": (lambda n, m: n < 7, True, "n < 7"),
    "not": (lambda n, m: n > 7, False, "n <= 7"),
    "divides": (lambda n, m: n % 4 == 0, False, "not (n % 4) == 0"),
    "truth": (lambda n, m: bool(n - 2), True, "not n - 2 == 0"),
    "a float": (lambda n, m: n / 4 > 1.0, True, "not (n / 4) <= 1.0"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_a_decision_is_remembered_once(world, case):
    scope, guards, n, m = world
    ask, answer, text = DECISIONS[case]
    assert ask(n, m) is answer and ask(n, m) is answer
    assert texts(guards) == [text] and __file__ in str(next(iter(guards)))
    assert guards.failing(scope.values((6, 6))) is None


def test_sizes_that_are_equal_stay_equal(world):
    scope, guards, n, m = world
    assert n == m
    assert n + 1 == m + 1 and n * 3 <= m * 3 and not m < n  # all of it follows
    assert texts(guards) == ["n == m"]
    assert guards.failing(scope.values((6, 5))).text == "n == m"


PINS = {
    "int": int, "index": operator.index, "range": lambda d: range(d), "float": float,
    "an array's shape": lambda d: np.zeros((d,)), "a list's index": lambda d: [0] * d,
}  # fmt: skip


@pytest.mark.parametrize("case", PINS)
def test_a_python_number_pins(world, case):
    scope, guards, n, _ = world
    PINS[case](n)
    symbol = scope.symbols[0]
    assert guards.pinned(symbol) and not guards.pinned(scope.symbols[1])
    assert guards.failing(scope.values((6, 9))) is None and guards.failing(scope.values((7, 6))) is not None
    assert n == 6 and n < 7 and len(texts(guards)) == 1  # known from now on


def test_a_later_stage_knows_the_earlier_one(world):
    scope, guards, n, m = world
    assert n == m
    with scope.deciding(Guards(guards)) as later:
        assert n == m and n < 100
    assert [g.text for g in later.own.values()] == ["n < 100"] and texts(guards) == ["n == m"]


def test_other_hints_decide_otherwise(world):
    scope, _, n, _ = world
    with scope.deciding(Guards(), scope.values((200, 6))):
        assert n > 100 and hint(n) == 200
    assert hint(n) == 6


def test_real_numbers():
    scope = Scope("f")
    n = Dim(atom(scope.symbol(4)), scope)
    values = scope.values((8,))
    for make in (
        lambda d: 1 / d, lambda d: d / 2, lambda d: d * 0.5, lambda d: 2.0 - d, lambda d: d**0.5, lambda d: 2.0**d,
        lambda d: (d / 3 + 1) * 2 - d / 5, lambda d: -(d / 3), lambda d: abs(1 - d / 3), lambda d: (d / 3) ** 2,
    ):  # fmt: skip
        assert isinstance(make(n), Real)
        assert substitute(make(n), values) == make(8) and hint(make(n)) == make(4)
    assert repr(1 / n) == "(1 / n)"


def test_nests(world):
    scope, _, n, m = world
    nest = {"a": (n, [m * 2, "x"]), "b": slice(None, n), "c": 1.5}
    assert has_dims(nest) and not has_dims(nest["c"]) and dim(n) is n and dim(np.int64(3)) == 3
    assert substitute(nest, scope.values((3, 4))) == {"a": (3, [8, "x"]), "b": slice(None, 3), "c": 1.5}


SLICES = [
    slice(*s)
    for s in ((None,), (1, None), (None, -1), (-3, None), (None, None, -1), (1, 5, 2), (0, 2), (-2, None, -2))
]


@pytest.mark.parametrize("key", SLICES, ids=str)
@pytest.mark.parametrize("size", [3, 6, 9])
def test_slices_are_pythons(key, size):
    scope = Scope("f")
    n = Dim(atom(scope.symbol(size)), scope)
    with scope.deciding(Guards()) as guards:
        found = bounds(key, n)
        count = length(*found)
    for other in (size, size + 1, size + 10):
        values = scope.values((other,))
        if guards.failing(values) is None:
            assert substitute(found, values) == key.indices(other)
            assert substitute(count, values) == len(range(*key.indices(other)))


def test_kept_after_the_trace_it_is_the_number_it_was():
    scope = Scope("f")
    n = Dim(atom(scope.symbol(5)), scope)
    assert n == 5 and int(n) == 5 and list(range(n)) == [0, 1, 2, 3, 4] and str(n) == "n"
