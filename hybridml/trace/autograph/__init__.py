"""Control flow written in Python, on tensors of a trace.

A user's function is rewritten once: `if`, `while`, `for`, `and`, `or`, `not`, the ternary, chained comparisons, `assert` and calls
become calls of operators (`operators.py`). An operator looks at its operand when the function is traced: a Python value keeps Python's
meaning exactly; a tensor of the trace becomes a node with sub-graphs.

    source.py      from a code object to its syntax tree
    names.py       scopes and liveness
    jumps.py       return, break, continue and loop-else as flags
    transform.py   the rewriting
    convert.py     compiling, and joining the result to the original's cells and globals
    operators.py   what converted code calls: conditions.py, loops.py (loop_state.py, iterables.py), calls.py
    slots.py       the state that a branch may change; join.py: two branches' states made one
    context.py     what a trace remembers, and the errors it explains
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hybridml.trace.autograph import convert


def run(f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Call `f` converted."""
    from hybridml.trace.autograph.calls import callee
    from hybridml.trace.autograph.context import explained

    with explained():
        return callee(f)(*args, **kwargs)


def text(f: Callable[..., Any]) -> str:
    """The converted source of `f`, or its own with the reason why it is not converted."""
    function = convert.users_function(f)
    if function is None:
        return f"# {f!r} is not a user's Python function, so it is not converted"
    done = convert.conversion(function)
    if done.reason is None:
        return convert.text(function)
    try:
        own = inspect.getsource(function)
    except (OSError, TypeError):
        own = ""
    return f"# not converted: {done.reason}\n{own}"


def why_not() -> str:
    """Why the user's code that runs now is not converted, as the end of a message; empty if it is."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(convert.source.PACKAGE):
        frame = frame.f_back
    reason = convert.reason_of(frame.f_code)
    return f" (`{frame.f_code.co_name}` was not converted: {reason})" if reason else ""
