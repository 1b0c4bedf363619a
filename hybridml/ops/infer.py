"""Shape and dtype rules shared by families of rows: specs in, spec out.

Operands arrive promoted, so all tensors of an elementwise op have one dtype; weak scalars are still Python scalars.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import DTypeError
from hybridml.ops.spec import TensorSpec, broadcast_shapes, is_scalar, normalize_axes, spec


def common(*operands: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Broadcast shape and the dtype of the first tensor."""
    specs = [x for x in operands if not is_scalar(x)]
    return broadcast_shapes(*[s.shape for s in specs]), specs[0].dtype


def elementwise(*operands: Any, **_: Any) -> TensorSpec:
    return spec(*common(*operands))


def predicate(*operands: Any, **_: Any) -> TensorSpec:
    """Comparisons and tests: same shape, bool."""
    return spec(common(*operands)[0], dtypes.bool_)


def only(categories: str, rule: Callable[..., TensorSpec] = elementwise) -> Callable[..., TensorSpec]:
    """The rule, for operands of these kinds alone ("f" float, "iu" integers, "b" bool)."""
    names = {"f": "floating point", "iu": "integer", "iub": "integer or bool", "iuf": "numeric", "b": "bool"}

    def checked(*operands: Any, **attrs: Any) -> TensorSpec:
        for x in operands:
            if not is_scalar(x) and dtypes.kind(x.dtype) not in categories:
                raise DTypeError(
                    f"expected a {names.get(categories, categories)} tensor, got {x}; cast it with .astype"
                )
        return rule(*operands, **attrs)

    return checked


def reduced_shape(shape: tuple[int, ...], axis: Any, keepdims: bool) -> tuple[int, ...]:
    axes = normalize_axes(axis, len(shape))
    if keepdims:
        return tuple([1 if i in axes else d for i, d in enumerate(shape)])
    return tuple([d for i, d in enumerate(shape) if i not in axes])


def reduction(x: TensorSpec, *, axis: Any, keepdims: bool) -> TensorSpec:
    return spec(reduced_shape(x.shape, axis, keepdims), x.dtype)


def reduction_to(dtype: np.dtype) -> Callable[..., TensorSpec]:
    def rule(x: TensorSpec, *, axis: Any, keepdims: bool) -> TensorSpec:
        return spec(reduced_shape(x.shape, axis, keepdims), dtype)

    return rule
