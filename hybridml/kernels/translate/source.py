"""From a Python function to its syntax tree, each file read once."""

from __future__ import annotations

import ast
import linecache
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from hybridml.kernels.translate.values import Unsupported

Trees = dict[tuple[str, int, str], ast.FunctionDef]


def functions_of(tree: ast.Module, path: str) -> Trees:
    """All functions of a file by path, first line and name, those inside others included."""
    found: Trees = {}
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *[d.lineno for d in node.decorator_list]])
            found[path, first, node.name] = node
            queue += node.body
    return found


_known: Trees = {}
_read: set[str] = set()


def tree_of(function: Callable[..., Any], own: Trees) -> ast.FunctionDef:
    """The definition of a function, of the text being translated (`own`) or of a file."""
    code = function.__code__
    key = code.co_filename, code.co_firstlineno, code.co_name
    if key in own:
        return own[key]
    if code.co_filename not in _read:
        text = "".join(linecache.getlines(code.co_filename))
        _known.update(functions_of(ast.parse(text), code.co_filename))
        _read.add(code.co_filename)
    if key not in _known:
        raise Unsupported(f"{code.co_name} has no source")
    return _known[key]


def outer_names(function: Callable[..., Any]) -> Mapping[str, Any]:
    """What a function's free names stand for: its closure, else its module."""
    names = function.__code__.co_freevars
    if not names:
        return function.__globals__
    cells = zip(names, function.__closure__ or (), strict=True)
    return ChainMap({name: cell.cell_contents for name, cell in cells}, function.__globals__)


def assigned_often(tree: ast.FunctionDef) -> frozenset[str]:
    """Names that more than one statement gives a value, parameters counting as given one; loop variables apart."""
    found: frozenset[str] | None = getattr(
        tree, "assigned_often", None
    )  # asked for at each call that is inlined
    if found is None:
        found = _assigned_often(tree)
        tree.assigned_often = found  # type: ignore[attr-defined]  # a note on the tree, which lives as long as that
    return found


def _assigned_often(tree: ast.FunctionDef) -> frozenset[str]:
    seen = {a.arg for a in tree.args.args}
    often: set[str] = set()
    loops: set[str] = set()
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop()
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AugAssign):
            targets = [node.target, node.target]
        elif isinstance(node, (ast.If, ast.For, ast.While)):
            queue += node.body + node.orelse
            if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
                loops.add(node.target.id)
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name):
                    (often if name.id in seen else seen).add(name.id)
    return frozenset(often | (loops & seen))
