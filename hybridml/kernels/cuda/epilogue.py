"""What a matrix product does to its result before storing it, said without a library; and the row of such a product.

With p = op(a) @ op(b), one of a batch or several, over rows of n columns, in this order:

    p + residual                  what has the shape of the result
    p + bias                      a vector of n elements, added to every row; or one for each product of a batch
    f(p)                          relu, or gelu by tanh
    kept                          what the derivative will read: for relu the signs of its operand (bits), for gelu the operand
    p * f'(kept)                  the derivative instead of the function, in the product on the way back
    sums                          over a product's rows: of the result ("rows"), or of b over k ("second"), a bias's gradient either way

All of that is computed in float32 where elements have 16 bits, and rounded once. The row's eager form is the definition, as for every
row; it stands here because only the compiler makes such nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridml import config
from hybridml.ops.registry import Kind, Op
from hybridml.ops.spec import TensorSpec, spec

SIGNS_IN_A_ROW = 128  # rows of signs are padded to so many bits, as cuBLASLt has them


@dataclass(frozen=True)
class Epilogue:
    """See above. `function` and `derivative` are "", "relu" or "gelu"; at most one of them is given."""

    residual: bool = False
    bias: bool = False
    each: bool = False  # there is a bias for each product of a batch
    function: str = ""
    keeps: bool = False
    derivative: str = ""
    sums: str = ""  # "", "rows" or "second"; in a batch, sums for each product

    def __bool__(self) -> bool:
        return self != NOTHING

    def __str__(self) -> str:
        said = ["residual"] * self.residual + [("biases" if self.each else "bias")] * self.bias
        said += [self.function] * bool(self.function) + ["kept"] * self.keeps
        said += [f"{self.derivative} gradient"] if self.derivative else []
        return ", ".join([*said, *(["bias gradient"] if self.sums else [])]) or "nothing"


NOTHING = Epilogue()
LOSES_NAN = (
    "the library's relu makes 0 of NaN (https://forums.developer.nvidia.com/t/329783), which the definition does not; "
    "HYBRIDML_FAST_MATH=1 lets it"
)


def otherwise(e: Epilogue, dtype: str) -> str | None:
    """Why a library's epilogue gives something else than the definition, or None where that is allowed or not so."""
    if dtype == "float64" and "gelu" in (e.function, e.derivative):
        return "nothing says that the library's gelu is exact to more than single precision"
    return LOSES_NAN if e.function == "relu" and not config.get().fast_math else None


def kept_spec(function: str, rows: int, columns: int, result: TensorSpec) -> TensorSpec:
    """What a function's derivative reads: rows of bits for relu, its operand for gelu."""
    if function == "gelu":
        return result
    return spec((rows, -(-columns // SIGNS_IN_A_ROW) * SIGNS_IN_A_ROW // 8), np.dtype(np.uint8))


def gelu(xp: Any, z: Any) -> Any:
    """By tanh."""
    return 0.5 * z * (1 + xp.tanh(_inner(z)))


def gelu_derivative(xp: Any, z: Any) -> Any:
    """Of `gelu`."""
    t = xp.tanh(_inner(z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)


def _inner(z: Any) -> Any:
    return (z + z * z * z * 0.044715) * math.sqrt(2 / math.pi)


def signs(xp: Any, z: Any) -> Any:
    """Rows of bits: 0 where relu is flat. NaN counts as positive."""
    bits = xp.zeros((z.shape[0], -(-z.shape[1] // SIGNS_IN_A_ROW) * SIGNS_IN_A_ROW), xp.uint8)
    bits[:, : z.shape[1]] = ~(z <= 0)
    return xp.packbits(bits.ravel(), bitorder="little").reshape(len(bits), -1)  # CuPy knows no axis


def _infer(
    a: TensorSpec, b: TensorSpec, *rest: TensorSpec, ta: bool, tb: bool, shape: Any, batch: int, epilogue: Epilogue
) -> Any:  # fmt: skip
    result, columns = spec(shape, a.dtype), shape[-1]
    found = [result]
    if epilogue.keeps:
        found.append(kept_spec(epilogue.function, math.prod(shape[:-1]), columns, result))
    if epilogue.sums:
        found.append(spec(sums_shape(batch, columns), a.dtype))
    return tuple(found)


def sums_shape(batch: int, columns: int) -> tuple[int, ...]:
    """Of a bias's gradient."""
    return (columns,) if batch == 1 else (batch, columns)


def wide(x: Any) -> Any:
    """In float32, if there are fewer bits."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _eager(
    xp: Any, a: Any, b: Any, *rest: Any, ta: bool, tb: bool, shape: Any, batch: int, epilogue: Epilogue
) -> Any:
    more, columns, dtype = list(rest), shape[-1], a.dtype
    a, b = wide(a), wide(b)
    p = xp.matmul(a.swapaxes(-1, -2) if ta else a, b.swapaxes(-1, -2) if tb else b)
    p = p.reshape(batch, -1, columns)
    if epilogue.residual:
        p = p + more.pop(0).reshape(p.shape)
    if epilogue.bias:
        p = p + more.pop(0).reshape(-1, 1, columns)
    z = p
    if epilogue.function:
        p = xp.where(z <= 0, 0, z) if epilogue.function == "relu" else gelu(xp, z)
    if epilogue.derivative == "relu":
        signs_of = more.pop(0)
        bits = xp.unpackbits(signs_of.ravel(), bitorder="little").reshape(len(signs_of), -1)[:, :columns]
        p = xp.where(bits.reshape(p.shape) == 0, 0, p)
    elif epilogue.derivative:
        p = p * gelu_derivative(xp, wide(more.pop(0)).reshape(p.shape))
    found = [p.astype(dtype).reshape(shape)]
    if epilogue.keeps:
        relu = epilogue.function == "relu"
        found.append(signs(xp, z.reshape(-1, columns)) if relu else z.astype(dtype).reshape(shape))
    if epilogue.sums:
        summed = p if epilogue.sums == "rows" else b.reshape(batch, -1, columns)
        found.append(summed.sum(axis=1).astype(dtype).reshape(sums_shape(batch, columns)))
    return tuple(found)


PRODUCT = Op("matmul_epilogue", Kind.EXTERN, provider="gemm", infer=_infer, eager=_eager)
"""A matmul node with what follows it. Inputs: a, b, then the residual, the bias and what a derivative reads; outputs: the result, then
what is kept, then the sums. `batch` is how many products it is."""
