"""Vector norms."""

from __future__ import annotations

import math
from typing import Any

from hybridml.ops.door import lift
from hybridml.ops.elementwise import abs as abs_
from hybridml.ops.elementwise import astype, not_equal
from hybridml.ops.reductions import Axis
from hybridml.ops.reductions import max as max_
from hybridml.ops.reductions import min as min_
from hybridml.ops.reductions import sum as sum_
from hybridml.ops.registry import composite
from hybridml.ops.transcendental import sqrt


@composite(namespace="linalg")
def vector_norm(x: Any, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Any:
    """The norm of order `ord` over `axis`: sum(|x|**ord)**(1/ord), the largest or smallest |x| for plus or minus infinity,
    the number of elements that are not 0 for 0.

    The gradient of the 2-norm is not finite at 0.

    >>> import hybridml as hml
    >>> float(hml.linalg.vector_norm([3., -4.]))
    5.0
    """
    x = lift(x)
    if ord == 2:
        return sqrt(sum_(x * x, axis=axis, keepdims=keepdims))
    size = abs_(x)
    if ord == math.inf:
        return max_(size, axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return min_(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum_(astype(not_equal(x, 0), x.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum_(size, axis=axis, keepdims=keepdims)
    return sum_(size**ord, axis=axis, keepdims=keepdims) ** (1 / ord)
