"""Who holds a tensor that escaped its trace: the name an error can show.

Looked for among what the user's frames on the stack can see (locals, closures, globals), two steps deep: a list in a variable, an
attribute of an object in a variable, a list in an attribute.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

from hybridml import errors

WIDTHS = (1000, 30)  # how many items are looked at in what a name holds, and in what is found there


def holder(x: Any) -> str | None:
    """The expression by which the user's code reaches `x`, innermost frame first, or None; a bare name is no news.

    >>> kept = {"losses": [object()]}
    >>> holder(kept["losses"][0])
    "kept['losses'][0]"
    """
    frame = sys._getframe(1)
    while frame is not None:
        if not errors._is_ours(frame):
            for names in (frame.f_locals, frame.f_globals):
                for name, value in list(names.items()):
                    path = None if value is x or name.startswith("__") else _path(value, x, WIDTHS)
                    if path:
                        return name + path
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _path(value: Any, x: Any, widths: tuple[int, ...]) -> str | None:
    """How `x` is reached from `value`: '' if it is `value`, None if it is not found."""
    if value is x:
        return ""
    if widths:
        for step, inner in itertools.islice(_parts(value), widths[0]):
            path = _path(inner, x, widths[1:])
            if path is not None:
                return step + path
    return None


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if type(value) in (list, tuple):
        yield from ((f"[{i}]", v) for i, v in enumerate(value))
    elif type(value) is dict:
        yield from ((f"[{k!r}]", v) for k, v in list(value.items()) if type(k) in (str, int))
    elif not isinstance(value, (type, types.ModuleType, types.FunctionType)):
        try:
            attributes = vars(value)
        except TypeError:  # it has none
            return
        yield from ((f".{k}", v) for k, v in list(attributes.items()))
