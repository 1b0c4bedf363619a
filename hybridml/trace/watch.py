"""Python values that a trace took from outside its arguments, so that a later change can be noticed.

A traced function reads a closure variable, a global or an attribute once, and what it read is part of the graph. Which ones it may
read stands in its bytecode: a name, then attributes. Those that lead to a plain value (a number, a string, a bool, None, a tuple of
them) are remembered with that value. Names that the function itself assigns are left out: they count calls, or fill caches.
"""

from __future__ import annotations

import dis
import functools
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hybridml import pytree

FUNCTIONS = 64  # that one trace looks into
_MISSING = object()
_FOREIGN = ("hybridml", "numpy", "scipy", "numba")


def is_plain(x: Any) -> bool:
    """True for a value that is compared by value: it cannot change, only the name can lead to another one."""
    if isinstance(x, tuple):
        return all(map(is_plain, x))
    return x is None or type(x) in (bool, int, float, complex, str, bytes)


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and (a == b or repr(a) == repr(b)))  # NaN is itself


@functools.lru_cache(maxsize=1024)
def _mentions(code: types.CodeType) -> tuple[tuple[tuple[str, str, tuple[str, ...]], ...], frozenset[str]]:
    """((kind of name, name, attributes), ...) that the code reads, and names and attributes that it assigns."""
    found: dict[tuple[str, str, tuple[str, ...]], None] = {}
    stored: set[str] = set()
    root: tuple[str, str] | None = None
    attrs: tuple[str, ...] = ()
    for i in dis.get_instructions(code):
        if i.opname.startswith("STORE_") and i.opname in ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR"):
            stored.add(i.argval)
        if root is not None and i.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attrs = (*attrs, i.argval)
            continue
        if root is not None:
            found[(*root, attrs)] = None
        root, attrs = _root(i), ()
    return tuple(found), frozenset(stored)


def _root(i: dis.Instruction) -> tuple[str, str] | None:
    if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
        return ("global", i.argval)
    if i.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
        return ("cell", i.argval)
    if i.opname.startswith("LOAD_FAST"):
        return ("local", i.argval[-1] if isinstance(i.argval, tuple) else i.argval)
    return None


def _attribute(x: Any, name: str) -> Any:
    """An attribute that lies in an object, its class or its module; nothing is run to find it."""
    found = getattr(x, "__dict__", {}).get(name, _MISSING)
    if found is not _MISSING or isinstance(x, types.ModuleType):
        return found
    for c in type(x).__mro__:
        if name in vars(c):
            found = vars(c)[name]
            if isinstance(found, types.MemberDescriptorType):  # a slot
                return getattr(x, name, _MISSING)
            return types.MethodType(found, x) if isinstance(found, types.FunctionType) else found
    return _MISSING


class Read:
    """One value that a trace may have read: its name for people, how to get at it, and what it was."""

    __slots__ = ("attrs", "get", "name", "value")

    def __init__(self, name: str, get: Callable[[], Any], attrs: tuple[str, ...], value: Any) -> None:
        self.name, self.get, self.attrs, self.value = name, get, attrs, value

    def now(self) -> Any:
        """The value, or what is there instead; the old value where nothing can be found any more."""
        x = self.get()
        for a in self.attrs:
            if x is _MISSING:
                break
            x = _attribute(x, a)
        return self.value if x is _MISSING else x

    @property
    def changed(self) -> bool:
        return not _same(self.now(), self.value)


def _weakly(x: Any) -> Callable[[], Any]:
    try:
        ref = weakref.ref(x)
    except TypeError:
        return lambda: x
    return lambda: _MISSING if (found := ref()) is None else found


