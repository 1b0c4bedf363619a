"""Finding the syntax tree of a function that is already compiled.

The code object says where it came from: file, first line, and (since Python 3.11) the columns of every instruction, so that two
lambdas on one line can be told apart. Text comes from `linecache`, which notebooks and doctests fill with their cells.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import site
import sysconfig
import types
from collections.abc import Sequence

import hybridml


class NotConvertible(Exception):
    """Why a function stays as it is; the text ends the sentence 'it was not converted because ...'."""


PACKAGE = os.path.dirname(os.path.abspath(hybridml.__file__)) + os.sep


def _library_folders() -> tuple[str, ...]:
    paths = {sysconfig.get_path(k) for k in ("stdlib", "platstdlib", "purelib", "platlib")}
    paths |= {*getattr(site, "getsitepackages", list)(), site.getusersitepackages()}
    return (PACKAGE, *[os.path.abspath(p) + os.sep for p in paths if p])


_LIBRARIES = _library_folders()


def is_users(code: types.CodeType) -> bool:
    """True for code that is neither this package, nor the standard library, nor an installed package."""
    return _is_users_file(code.co_filename)


@functools.lru_cache(4096)
def _is_users_file(file: str) -> bool:
    return not file.startswith("<frozen") and not os.path.abspath(file).startswith(_LIBRARIES)


def class_of(code: types.CodeType) -> str | None:
    """The class whose body the code stands in: it decides what `__name` means.

    >>> class A:
    ...     def f(self): ...
    >>> class_of(A.f.__code__)
    'A'
    """
    for part in reversed(code.co_qualname.split(".<locals>.")):
        names = part.split(".")
        if len(names) > 1:
            return names[-2]
    return None


def find(function: types.FunctionType) -> ast.FunctionDef | ast.Lambda:
    """The function's own syntax tree, with the line numbers of its file. Raises NotConvertible."""
    code = function.__code__
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        raise NotConvertible("it is a generator or a coroutine")
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if len(lines) < code.co_firstlineno:
        raise NotConvertible("its source is not available")
    if code.co_name == "<lambda>":
        return _lambda(code, _tree(code.co_filename, lines))
    node = _block(code, lines) or _named(code, _tree(code.co_filename, lines))
    if node is None:
        raise NotConvertible("its source changed since it was compiled")
    return node


_TREES: dict[str, tuple[list[str], ast.Module]] = {}  # the last few files that were parsed as a whole


def _tree(file: str, lines: list[str]) -> ast.Module:
    known = _TREES.get(file)
    if known is None or known[0] != lines:
        try:
            known = (list(lines), ast.parse("".join(lines)))
        except SyntaxError:  # a notebook cell with magics, or a file changed half-way
            raise NotConvertible("its file cannot be parsed") from None
        while len(_TREES) >= 8:
            del _TREES[next(iter(_TREES))]
        _TREES[file] = known
    return known[1]


def _block(code: types.CodeType, lines: list[str]) -> ast.FunctionDef | None:
    """The `def` alone, without parsing the rest of its file."""
    first = code.co_firstlineno - 1
    indented = lines[first][:1].isspace()
    for block_of in (_indented_block, inspect.getblock):  # the second knows all of Python, and takes its time
        try:
            block = block_of(lines[first:])
            tree = ast.parse(("if 1:\n" if indented else "") + "".join(block))
        except (SyntaxError, IndentationError):
            continue
        node = tree.body[0].body[0] if indented else tree.body[0]  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef) and _fits(node, code):
            ast.increment_lineno(node, first - (1 if indented else 0))
            return node
    return None


def _indented_block(lines: Sequence[str]) -> Sequence[str]:
    """The lines up to the first that stands no further to the right than the `def`. Where that is in the middle of a statement (in
    a string, or after a backslash), they do not parse.

    >>> _indented_block(["@a\\n", "def f(\\n", "    x\\n", "):\\n", "    return x\\n", "y = 1\\n"])[-1]
    '    return x\\n'
    """
    own = _indentation(lines[0])
    begun = False
    for k, line in enumerate(lines):
        text = line.strip()
        if begun and text and text[0] not in "#)]}" and _indentation(line) <= own:
            return lines[:k]
        begun = begun or text.startswith(("def ", "async "))
    return lines


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _named(code: types.CodeType, tree: ast.Module) -> ast.FunctionDef | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *[d.lineno for d in node.decorator_list]])
            if first == code.co_firstlineno and _fits(node, code):
                return node
    return None


def _parameters(args: ast.arguments) -> list[str]:
    rest = [a.arg for a in (args.vararg, args.kwarg) if a is not None]
    return [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]] + rest


def _fits(node: ast.FunctionDef | ast.Lambda, code: types.CodeType) -> bool:
    """Whether the tree can be this code's: same name, same parameters, and no assigned name the code does not know."""
    n = code.co_argcount + code.co_kwonlyargcount
    n += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    if [_plain(p) for p in _parameters(node.args)] != [_plain(p) for p in code.co_varnames[:n]]:
        return False
    if isinstance(node, ast.Lambda):
        return True
    last = max((line or 0 for _, _, line in code.co_lines()), default=0) - code.co_firstlineno
    return node.name == code.co_name and last <= (node.end_lineno or 0) - _first_line(node)


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *[d.lineno for d in node.decorator_list]])


def _plain(name: str) -> str:
    """A name without the class that privacy put before it."""
    return (
        name[name.index("__", 1) :]
        if name.startswith("_") and not name.startswith("__") and "__" in name[1:]
        else name
    )


def _lambda(code: types.CodeType, tree: ast.Module) -> ast.Lambda:
    found = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Lambda) and n.lineno == code.co_firstlineno and _fits(n, code)
    ]
    if len(found) > 1:
        places = [
            (a, c, b, d)
            for a, b, c, d in code.co_positions()
            if None not in (a, b, c, d) and (a, c) != (b, d)
        ]
        misses = [sum(not _inside(p, n) for p in places) for n in found]
        # A lambda inside a lambda lies inside both: the body that fits with the fewest strangers and is the smallest wins.
        order = sorted(range(len(found)), key=lambda i: (misses[i], _extent(found[i])))
        if not places or (misses[order[0]], _extent(found[order[0]])) == (
            misses[order[1]],
            _extent(found[order[1]]),
        ):
            raise NotConvertible("several lambdas on its line cannot be told apart; write it as a def")
        return found[order[0]]
    if not found:
        raise NotConvertible(
            "its source is not available" if not tree.body else "its source changed since it was compiled"
        )
    return found[0]


def _inside(place: tuple[int | None, ...], node: ast.Lambda) -> bool:
    start, end = place[:2], place[2:]
    body = node.body
    return (body.lineno, body.col_offset) <= start and end <= (body.end_lineno, body.end_col_offset)  # type: ignore[operator]


def _extent(node: ast.Lambda) -> tuple[int, int]:
    return ((node.end_lineno or 0) - node.lineno, (node.end_col_offset or 0) - node.col_offset)
