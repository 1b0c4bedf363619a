"""What a Python function can get at by itself, without its arguments: closures, globals, defaults, and what hangs on those."""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable

LIMIT = 4000  # objects looked at
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type, Tensor)


def code_names(code: types.CodeType) -> set[str]:
    """Every global or attribute name that a function, or one defined inside it, mentions."""
    names = set(code.co_names)
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            names |= code_names(c)
    return names


def _next(x: Any) -> Iterator[Any]:
    if isinstance(x, types.FunctionType):
        for cell in x.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from x.__defaults__ or ()
        yield from (x.__kwdefaults__ or {}).values()
        names = code_names(x.__code__)
        for name in names:
            found = x.__globals__.get(name)
            if isinstance(found, types.ModuleType):
                yield from [v for n in names if (v := vars(found).get(n)) is not None]
            else:
                yield found
    elif isinstance(x, types.MethodType):
        yield x.__self__
        yield x.__func__
    elif isinstance(x, weakref.ref):
        yield x()
    elif isinstance(x, functools.partial):
        yield x.func
        yield from x.args
        yield from x.keywords.values()
    elif isinstance(x, (list, tuple, set, frozenset, deque)):
        yield from x
    elif isinstance(x, dict):
        yield from x.values()
    else:
        yield from list(getattr(x, "__dict__", {}).values())
        yield vars(type(x)).get("__call__")  # a callable object: what its class's function mentions


def reaches(roots: Iterable[Any], wanted: Iterable[Any], limit: int = LIMIT, at_limit: bool = True) -> bool:
    """True if one of the wanted objects can be got at from the roots; `at_limit` if there is too much to look at."""
    targets = {id(v) for v in wanted}
    todo = list(roots)
    seen: set[int] = set()
    while todo:
        x = todo.pop()
        if id(x) in targets:
            return True
        if id(x) in seen or isinstance(x, (*_PLAIN, types.ModuleType, Variable)) or _is_foreign(x):
            continue
        seen.add(id(x))
        if len(seen) > limit:
            return at_limit
        todo.extend(_next(x))
    return False


def _is_foreign(x: Any) -> bool:
    """Functions of this package and of NumPy hold nobody's variables."""
    return (
        isinstance(x, types.FunctionType)
        and x.__module__ is not None
        and x.__module__.split(".")[0] in ("hybridml", "numpy")
    )
