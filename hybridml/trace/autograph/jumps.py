"""return, break and continue written as flags, so that what follows them can become part of a branch.

    for x in t:                          ag__break_1 = False
        if x < 0:                        for x in t:                  # until ag__break_1
            break              ->            if x < 0:
        s = s + x                                ag__break_1 = True
    else:                                    else:
        s = -s                                   s = s + x
                                         if ag__.not_any(ag__break_1):
                                             s = -s

A jump at the end of a branch moves the rest of the block into the other branch; only a jump deeper inside needs a guard.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hybridml.trace.autograph.names import bound, within

OPERATORS = "ag__"  # the name of the operators inside converted code
RETURNED = "ag__return"
RESULT = "ag__result"
_INNER = (ast.If, ast.For, ast.While, ast.Match)


def operator(name: str, *args: ast.expr) -> ast.Call:
    """A call of an operator, which is not itself converted."""
    node = ast.Call(ast.Attribute(ast.Name(OPERATORS, ast.Load()), name, ast.Load()), list(args), [])
    node.is_operator = True  # type: ignore[attr-defined]
    return node


def read(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def assign(name: str, value: ast.expr, place: ast.AST) -> ast.stmt:
    return ast.copy_location(ast.Assign([ast.Name(name, ast.Store())], value), place)


def set_flag(name: str, value: bool, place: ast.AST) -> ast.stmt:
    return assign(name, ast.Constant(value), place)


@dataclass
class Lowered:
    """A block without jumps: whether its end is never reached, and the flags that may be set in it."""

    body: list[ast.stmt] = field(default_factory=list)
    ends: bool = False
    flags: set[str] = field(default_factory=set)


def lower(body: list[ast.stmt]) -> list[ast.stmt]:
    """The body of a function without break, continue, loop-else, or a return inside control flow."""
    lowering = _Lowering(_inner_returns(body))
    done = lowering.block(body)
    if not lowering.returns or not done.flags:
        return done.body
    last = body[-1]
    start = [set_flag(RETURNED, False, body[0])]
    result = (
        read(RESULT)
        if done.ends
        else operator("result", read(RETURNED), ast.Lambda(no_arguments(), read(RESULT)))
    )
    return start + done.body + [ast.copy_location(ast.Return(result), last)]


def no_arguments() -> ast.arguments:
    return ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])


def _inner_returns(body: list[ast.stmt]) -> bool:
    """Whether a return stands inside an if, a loop or a match."""
    for s in body:
        if isinstance(s, _INNER):
            if any(isinstance(n, ast.Return) for n in within(s)):
                return True
        elif isinstance(s, (ast.With, ast.Try, ast.TryStar)):
            blocks = [getattr(h, name, []) for h in _holders(s) for name in ("body", "orelse", "finalbody")]
            if any(map(_inner_returns, blocks)):
                return True
    return False


class _Lowering:
    def __init__(self, returns: bool) -> None:
        self.returns = returns
        self._loops: list[int] = []
        # Variables that a loop's else sets too, so that every way out of the loop sets them.
        self._filled: list[set[str]] = []
        self._count = 0

    def block(self, body: list[ast.stmt]) -> Lowered:
        out = Lowered()
        for i, s in enumerate(body):
            rest = body[i + 1 :]
            if isinstance(s, ast.If):
                if self._branch(s, rest, out):
                    return out
                continue
            done = self._statement(s)
            out.body += done.body
            out.flags |= done.flags
            if done.ends:
                out.ends = True
                return out
            if done.flags and rest:
                self._guard(done.flags, rest, out)
                return out
        return out

    def _guard(self, flags: set[str], rest: list[ast.stmt], out: Lowered) -> None:
        done = self.block(rest)
        test = operator("not_any", *[read(f) for f in sorted(flags)])
        # The only jump there is was taken where the rest does not run: said so, it is certain afterwards that it leaves a value.
        taken = [set_flag(f, True, rest[0]) for f in flags] if done.ends and len(flags) == 1 else []
        out.body.append(
            ast.copy_location(ast.If(ast.copy_location(test, rest[0]), done.body, taken), rest[0])
        )
        out.flags |= done.flags
        out.ends = done.ends

    def _branch(self, s: ast.If, rest: list[ast.stmt], out: Lowered) -> bool:
        """Lower an `if` and what follows it; True if `rest` was taken care of."""
        body, orelse = s.body, s.orelse
        ends, other_ends = self._ends(body), self._ends(orelse)
        if ends and not other_ends:
            orelse = orelse + rest
        elif other_ends and not ends:
            body = body + rest
        a, b = self.block(body), self.block(orelse)
        new: Any = ast.If(s.test, a.body or [ast.copy_location(ast.Pass(), s)], b.body)
        new.filled = self._fills()
        out.body.append(ast.copy_location(new, s))
        flags = a.flags | b.flags
        out.flags |= flags
        if ends or other_ends:
            out.ends = a.ends and b.ends
            return True
        if flags and rest:
            self._guard(flags, rest, out)
            return True
        return False

    def _fills(self) -> list[str]:
        return sorted(set().union(*self._filled))

    def _ends(self, body: list[ast.stmt]) -> bool:
        """Whether a jump is certain to leave this block, seen without lowering it."""
        return any(
            isinstance(s, (ast.Return, ast.Break, ast.Continue))
            or (isinstance(s, ast.If) and self._ends(s.body) and self._ends(s.orelse))
            for s in body
        )

    def _statement(self, s: ast.stmt) -> Lowered:
        if isinstance(s, ast.Return) and self.returns:
            value = s.value or ast.copy_location(ast.Constant(None), s)
            return Lowered([assign(RESULT, value, s), set_flag(RETURNED, True, s)], True, {RETURNED})
        if isinstance(s, (ast.Break, ast.Continue)):
            flag = f"ag__{type(s).__name__.lower()}_{self._loops[-1]}"
            return Lowered([set_flag(flag, True, s)], True, {flag})
        if isinstance(s, (ast.For, ast.While)):
            return self._loop(s)
        if isinstance(s, (ast.With, ast.Try, ast.TryStar, ast.Match)):
            return self._compound(s)
        return Lowered([s])

    def _loop(self, s: ast.For | ast.While) -> Lowered:
        self._count += 1
        number = self._count
        self._loops.append(number)
        target = [s.target] if isinstance(s, ast.For) else []
        self._filled.append(set(bound([*target, *s.body])) & set(bound(s.orelse)))
        filled = self._fills()
        inner = self.block(s.body)
        self._filled.pop()
        self._loops.pop()
        stop, skip = f"ag__break_{number}", f"ag__continue_{number}"
        exits = inner.flags - {skip}
        if skip in inner.flags:
            inner.body.insert(0, set_flag(skip, False, s))
        before = [set_flag(stop, False, s)] if stop in exits else []
        new: Any
        endless = False
        if isinstance(s, ast.While):
            test = s.test
            endless = isinstance(test, ast.Constant) and bool(test.value) and stop not in exits
            new = ast.While(test, inner.body, [])
        else:
            new = ast.For(s.target, s.iter, inner.body, [])
        new.filled = filled
        new.exits = sorted(exits)
        out = Lowered([*before, ast.copy_location(new, s)], False, exits - {stop})
        if endless and exits:
            out.ends = True  # `while True` is left by return only
        elif s.orelse and exits:
            self._guard(exits, s.orelse, out)
        elif s.orelse:
            done = self.block(s.orelse)
            out = Lowered(out.body + done.body, done.ends, done.flags)
        return out

    def _compound(self, s: ast.stmt) -> Lowered:
        """with, try, match: the jumps out of every block of it. What follows is guarded, as a `with` may swallow an exception
        that was raised on the way to the jump."""
        flags: set[str] = set()
        s = copy.copy(s)
        s.__dict__.pop("binds", None)  # its blocks get flags
        for name in ("handlers", "cases"):
            if hasattr(s, name):
                setattr(s, name, [copy.copy(h) for h in getattr(s, name)])
        for holder in _holders(s):
            for name in ("body", "handlers", "orelse", "finalbody"):
                block = getattr(holder, name, None)
                if not block or name == "handlers":
                    continue
                if name == "orelse" and flags:
                    guarded = Lowered()
                    self._guard(set(flags), block, guarded)
                    done = guarded
                else:
                    done = self.block(block)
                setattr(holder, name, done.body)
                flags |= done.flags
        return Lowered([s], False, flags)


def _holders(s: ast.stmt) -> Iterator[ast.AST]:
    yield s
    yield from getattr(s, "handlers", ())
    yield from getattr(s, "cases", ())
