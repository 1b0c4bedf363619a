"""Floating-point warnings off, without paying for `np.errstate` on every op.

Infinities and NaNs are ordinary values while training, on every device and in every compiled kernel, so eager NumPy must not
warn about them either. `np.errstate` costs a microsecond, four additions' worth; NumPy 2 keeps the same setting in a context
variable, which costs a tenth of that. Where that variable is not found we pay for `np.errstate`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import numpy as np

_variable: ContextVar[Any] | None
try:
    from numpy._core.umath import _extobj_contextvar as _variable

    assert _variable is not None
    with np.errstate(all="ignore"):
        _ignore = _variable.get()
except (ImportError, LookupError):  # another NumPy: the public way
    _variable = None

if _variable is not None:
    enter_with = _variable.set
    leave = _variable.reset
    QUIET: Any = _ignore
else:

    def enter_with(_: Any) -> Any:  # type: ignore[misc]
        manager = np.errstate(all="ignore")
        manager.__enter__()
        return manager

    def leave(manager: Any) -> None:  # type: ignore[misc]
        manager.__exit__(None, None, None)

    QUIET = None
