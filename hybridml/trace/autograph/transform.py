"""A function's syntax tree rewritten so that control flow becomes calls of operators, which decide at run time.

    if x > 0:                        def ag__if_1():
        y = x                            nonlocal y
    else:                 ->             y = x
        y = -x                       def ag__else_1():
                                         nonlocal y
                                         y = -x
                                     ag__.if_(x > 0, ag__if_1, ag__else_1, ('y',), (), ())

A branch is a function of no arguments; the variables it changes are `nonlocal`, so the operator finds their cells in the branch's
closure, and Python's own meaning of an unbound name stays as it is. Every new node has the place of the statement it stands for.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import Any

from hybridml.trace.autograph import jumps
from hybridml.trace.autograph.jumps import OPERATORS, operator, read
from hybridml.trace.autograph.matches import without_questions
from hybridml.trace.autograph.names import Liveness, bound, late, loads, nested, walrus, within
from hybridml.trace.autograph.source import NotConvertible

GROWS = (
    "append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem",
    "appendleft", "extendleft", "popleft",
)  # fmt: skip
CHANGES = (*GROWS, "reverse", "sort", "rotate")
_COMPARISONS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.Is: "is", ast.IsNot: "is not",
    ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip


def convert(node: ast.FunctionDef | ast.Lambda, class_name: str | None) -> ast.FunctionDef | ast.Lambda:
    """The converted function. Its decorators, which have already been applied, are left out."""
    if isinstance(node, ast.FunctionDef):
        node.decorator_list = []
    if class_name is not None:
        _Mangle(class_name).visit(node)
    done = _Expressions().visit(node) if isinstance(node, ast.Lambda) else _function(node)
    return ast.fix_missing_locations(done)


class _Mangle(ast.NodeTransformer):
    """`self.__w` inside class A is `self._A__w`; the compiler does that only for code that stands in the class."""

    def __init__(self, class_name: str) -> None:
        self._prefix = "_" + class_name.lstrip("_")

    def _name(self, name: str) -> str:
        return self._prefix + name if name.startswith("__") and not name.endswith("__") else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._name(node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = self._name(node.attr)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg = self._name(node.arg)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def _function(node: ast.FunctionDef) -> ast.FunctionDef:
    """Convert one `def`: jumps, then liveness, then statements and expressions."""
    node.body = without_questions(node.body)
    args = node.args
    parameters = [
        a.arg
        for a in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
        if a is not None
    ]
    for a in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if a is not None:
            a.annotation = None
    node.returns = None
    outside = [n for n in within(node.body) if isinstance(n, (ast.Global, ast.Nonlocal))]
    shared = {x for n in outside for x in n.names}
    always = late(node.body) | shared
    body = jumps.lower(node.body)
    Liveness(body, always)
    inner = {
        x for n in nested(node.body) for m in ast.walk(n) if isinstance(m, ast.Nonlocal) for x in m.names
    } & {*bound(body), *parameters}  # what nested functions assign here
    declared_global = {x for n in outside if isinstance(n, ast.Global) for x in n.names}
    statements = _Statements(declared_global, parameters[:1], sorted(inner))
    local = [x for x in bound(body) if x not in shared and x not in parameters]
    new = statements.block(body)
    declared: list[ast.stmt] = [ast.copy_location(type(n)(n.names), node.body[0]) for n in outside]
    if local and statements.made_functions:
        # Never runs: it tells the compiler that the names, now bound in inner functions only, are this function's.
        never = ast.If(
            ast.Constant(0), [ast.Assign([ast.Name(x, ast.Store()) for x in local], ast.Constant(None))], []
        )
        declared.append(ast.copy_location(never, node.body[0]))
    node.body = declared + new
    return node


class _Expressions(ast.NodeTransformer):
    """and, or, not, ternary, chained comparison, call, comprehension, walrus."""

    def __init__(self, globals_: set[str] = frozenset(), first: list[str] | None = None) -> None:  # type: ignore[assignment]
        self._globals = globals_
        self._first = first or []
        self._late = 0  # how many lambdas of ours we are in
        self.made_functions = False

    def _later(self, node: ast.expr) -> ast.expr:
        """`lambda: node`, converted."""
        names = walrus(node)
        self._late += 1
        body = self.visit(node)
        self._late -= 1
        self.made_functions = True
        later: ast.expr = ast.copy_location(ast.Lambda(jumps.no_arguments(), body), node)
        return _at(operator("Binding", later, _texts(names)), node) if names else later

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        name = "and_" if isinstance(node.op, ast.And) else "or_"
        first = self.visit(node.values[0])
        return _at(operator(name, first, *[self._later(v) for v in node.values[1:]]), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        operand = self.visit(node.operand)
        if isinstance(node.op, ast.Not):
            return _at(operator("not_", operand), node)
        node.operand = operand
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        test = self.visit(node.test)
        return _at(operator("if_exp", test, self._later(node.body), self._later(node.orelse)), node)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        if len(node.ops) == 1 and not isinstance(node.ops[0], (ast.In, ast.NotIn)):
            return self.generic_visit(node)  # type: ignore[return-value]
        left = self.visit(node.left)
        rest = [
            ast.Tuple([ast.Constant(_COMPARISONS[type(op)]), self._later(x)], ast.Load())
            for op, x in zip(node.ops, node.comparators, strict=True)
        ]
        return _at(operator("compare", left, *rest), node)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if getattr(node, "is_operator", False):
            return self.generic_visit(node)  # type: ignore[return-value]
        if isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args and self._first:
            # Without arguments `super` looks at its caller's frame, which may now be one of a branch.
            node.args = [read("__class__"), read(self._first[0])]
            return node
        f: Any = node.func
        text = ast.unparse(f.value) if isinstance(f, ast.Attribute) and f.attr in CHANGES else None
        self.generic_visit(node)
        if text is not None:
            f.value = _stores(f.value, text)
        if isinstance(f, ast.Attribute) and f.end_lineno and f.end_lineno != node.lineno:
            # A method call stands, for tracebacks, where the method's name does; a call of a call would stand at its start.
            node.lineno, node.col_offset = f.end_lineno, max((f.end_col_offset or 0) - len(f.attr), 0)
        node.func = _at(operator("callee", node.func), node.func)
        return node

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        value = self.visit(node.value)
        name = node.target.id
        if not self._late:
            node.value = value
            return node
        if name in self._globals:
            raise NotConvertible(f"it assigns the global `{name}` with := inside and, or, or a ternary")
        cell = ast.Lambda(jumps.no_arguments(), read(name))
        return _at(operator("walrus", cell, value), node)

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> ast.expr:
        """The object of `o.a = x`, `o[k] = x` and `del o.a` is about to change."""
        if isinstance(node.ctx, ast.Load):
            return self.generic_visit(node)  # type: ignore[return-value]
        text = ast.unparse(node.value)
        self.generic_visit(node)
        node.value = _stores(node.value, text)
        return node

    visit_Subscript = visit_Attribute

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        node.args = self.visit(node.args)
        if walrus(node.body):
            raise NotConvertible("it has a lambda with := in it")
        late, self._late = self._late, 0
        node.body = self.visit(node.body)
        self._late = late
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if not node.is_async:
            node.iter = _at(operator("rows", node.iter), node.iter)
            node.ifs = [_at(operator("keep", test), test) for test in node.ifs]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args = self.visit(node.args)
        node.decorator_list = [_at(operator("callee", self.visit(d)), d) for d in node.decorator_list]
        if any(isinstance(n, (ast.Yield, ast.YieldFrom, ast.Await)) for n in within(node.body)):
            return node
        return _function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node  # its methods are converted when they are called


class _Statements(_Expressions):
    """if, while, for, assert, and the blocks they stand in."""

    def __init__(self, globals_: set[str], first: list[str], assigned_inside: list[str]) -> None:
        super().__init__(globals_, first)
        self._inside = assigned_inside
        self._number = 0

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        out: list[ast.stmt] = []
        for s in body:
            new = self.visit(s)
            out += new if isinstance(new, list) else [new]
        return out

    def _define(
        self, name: str, body: list[ast.stmt], place: ast.AST, argument: str | None = None
    ) -> ast.stmt:
        """A branch or a loop's body as a function that shares this function's variables."""
        self.made_functions = True
        changed = self._changed(body)
        shared = [x for x in changed if x not in self._globals]
        declared: list[ast.stmt] = []
        if shared:
            declared.append(ast.Nonlocal(shared))
        if len(shared) < len(changed):
            declared.append(ast.Global([x for x in changed if x in self._globals]))
        args = jumps.no_arguments()
        if argument:
            args.args = [ast.arg(argument)]
        inner = self.block(body)
        new = declared + inner
        function = ast.FunctionDef(name, args, new or [ast.Pass()], [])
        function.type_params = []  # type: ignore[attr-defined]
        return ast.copy_location(function, place)

    def _changed(self, body: list[Any]) -> list[str]:
        """Names that these statements bind, or that a nested function called in them may bind."""
        names = bound(body)
        if self._inside and any(isinstance(n, ast.Call) for n in within(body)):
            names = list(dict.fromkeys([*names, *self._inside]))
        return names

    def visit_If(self, node: ast.If) -> list[ast.stmt]:
        self._number += 1
        n = self._number
        names = self._changed([*node.body, *node.orelse])
        live = [x for x in names if x in node.live]  # type: ignore[attr-defined]
        dead = [x for x in names if x not in live]
        slots = _slots([*node.body, *node.orelse])
        test = self.visit(node.test)
        out = [self._define(f"ag__if_{n}", node.body, node)]
        other: ast.expr = ast.Constant(None)
        if node.orelse:
            out.append(self._define(f"ag__else_{n}", node.orelse, node))
            other = read(f"ag__else_{n}")
        call = operator(
            "if_", test, read(f"ag__if_{n}"), other, _texts(live), _texts(dead), _fills(node), *slots
        )
        return [*out, _at(ast.Expr(call), node)]

    def visit_While(self, node: ast.While) -> list[ast.stmt]:
        self._number += 1
        n = self._number
        slots = _slots([node.test, *node.body])
        names = self._changed([node.test, *node.body])
        test = self._define(f"ag__test_{n}", [ast.copy_location(ast.Return(node.test), node.test)], node.test)
        body = self._define(f"ag__body_{n}", node.body, node)
        return [test, body, self._loop(node, "while_", read(f"ag__test_{n}"), n, names, slots)]

    def visit_For(self, node: ast.For) -> list[ast.stmt]:
        self._number += 1
        n = self._number
        target = ast.copy_location(ast.Assign([node.target], read("ag__item")), node)
        slots = _slots([target, *node.body])
        iterable = self.visit(node.iter)
        names = self._changed([target, *node.body])
        body = self._define(f"ag__body_{n}", [target, *node.body], node, "ag__item")
        return [body, self._loop(node, "for_", iterable, n, names, slots, _texts(bound([node.target])))]

    def _loop(
        self,
        node: Any,
        name: str,
        first: ast.expr,
        n: int,
        names: list[str],
        slots: list[ast.expr],
        *more: ast.expr,
    ) -> ast.stmt:
        names = list(dict.fromkeys(names))
        carried = [x for x in names if x in node.carried]
        local = [x for x in names if x not in node.carried]
        live = [x for x in names if x in node.live]
        about = [_texts(x) for x in (carried, local, live, node.exits)]
        call = operator(name, first, read(f"ag__body_{n}"), *about, _fills(node), *more, *slots)
        return _at(ast.Expr(call), node)

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        message = self._later(copy.deepcopy(node.msg)) if node.msg is not None else ast.Constant(None)
        text = ast.Constant(ast.unparse(node.test))
        node.test = _at(operator("assert_", self.visit(node.test), message, text), node.test)
        if node.msg is not None:
            node.msg = self.visit(node.msg)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        """Annotations of local variables are never evaluated, and a nonlocal name cannot have one."""
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([self.visit(node.target)], self.visit(node.value)), node)

    def visit_Global(self, node: ast.Global | ast.Nonlocal) -> ast.stmt:
        return ast.copy_location(ast.Pass(), node)  # declared at the top of the function

    visit_Nonlocal = visit_Global

    def _with_blocks(self, node: Any) -> Any:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                setattr(node, name, self.block(value))
            elif isinstance(value, list):
                setattr(node, name, [self.visit(v) if isinstance(v, ast.AST) else v for v in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
        return node

    visit_With = visit_Try = visit_TryStar = visit_ExceptHandler = visit_match_case = visit_Match = (
        _with_blocks
    )


def _at(new: Any, old: ast.AST) -> Any:
    """`new` at the first line of `old`: a call of a method that ended lines later would be said to stand there."""
    ast.copy_location(new, old)
    new.end_lineno, new.end_col_offset = new.lineno, new.col_offset
    return new


def _stores(base: ast.expr, text: str) -> ast.expr:
    return _at(operator("stores", base, ast.Constant(text)), base)


def _texts(names: list[str]) -> ast.expr:
    return ast.Tuple([ast.Constant(x) for x in names], ast.Load())


def _fills(node: Any) -> ast.expr:
    return _texts(getattr(node, "filled", []))


def _slots(body: list[Any]) -> list[ast.expr]:
    """State that is no variable: attributes assigned, and lists and dicts changed in place.

    Each becomes a call that evaluates the object late, so that an object that does not exist yet is no error.
    """
    own = set(bound(body))
    found: dict[str, ast.expr] = {}

    def add(base: ast.expr, make: Callable[[ast.expr], ast.expr], key: str) -> None:
        root = base
        while isinstance(root, (ast.Attribute, ast.Subscript)):
            root = root.value
        if isinstance(root, ast.Name) and not own & loads(base) and root.id != OPERATORS:
            found.setdefault(key, make(ast.Lambda(jumps.no_arguments(), copy.deepcopy(base))))

    for n in within(body):
        if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load):
            attribute = ast.Constant(n.attr)
            text = ast.Constant(ast.unparse(n))
            add(n.value, lambda b, a=attribute, t=text: operator("attribute", b, a, t), ast.unparse(n))  # type: ignore[misc]
        elif isinstance(n, ast.Subscript) and not isinstance(n.ctx, ast.Load):
            text = ast.Constant(ast.unparse(n.value))
            add(n.value, lambda b, t=text: operator("contents", b, t), "in " + ast.unparse(n.value))  # type: ignore[misc]
        elif isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in CHANGES:
            text, grows = ast.Constant(ast.unparse(n.func.value)), n.func.attr in GROWS
            key = "in " + ast.unparse(n.func.value)
            if grows:
                found.pop(key, None)
            add(n.func.value, lambda b, t=text, g=grows: operator("contents", b, t, ast.Constant(g)), key)  # type: ignore[misc]
    return list(found.values())
