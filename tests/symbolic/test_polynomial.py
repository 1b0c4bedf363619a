"""Sizes as polynomials: whatever the normal form says holds for every size."""

import itertools
import operator

import pytest

from hybridml.symbolic.polynomial import Polynomial, Symbol, atom, constant, renewed

n, m = Symbol("n"), Symbol("m")
N, M, ONE = atom(n), atom(m), constant(1)
SIZES = [dict(zip((n, m), each, strict=True)) for each in itertools.product((2, 3, 4, 7, 12), repeat=2)]

TERMS = {
    "n": N, "n - 1": N - ONE, "2n": N + N, "nm": N * M, "n + m": N + M, "3n + 1": N * constant(3) + ONE, "nn": N * N,
    "n // 2": N // constant(2), "n % 3": N % constant(3), "nm - m": N * M - M, "7": constant(7),
    "(n + 1) // 2 * m": ((N + ONE) // constant(2)) * M,
}  # fmt: skip
OPERATORS = (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod)


@pytest.mark.parametrize("f", OPERATORS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("a", TERMS)
def test_arithmetic_is_that_of_the_values(a, f):
    for b in TERMS:
        if f in (operator.floordiv, operator.mod) and any(TERMS[b].evaluate(v) <= 0 for v in SIZES):
            continue
        found = f(TERMS[a], TERMS[b])
        for v in SIZES:
            assert found.evaluate(v) == f(TERMS[a].evaluate(v), TERMS[b].evaluate(v)), (a, b, str(found), v)


@pytest.mark.parametrize("a", TERMS)
def test_bounds_hold(a):
    for b in TERMS:
        d = TERMS[a] - TERMS[b]
        for v in SIZES:
            assert d.low is None or d.evaluate(v) >= d.low
            assert d.high is None or d.evaluate(v) <= d.high


EQUAL = {
    "a factor comes out": ((N * constant(6)) // constant(3), N + N),
    "a rest that is less than the divisor": ((N + N + ONE) // constant(2), N),
    "its remainder": ((N + N + ONE) % constant(2), ONE),
    "by a symbol": ((N * M + N) // N, M + ONE),
    "by a sum": ((N * N - ONE) // (N - ONE), N + ONE),
    "a symbol on both sides": ((N * M) // (M + M), N // constant(2)),
    "in any order": (N * M + ONE, ONE + M * N),
    "nothing left": (N - N, constant(0)),
}


@pytest.mark.parametrize("case", EQUAL)
def test_equal_expressions_are_equal(case):
    a, b = EQUAL[case]
    assert a == b and hash(a) == hash(b) and str(a) == str(b)


def test_what_is_settled_by_sizes_being_at_least_two():
    assert (N - ONE).low == 1 and (N * M - M).low == 2 and (N * M - N).low == 2
    assert (N - M).low is None and (N - M).high is None
    assert (constant(1) - N).high == -1
    assert (N // constant(2)).low == 1 and (N % constant(2)).low == 0


def test_replacing_symbols():
    p = (N * M + ONE) // constant(2)
    assert renewed(p, {m: constant(4)}.get).evaluate({n: 3}) == 6
    assert renewed(p, {}.get) == p


def test_division_by_zero():
    with pytest.raises(ZeroDivisionError):
        N // Polynomial({})


def test_text():
    assert str(N * M - constant(2) * N + ONE) == "m*n - 2*n + 1" and str(-N) == "-n" and str(N - N) == "0"
