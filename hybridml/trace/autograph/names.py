"""Which names a piece of a function binds, reads and still needs: scopes and liveness on the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _children(node: ast.AST) -> list[ast.AST]:
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [x for x in value if isinstance(x, ast.AST)]
        elif isinstance(value, ast.AST) and name not in ("ctx", "op"):
            found.append(value)
    return found


def within(nodes: ast.AST | Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of one scope: nested functions and classes are named, but not entered."""
    stack = [nodes] if isinstance(nodes, ast.AST) else list(nodes)[::-1]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stack += [*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]][
                ::-1
            ]
        elif isinstance(node, ast.Lambda):
            stack += [*node.args.defaults, *[d for d in node.args.kw_defaults if d]][::-1]
        elif isinstance(node, ast.ClassDef):
            stack += [*node.decorator_list, *node.bases, *[k.value for k in node.keywords]][::-1]
        elif not isinstance(node, (ast.Name, ast.Constant)):
            stack += _children(node)[::-1]


def bound(nodes: Iterable[ast.AST]) -> list[str]:
    """Names that these statements bind in their own scope, in order of appearance, each once.

    Every block around a statement asks for its names, so they are kept on it."""
    found: dict[str, None] = {}
    for statement in nodes:
        known = getattr(statement, "binds", None)
        if known is None:
            known = _bound(statement)
            statement.binds = known  # type: ignore[attr-defined]
        found |= dict.fromkeys(known)
    return list(found)


def _bound(statement: ast.AST) -> list[str]:
    found: dict[str, None] = {}
    hidden: set[int] = set()  # targets of comprehensions, which are scopes of their own
    for n in within(statement):
        if isinstance(n, ast.Name):
            if not isinstance(n.ctx, ast.Load) and id(n) not in hidden:
                found[n.id] = None
        elif isinstance(n, _COMPREHENSIONS):
            hidden |= {id(t) for g in n.generators for t in ast.walk(g.target)}
        elif isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[n.name] = None
        elif isinstance(n, ast.alias):
            found[(n.asname or n.name).split(".")[0]] = None
        elif isinstance(n, ast.ExceptHandler) and n.name:
            found[n.name] = None
        elif isinstance(n, (ast.MatchAs, ast.MatchStar)) and n.name:
            found[n.name] = None
        elif isinstance(n, ast.MatchMapping) and n.rest:
            found[n.rest] = None
    return list(found)


def walrus(nodes: ast.AST | Iterable[ast.AST]) -> list[str]:
    """Names bound by `:=`."""
    return list(dict.fromkeys([n.target.id for n in within(nodes) if isinstance(n, ast.NamedExpr)]))


def loads(*nodes: ast.AST | None) -> set[str]:
    """Every name that is read anywhere inside, nested functions included."""
    return {
        n.id for root in nodes if root is not None for n in _walk(root) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Store)
    }  # fmt: skip


def _walk(root: ast.AST) -> Iterator[ast.AST]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, (ast.Name, ast.Constant)):
            stack += _children(node)


def nested(body: list[ast.stmt]) -> list[ast.AST]:
    """The functions, classes and generators made in this scope: what they read they may read at any time later."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.GeneratorExp)
    return [n for n in within(body) if isinstance(n, kinds)]


def late(body: list[ast.stmt]) -> set[str]:
    """Names that nested functions read or assign."""
    found: set[str] = set()
    for n in nested(body):
        found |= loads(n)
        found |= {x for m in ast.walk(n) if isinstance(m, ast.Nonlocal) for x in m.names}
    return found


class Liveness:
    """Marks every `if`, `while` and `for` with the names that are needed after it (`.live`), and loops with those that the next
    iteration needs (`.carried`). The tree must be free of break, continue and inner returns."""

    def __init__(self, body: list[ast.stmt], always: set[str]) -> None:
        self._always = set(always)
        self._block(body, set())

    def _block(self, body: list[ast.stmt], live: set[str]) -> set[str]:
        for s in reversed(body):
            live = self._statement(s, live | self._always)
        return live | self._always

    def _statement(self, s: ast.stmt, live: set[str]) -> set[str]:
        if isinstance(s, ast.If):
            s.live = live  # type: ignore[attr-defined]
            return loads(s.test) | self._block(s.body, live) | self._block(s.orelse, live)
        if isinstance(s, (ast.While, ast.For)):
            return self._loop(s, live)
        if isinstance(s, (ast.With, ast.AsyncWith)):
            return loads(*s.items) | self._block(s.body, live)
        if isinstance(s, (ast.Try, ast.TryStar)):
            return self._try(s, live)
        if isinstance(s, ast.Match):
            cases = [self._block(c.body, live) | loads(c.pattern, c.guard) for c in s.cases]
            return live.union(loads(s.subject), *cases)
        if isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            return (live - {s.name}) | loads(s)
        if isinstance(s, ast.Assign):
            killed = {t.id for t in s.targets if isinstance(t, ast.Name)}
            return (live - killed) | loads(s.value, *s.targets)
        if isinstance(s, ast.AugAssign) and isinstance(s.target, ast.Name):
            return live | {s.target.id} | loads(s.value)
        if isinstance(s, ast.Return):
            return loads(s)
        return live | loads(s)

    def _loop(self, s: ast.While | ast.For, live: set[str]) -> set[str]:
        s.live = live  # type: ignore[union-attr]
        again = loads(s.test) if isinstance(s, ast.While) else set()
        again |= set(getattr(s, "exits", ()))
        targets = set(bound([s.target])) if isinstance(s, ast.For) else set()
        head = live | again
        for _ in range(2):  # what one iteration needs of the one before
            head = head | (self._block(s.body, head) - targets)
        s.carried = head  # type: ignore[union-attr]
        return head | (loads(s.iter, s.target) if isinstance(s, ast.For) else set())

    def _try(self, s: ast.Try | ast.TryStar, live: set[str]) -> set[str]:
        """Any statement of the body may jump to a handler, so what handlers read is needed all through it."""
        live = self._block(s.finalbody, live)
        handlers = set().union(*[self._block(h.body, live) | loads(h.type) for h in s.handlers])
        before, self._always = self._always, self._always | handlers | loads(*s.finalbody)
        live = self._block(s.body, self._block(s.orelse, live))
        self._always = before
        return live | handlers