class _Scan:
    def __init__(self) -> None:
        self.found: dict[
            tuple[int, str], Read
        ] = {}  # by where the value lies: the name met first is the nearest
        self.stored: set[str] = set()
        self._shown: dict[int, str] = {}  # objects with state, by id: what people call them
        self._seen: set[Any] = set()
        self._todo: list[tuple[Any, Mapping[str, Any]]] = []

    def run(self, f: Any, known: Mapping[str, Any]) -> None:
        """Look into a function, then into those it mentions, and so on."""
        self._todo.append((f, known))
        for g, objects in self._todo:  # it grows meanwhile
            self._function(g, objects)

    def _function(self, f: Any, known: Mapping[str, Any]) -> None:
        """Note what a function mentions, and look into the functions it may call. `known` are arguments that are objects."""
        while isinstance(f, (functools.partial, types.MethodType)) or hasattr(f, "__wrapped__"):
            if isinstance(f, types.MethodType):
                first = _first_parameter(f.__func__)
                known = {first: f.__self__} if first is not None else {}
            f = f.func if isinstance(f, functools.partial) else getattr(f, "__func__", None) or f.__wrapped__
        if not isinstance(f, types.FunctionType):
            return
        key = (f.__code__, *sorted((k, id(v)) for k, v in known.items()))
        if (
            key in self._seen
            or len(self._seen) >= FUNCTIONS
            or (f.__module__ or "").split(".")[0] in _FOREIGN
        ):
            return
        self._seen.add(key)
        cells = dict(zip(f.__code__.co_freevars, f.__closure__ or (), strict=True))
        for code in _codes(f.__code__):
            mentioned, stored = _mentions(code)
            self.stored |= stored
            for kind, name, attrs in mentioned:
                get = self._getter(kind, name, f.__globals__, cells, known if code is f.__code__ else {})
                if get is not None:
                    self._follow(name, get, attrs, cells.get(name, f.__globals__))

    def _getter(
        self, kind: str, name: str, names: dict[str, Any], cells: Mapping[str, Any], known: Mapping[str, Any]
    ) -> Callable[[], Any] | None:
        if kind == "global":
            return (lambda: names.get(name, _MISSING)) if name in names else None
        if kind == "cell" and name in cells:
            cell = cells[name]
            return lambda: _content(cell)
        return _weakly(known[name]) if name in known else None

    def _follow(self, name: str, get: Callable[[], Any], attrs: tuple[str, ...], owner: Any) -> None:
        x = get()
        for k in range(len(attrs) + 1):
            if x is _MISSING or is_plain(x):
                break
            if isinstance(x, types.ModuleType) and x.__name__.split(".")[0] in _FOREIGN:
                return
            if isinstance(
                x, (types.FunctionType, types.MethodType, functools.partial)
            ) or "__wrapped__" in getattr(x, "__dict__", {}):
                self._todo.append((x, {}))
            elif pytree.is_state(x):
                self._state(".".join((name, *attrs[:k])), x)
            elif isinstance(type(x).__dict__.get("__call__"), types.FunctionType) and not _foreign(x):
                self._todo.append((types.MethodType(type(x).__dict__["__call__"], x), {}))
            if k < len(attrs):
                owner, x = x, _attribute(x, attrs[k])
        else:
            return
        if x is not _MISSING:
            path = attrs[:k]
            last = (name, *path)[-1]
            name = self._shown.get(id(get()), name)
            self.found.setdefault((id(owner), last), Read(".".join((name, *path)), get, path, x))

    def _state(self, name: str, x: Any) -> None:
        """Look into an object with state: what its class reads when it is called, and all settings of a layer of this package."""
        if id(x) in self._shown:
            return
        form: Any = pytree.flatten(x, opened=True)[1].aux
        for path, part, call in form.watched():
            shown = f"{name}.{path}" if path else name
            if self._shown.setdefault(id(part), shown) is not shown:
                continue
            if not _foreign(part):
                self._todo.append((call, {}))
                continue
            for attribute, value in vars(part).items():
                if is_plain(value) and not attribute.startswith("_"):
                    read = Read(f"{shown}.{attribute}", _weakly(part), (attribute,), value)
                    self.found.setdefault((id(part), attribute), read)

    def reads(self) -> Iterator[Read]:
        for (_, name), read in self.found.items():
            if name not in self.stored:
                yield read


def _foreign(x: Any) -> bool:
    return type(x).__module__.split(".")[0] in _FOREIGN


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return _MISSING


def _first_parameter(f: Any) -> str | None:
    code = getattr(f, "__code__", None)
    return code.co_varnames[0] if code is not None and code.co_argcount else None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for c in code.co_consts:
        if isinstance(c, types.CodeType):
            yield from _codes(c)


def reads_of(f: Callable[..., Any], known: Mapping[str, Any]) -> tuple[Read, ...]:
    """The plain values that `f` may read from outside its arguments, as they are now. `known` are arguments that are objects."""
    scan = _Scan()
    try:
        scan.run(f, known)
    except Exception:  # an object that does not like to be looked at: no reason to refuse a call
        return ()
    return tuple(scan.reads())
