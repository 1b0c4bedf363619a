"""`match` written as `if`s where it may ask a tensor for a truth value: in a literal of a pattern, or in a guard.

    match pair:                      ag__subject_1 = pair
        case (0, y):                 ag__case_1 = False
            z = y                    match ag__subject_1:
        case _:              ->          case (ag__value_1, ag__y_1): ag__case_1 = ag__value_1 == 0
            z = 1                    if ag__case_1:
                                         y = ag__y_1
                                         z = y
                                     else:
                                         z = 1

What a pattern says of structure (sequences, mappings, classes, None) is decided by Python while tracing. Names are bound where
Python binds them: when the pattern fits, before the guard is asked.
"""

from __future__ import annotations

import ast
import copy
import functools
import itertools
from typing import Any

from hybridml.trace.autograph.jumps import assign, read, set_flag

MAX_ALTERNATIVES = 16
_PARTS = ("pattern", "patterns", "kwd_patterns")  # fields that hold patterns inside a pattern


def without_questions(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements of one function; functions and classes inside it are left for their own turn."""
    return _Matches().visit(ast.Module(body, [])).body  # type: ignore[no-any-return]


class _Matches(ast.NodeTransformer):
    def __init__(self) -> None:
        self._count = 0

    def _leave(self, node: Any) -> Any:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Lambda = _leave

    def visit_Match(self, node: ast.Match) -> Any:
        self.generic_visit(node)
        cases = [c for case in node.cases for c in _apart(case)]
        if not any(c.guard is not None or _literals(c.pattern) for c in cases):
            return node
        self._count += 1
        subject = f"ag__subject_{self._count}"
        rest: list[ast.stmt] = []
        for case in reversed(cases):
            rest = self._case(subject, case, rest)
        return [assign(subject, node.subject, node), *rest]

    def _case(self, subject: str, case: ast.match_case, rest: list[ast.stmt]) -> list[ast.stmt]:
        """`case`, and what is done where it does not fit."""
        self._count += 1
        number, place = self._count, case.pattern
        chosen = f"ag__case_{number}"
        pattern, tests, names = case.pattern, [], {}
        if _literals(pattern):
            opened = _Opened(number)
            pattern = opened.visit(copy.deepcopy(pattern))
            tests, names = opened.tests, opened.names
        fits: ast.expr = ast.Constant(True)
        if tests:
            fits = tests[0] if len(tests) == 1 else ast.copy_location(ast.BoolOp(ast.And(), tests), place)
        bind = [assign(name, read(own), place) for name, own in names.items()]
        guard = [assign(chosen, case.guard, case.guard)] if case.guard is not None else []
        once: list[ast.stmt] = [assign(chosen, fits, place)]
        asked: list[ast.stmt] = []
        if not tests:
            once += guard
        elif guard:
            asked = [_if(read(chosen), [*copy.deepcopy(bind), *guard], [], place)]
        looked = ast.copy_location(ast.Match(read(subject), [ast.match_case(pattern, None, once)]), place)
        found = _if(read(chosen), [*bind, *case.body], rest, place)
        return [set_flag(chosen, False, place), looked, *asked, found]


def _if(test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], place: ast.AST) -> ast.stmt:
    return ast.copy_location(ast.If(ast.copy_location(test, place), body, orelse), place)


def _literals(pattern: ast.pattern) -> bool:
    """Whether a pattern compares anything with `==`."""
    return any(isinstance(n, ast.MatchValue) for n in ast.walk(pattern)) and not _mixed(pattern)


def _apart(case: ast.match_case) -> list[ast.match_case]:
    """`case (0, _) | (_, 0)` as two cases with one body: then what each compares can be asked one after the other.

    A guard is asked once, of the alternative that fits first, so a case with one stays whole.
    """
    if case.guard is not None or not _mixed(case.pattern):
        return [case]
    found = _alternatives(case.pattern)
    if len(found) > MAX_ALTERNATIVES:
        return [case]
    return [ast.match_case(p, None, copy.deepcopy(case.body)) for p in found]


def _alternatives(pattern: ast.pattern) -> list[ast.pattern]:
    """Patterns without alternatives of structures, in the order in which Python tries them, that together fit what this one fits."""
    if isinstance(pattern, ast.MatchOr):
        return [pattern] if not _mixed(pattern) else [q for p in pattern.patterns for q in _alternatives(p)]
    fields = [(name, value) for name, value in ast.iter_fields(pattern) if name in _PARTS and value]
    choices: list[list[Any]] = [
        [list(parts) for parts in itertools.product(*map(_alternatives, value))]
        if isinstance(value, list)
        else _alternatives(value)
        for _, value in fields
    ]
    found = []
    for chosen in itertools.product(*choices):
        one = copy.copy(pattern)
        for (name, _), value in zip(fields, chosen, strict=True):
            setattr(one, name, value)
        found.append(one)
    return found


def _mixed(pattern: ast.pattern) -> bool:
    """Alternatives that are more than values: which of them fits cannot be asked afterwards."""
    return any(
        isinstance(n, ast.MatchOr)
        and not all(isinstance(p, (ast.MatchValue, ast.MatchSingleton)) for p in n.patterns)
        for n in ast.walk(pattern)
    )


class _Opened(ast.NodeTransformer):
    """A pattern that takes what stood beside a literal under a name, with the comparisons to be made afterwards."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.tests: list[ast.expr] = []
        self.names: dict[str, str] = {}  # the user's names, and ours until the comparisons are made

    def _take(self, place: ast.pattern, *tests: tuple[ast.cmpop, ast.expr]) -> ast.pattern:
        name = f"ag__value_{self._number}_{len(self.tests) + 1}"
        found: list[ast.expr] = [
            ast.copy_location(ast.Compare(read(name), [op], [value]), place) for op, value in tests
        ]
        self.tests.append(
            found[0] if len(found) == 1 else ast.copy_location(ast.BoolOp(ast.Or(), found), place)
        )
        return ast.copy_location(ast.MatchAs(None, name), place)

    def visit_MatchValue(self, node: ast.MatchValue) -> ast.pattern:
        return self._take(node, (ast.Eq(), node.value))

    def visit_MatchOr(self, node: ast.MatchOr) -> ast.pattern:
        return self._take(node, *[_asked(p) for p in node.patterns])

    def _own(self, name: str | None) -> str | None:
        return None if name is None else self.names.setdefault(name, f"ag__{name}_{self._number}")

    def _named(self, node: Any, field: str = "name") -> Any:
        setattr(node, field, self._own(getattr(node, field)))
        return self.generic_visit(node)

    visit_MatchAs = visit_MatchStar = _named

    def visit_MatchMapping(self, node: ast.MatchMapping) -> Any:
        return functools.partial(self._named, field="rest")(node)


def _asked(pattern: ast.pattern) -> tuple[ast.cmpop, ast.expr]:
    if isinstance(pattern, ast.MatchSingleton):
        return ast.Is(), ast.copy_location(ast.Constant(pattern.value), pattern)
    assert isinstance(pattern, ast.MatchValue)
    return ast.Eq(), pattern.value
