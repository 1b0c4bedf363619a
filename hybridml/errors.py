"""Errors are an interface: what was expected, what came, the user's line, and the cure.

Every error is also the built-in exception a Python programmer would expect (`ShapeError` is a `ValueError`), so that `except
ValueError` works for people who never heard of this module.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import NamedTuple

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class HybridMLError(Exception):
    """Base of every error raised on purpose by this package."""


class ShapeError(HybridMLError, ValueError):
    """Shapes that do not fit together."""


class DTypeError(HybridMLError, TypeError):
    """A dtype that is unknown, or that an operation cannot take."""


class DeviceError(HybridMLError, RuntimeError):
    """A device that is not there, or arrays on different devices."""


class DeviceMemoryError(HybridMLError, MemoryError):
    """A device has no memory left for a tensor or a program."""


class TapeError(HybridMLError, RuntimeError):
    """A gradient that cannot be asked of this tape."""


class TracerError(HybridMLError, TypeError):
    """A symbolic tensor used where a value is needed, or outside the trace it was made in."""


class TraceError(HybridMLError, RuntimeError):
    """A function that cannot be traced."""


class SignatureError(HybridMLError, TypeError):
    """Arguments that do not fit a function's signature."""


class GraphError(HybridMLError, RuntimeError):
    """A graph that breaks one of its own rules: always a bug in a pass."""


class MismatchError(HybridMLError, AssertionError):
    """A compiled program that disagrees with the interpreter (`hml.function(f, check=True)`)."""


class NonFiniteError(HybridMLError, ArithmeticError):
    """A NaN or an infinity where `check_finite` was asked to find none."""


class CheckError(HybridMLError, AssertionError):
    """An `assert` on a tensor, or a `check_true`, that failed while the function ran."""


class UndefinedError(TraceError, NameError):
    """A variable that has a value on some paths only, where a tensor decides the path."""


class WeightsError(HybridMLError, ValueError):
    """Values that do not fit a module's variables, or a file that holds none."""


class EndOfDataError(HybridMLError, StopIteration):
    """`next` on an iterator over data that has no more, in a traced function."""


class IndexOutOfRangeError(HybridMLError, IndexError):
    """An index outside its axis."""


class CacheWarning(UserWarning):
    """The kernel cache cannot be used as asked; work goes on without it."""


class CompileWarning(UserWarning):
    """A program that was to be compiled in the background could not be; calls go on without it."""


class RetraceWarning(UserWarning):
    """A function is traced again and again; the message names the argument and the cure."""


class ChangedValueWarning(UserWarning):
    """A Python value that a trace read from outside its arguments is another one now; the message names it."""


class UnrollWarning(UserWarning):
    """A Python loop that wrote thousands of iterations into a graph."""


class GradientWarning(UserWarning):
    """A gradient is None although it was asked for; the message says why."""


class SourceLine(NamedTuple):
    """A place in the user's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)


def user_line(skip: int = 1) -> SourceLine | None:
    """The nearest frame outside this package, or None when there is none (a bare interpreter prompt has one)."""
    frame: FrameType | None = sys._getframe(skip)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    if frame is None:
        return None
    return SourceLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def user_stacklevel() -> int:
    """The `stacklevel` with which `warnings.warn`, called by the caller, points at the user's line."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
        level += 1
    return level


def located(message: str, source: SourceLine | None) -> str:
    """The message with the user's line under it."""
    return f"{message}\n  at {source}" if source is not None else message


def add_users_line(e: HybridMLError) -> None:
    """Put the user's line under the message of an error on its way up, where the place that raised it did not know it."""
    text = str(e)
    if "\n  at " in text:
        return
    source, at = None, e.__traceback__
    while at is not None:
        if not _is_ours(at.tb_frame):
            code = at.tb_frame.f_code
            source = SourceLine(code.co_filename, at.tb_lineno, code.co_name)
        at = at.tb_next
    e.args = (located(text, source), *e.args[1:])
