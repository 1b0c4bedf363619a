"""What one trace remembers about its conversion: variables that were lost, and how deep branches call themselves."""

from __future__ import annotations

import re
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hybridml.errors import SourceLine, TraceError, UndefinedError, located, user_line
from hybridml.trace.autograph import source

MAX_RECURSION = 50


class _Context(threading.local):
    def __init__(self) -> None:
        self.lost: dict[str, str] = {}
        self.branches: dict[types.CodeType, int] = {}


_context = _Context()


def lose(name: str, message: str) -> None:
    """Remember why a variable has no value from here on."""
    _context.lost[name] = message


@contextmanager
def explained() -> Iterator[None]:
    """Turn the NameError of a lost variable into an error that says how it was lost."""
    outer, _context.lost = _context.lost, {}
    try:
        yield
    except NameError as e:
        found = re.search(r"'(\w+)'", str(e))
        message = _context.lost.get(found.group(1)) if found else None
        if message is None or isinstance(e, UndefinedError):
            raise
        raise UndefinedError(located(message, _raised_at(e))) from e
    finally:
        _context.lost = outer


def _raised_at(e: BaseException) -> SourceLine | None:
    at = e.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return (
        None
        if at is None
        else SourceLine(at.tb_frame.f_code.co_filename, at.tb_lineno, at.tb_frame.f_code.co_name)
    )


class branch:
    """Trace one branch of a condition on a tensor; a branch that comes back to itself again and again never ends."""

    def __init__(self, body: Callable[..., Any] | None) -> None:
        code: types.CodeType | None = getattr(body, "__code__", None)
        # Our own wrappers around the sides of a ternary are one code for all ternaries; the user's sides count themselves.
        self._code = code if code is not None and source.is_users(code) else None

    def __enter__(self) -> None:
        code = self._code
        if code is None:
            return
        depth = _context.branches[code] = _context.branches.get(code, 0) + 1
        if depth > MAX_RECURSION:
            _context.branches[code] -= 1
            raise TraceError(
                located(
                    f"`{_user_name(code)}` calls itself in a branch whose condition is a tensor: tracing follows both branches, so it "
                    "never ends. Write the recursion as a loop (`while` on the tensor), or recurse on a Python number",
                    user_line(),
                )
            )

    def __exit__(self, *_: Any) -> None:
        if self._code is not None:
            _context.branches[self._code] -= 1
            if not _context.branches[self._code]:
                del _context.branches[self._code]


def _user_name(code: types.CodeType) -> str:
    """The name of the function that a branch stands in; a side of a ternary is a lambda inside it."""
    return code.co_qualname.removesuffix(".<locals>.<lambda>").rpartition(".")[2]


def first_line(body: Callable[..., Any] | None) -> int | None:
    """The line of a branch's first statement."""
    code = getattr(body, "__code__", None)
    if code is None:
        return None
    lines = [line for _, _, line in code.co_lines() if line]
    later = [line for line in lines if line > code.co_firstlineno]
    return min(later, default=code.co_firstlineno)
