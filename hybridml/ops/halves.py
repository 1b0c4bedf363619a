"""Half precision is computed in single: what an operation gives is rounded once, to the dtype of its operands.

float16 and bfloat16 have too few digits, and float16 too small a range, for sums and for several steps in a row. So the rows that sum or
take several steps widen their operands, and so do a few composites. NumPy does the same for each ufunc of float16; bfloat16 is
widened for those as well, since NumPy sees no number in it and would take a Python scalar beside it for a float64.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.ops.door import lift
from hybridml.ops.registry import PUBLIC

Eager = Callable[..., Any]


def in_single(eager: Eager, *which: np.dtype, beyond_numpy: tuple[np.dtype, ...] | None = None) -> Eager:
    """The eager form of a row, with operands of these dtypes (by default both half precisions) widened and float results rounded.

    Python scalars are rounded as well: they take the dtype of the tensor they meet. `beyond_numpy` are the dtypes for other array
    libraries, where those differ because the library does itself what is asked for here.
    """
    halves = which or dtypes.HALVES
    elsewhere = halves if beyond_numpy is None else beyond_numpy

    @functools.wraps(eager)
    def computed(xp: Any, *operands: Any, **attrs: Any) -> Any:
        for x in operands:
            if getattr(x, "itemsize", 0) == 2 and x.dtype in (halves if xp is np else elsewhere):
                half = x.dtype
                break
        else:
            return eager(xp, *operands, **attrs)
        out = eager(xp, *[_widened(x, half) for x in operands], **attrs)
        return tuple([_rounded(r, half) for r in out]) if type(out) is tuple else _rounded(out, half)

    computed.widened, computed.direct = halves, eager  # type: ignore[attr-defined]  # read by `Op`
    return computed


def of_ufunc(ufunc: Any) -> Eager:
    """The eager form of a row that is one ufunc, of whichever array library."""
    return in_single(lambda xp, *xs: getattr(xp, ufunc.__name__)(*xs), dtypes.bfloat16)


def _widened(x: Any, half: np.dtype) -> Any:
    if hasattr(x, "dtype"):
        return x.astype(np.float32) if x.dtype == half else x
    return x if type(x) is bool else float(np.asarray(float(x)).astype(half))


def _rounded(out: Any, half: np.dtype) -> Any:
    return out.astype(half) if out.dtype == np.float32 else out


def computed_in_single(f: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: this function of a tensor, written in public ops, computes half precision in single and rounds its result."""

    @functools.wraps(f)
    def computed(x: Any, /, *args: Any, **kwargs: Any) -> Any:
        if getattr(getattr(x, "dtype", None), "itemsize", 2) != 2:
            return f(x, *args, **kwargs)
        x = lift(x)
        if not dtypes.is_half(x.dtype):
            return f(x, *args, **kwargs)
        astype = PUBLIC["astype"]  # a row that needs this module
        return astype(f(astype(x, dtypes.float32), *args, **kwargs), x.dtype)

    return computed
