"""From a function to its converted twin: compile the rewritten tree, and join it to the original's cells, globals and defaults."""

from __future__ import annotations
import __future__

import ast
import inspect
import threading
import types
import weakref
from dataclasses import dataclass
from typing import Any

from hybridml.trace.autograph import source
from hybridml.trace.autograph.jumps import OPERATORS
from hybridml.trace.autograph.source import NotConvertible
from hybridml.trace.autograph.transform import convert


@dataclass(frozen=True)
class Conversion:
    """What became of one code object: new code, or the reason why there is none."""

    file: str
    code: types.CodeType | None
    reason: str | None


_CONVERSIONS: weakref.WeakKeyDictionary[types.CodeType, Conversion] = weakref.WeakKeyDictionary()
_MADE: weakref.WeakSet[types.CodeType] = weakref.WeakSet()  # converted code, functions inside it included
_lock = threading.RLock()


def conversion(function: types.FunctionType) -> Conversion:
    """The conversion of a function's code, made once."""
    code = function.__code__
    with _lock:
        known = _CONVERSIONS.get(code)
        # equal code objects may come from different files
        if known is None or known.file != code.co_filename:
            known = _CONVERSIONS[code] = _convert(function)
        return known


def reason_of(code: types.CodeType) -> str | None:
    """Why this code runs unconverted, or None if it was made by conversion."""
    if not source.is_users(code):
        return "it is library code"
    known = _CONVERSIONS.get(code)
    if known is not None and known.reason is not None:
        return known.reason
    if code in _MADE:
        return None
    return "Python or a library called it, as an operator, a property or a callback"


def _convert(function: types.FunctionType) -> Conversion:
    code = function.__code__
    try:
        if not source.is_users(code):
            raise NotConvertible("it is library code")
        return Conversion(
            code.co_filename, _compile(convert(source.find(function), source.class_of(code)), code), None
        )
    except NotConvertible as e:
        return Conversion(code.co_filename, None, str(e))


def text(function: types.FunctionType) -> str:
    """The converted source of a function that can be converted."""
    return ast.unparse(convert(source.find(function), source.class_of(function.__code__)))


def _compile(tree: ast.FunctionDef | ast.Lambda, original: types.CodeType) -> types.CodeType:
    """Compile inside a function that has the original's free variables, so that they are free again."""
    name = "<lambda>"
    if isinstance(tree, ast.FunctionDef):
        # Under its own name, a global function that calls itself would find this one.
        tree.name = name = "ag__function"
    body: list[ast.stmt] = [tree] if isinstance(tree, ast.FunctionDef) else [ast.Expr(tree)]
    defaults = tree.args
    # Defaults stand for themselves: the values are taken from the original.
    defaults.defaults = [ast.Constant(None) for _ in defaults.defaults]
    defaults.kw_defaults = [None if d is None else ast.Constant(None) for d in defaults.kw_defaults]
    parameters = [ast.arg(x) for x in dict.fromkeys([*original.co_freevars, OPERATORS])]
    arguments = ast.arguments(posonlyargs=[], args=parameters, kwonlyargs=[], kw_defaults=[], defaults=[])
    outer = ast.FunctionDef("ag__factory", arguments, body, [])
    outer.type_params = []  # type: ignore[attr-defined]
    module = ast.fix_missing_locations(ast.Module([ast.copy_location(outer, tree)], []))
    compiled = compile(
        module, original.co_filename, "exec", dont_inherit=True, flags=original.co_flags & _FUTURES
    )
    factory = next(c for c in compiled.co_consts if isinstance(c, types.CodeType))
    code = next(c for c in factory.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
    return _named(code.replace(co_name=original.co_name), original.co_qualname)


_FUTURES = __future__.annotations.compiler_flag


def _named(code: types.CodeType, qualname: str, converted: bool = True) -> types.CodeType:
    """Give branches the name of the function they stand in, so that tracebacks read like the user's program.

    What stands in a class in the function (`converted` is False) is as the user wrote it."""
    consts = []
    for c in code.co_consts:
        if isinstance(c, types.CodeType) and c.co_name.startswith("ag__"):
            c = _named(c.replace(co_name=code.co_name), qualname, converted)
        elif isinstance(c, types.CodeType):
            is_class = not c.co_flags & inspect.CO_OPTIMIZED
            c = _named(c, f"{qualname}.<locals>.{c.co_name}", converted and not is_class)
        consts.append(c)
    new = code.replace(co_consts=tuple(consts), co_qualname=qualname)
    if converted:
        _MADE.add(new)
    return new


_TWIN = "__hml_converted__"


def twin(function: types.FunctionType) -> types.FunctionType:
    """The converted function, or the function itself where there is nothing to convert or no way to.

    The twin is kept in the original's own dictionary: it shares cells that may lead back to the original, and a cycle within one
    object is freed while an entry in a table of ours would keep both alive.
    """
    code = function.__code__
    if OPERATORS in code.co_freevars:
        return function  # made by converted code
    known = function.__dict__.get(_TWIN)
    if known is not None and known[0]() is function and known[1].__defaults__ is function.__defaults__:
        return known[1]
    done = conversion(function)
    if done.code is None:
        return function
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    cells[OPERATORS] = _operators()
    closure = tuple([cells[x] for x in done.code.co_freevars])
    new = types.FunctionType(
        done.code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    new.__kwdefaults__ = function.__kwdefaults__
    new.__qualname__, new.__module__, new.__doc__ = (
        function.__qualname__,
        function.__module__,
        function.__doc__,
    )
    # `functools.wraps` copies dictionaries: hence the reference to the function this is the twin of
    function.__dict__[_TWIN] = (weakref.ref(function), new)
    return new


def _operators() -> types.CellType:
    from hybridml.trace.autograph import operators

    return types.CellType(operators)


def users_function(f: Any) -> types.FunctionType | None:
    """The Python function inside a partial, a method, a callable object or a bound method of a class, if it is a user's."""
    seen = 0
    while seen < 32:
        seen += 1
        if isinstance(f, types.FunctionType):
            inner = getattr(f, "__wrapped__", None)
            if not source.is_users(f.__code__) and isinstance(inner, types.FunctionType):
                f = inner
                continue
            return f if source.is_users(f.__code__) else None
        if isinstance(f, types.MethodType):
            f = f.__func__
        elif hasattr(f, "func") and hasattr(f, "keywords"):
            f = f.func
        elif inspect.isclass(f) or inspect.isbuiltin(f):
            return None
        else:
            f = inspect.getattr_static(type(f), "__call__", None)
    return None
