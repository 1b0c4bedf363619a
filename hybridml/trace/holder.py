"""Who holds an object: a name for people, found through the garbage collector. Slow, for error messages only."""

from __future__ import annotations

import gc
import sys
import types
from typing import Any

_OURS = "hybridml."


def holder_of(x: Any, depth: int = 3) -> str | None:
    """What keeps `x`, as "the global `kept` of module m" or "item 0 of the attribute `log` of a Net"; None if that cannot be said."""
    for r in gc.get_referrers(x):
        found = _described(r, x, depth)
        if found is not None:
            return found
    return None


def _described(r: Any, x: Any, depth: int) -> str | None:
    if isinstance(r, types.FrameType) or type(r).__module__.startswith(_OURS):
        return None
    if isinstance(r, dict):
        key = next((k for k, v in r.items() if v is x), None)
        return None if key is None else _in_dict(r, key, depth)
    if isinstance(r, (list, tuple)):
        outer = holder_of(r, depth - 1) if depth else None
        at = next((i for i, v in enumerate(r) if v is x), None)
        return (
            None if at is None or outer is None else f"item {at} of {outer}"
        )  # else it may be a call's arguments
    if isinstance(r, types.CellType):
        return _in_closure(r)
    names = [k for k, v in getattr(r, "__dict__", {}).items() if v is x]
    return f"the attribute `{names[0]}` of a {type(r).__name__}" if names else None


def _in_dict(d: dict[Any, Any], key: Any, depth: int) -> str | None:
    module = sys.modules.get(str(d.get("__name__")))
    if module is not None and vars(module) is d:
        return (
            None if module.__name__.startswith(_OURS) else f"the global `{key}` of module {module.__name__}"
        )
    for o in gc.get_referrers(d):
        if getattr(o, "__dict__", None) is d:
            ours = type(o).__module__.startswith(_OURS)
            return None if ours else f"the attribute `{key}` of a {type(o).__name__}"
    outer = holder_of(d, depth - 1) if depth else None
    return f"item {key!r} of {outer}" if outer else None


def _in_closure(cell: types.CellType) -> str | None:
    for t in gc.get_referrers(cell):
        for f in gc.get_referrers(t) if isinstance(t, tuple) else ():
            if (
                isinstance(f, types.FunctionType)
                and f.__closure__ is t
                and not str(f.__module__).startswith(_OURS)
            ):
                at = next(i for i, c in enumerate(f.__closure__ or ()) if c is cell)
                return f"the closure variable `{f.__code__.co_freevars[at]}` of {f.__name__}"
    return None
