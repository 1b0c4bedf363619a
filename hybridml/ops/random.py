"""Random numbers as rows: a pure function of a state of two words, seed and counter (Philox4x32-10).

The same state gives the same bits eagerly, traced, on the CPU and on a GPU. Who owns a state moves its counter on by
`blocks_used` after every draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops import philox
from hybridml.ops.door import call, lift
from hybridml.ops.registry import Kind, Op, Promote, Sample, public, register
from hybridml.ops.spec import Shape, TensorSpec, spec


def blocks_used(shape: Shape, dtype: np.dtype) -> int:
    """How far a draw moves the counter: blocks of four 32-bit words, whole ones."""
    words = math.prod(shape) * (2 if dtype.itemsize == 8 else 1)
    return -(-words // 4)


def _row(
    name: str, stream: dict[np.dtype, Callable[[int, int, int, Any], Any]], scalar: dict[np.dtype, str]
) -> Op:
    def infer(state: TensorSpec, *, shape: Shape, dtype: np.dtype) -> TensorSpec:
        if state.shape != (2,) or state.dtype != dtypes.uint64:
            raise ShapeError(f"a random state is uint64[2], seed and counter; got {state}")
        if dtype not in stream:
            raise DTypeError(f"{name} makes {' or '.join(d.name for d in stream)}, not {dtype.name}")
        return spec(shape, dtype)

    def eager(xp: Any, state: Any, *, shape: Shape, dtype: np.dtype) -> Any:
        seed, counter = state.tolist()
        return stream[dtype](seed, counter, math.prod(shape), xp).reshape(shape)

    state = np.array([7, 2**64 - 1], np.uint64)
    return register(Op(
        name, Kind.RANDOM, infer=infer, eager=eager, promote=Promote.NO,
        scalar=lambda operands, out, **_: scalar[out],
        samples=lambda rng: [
            Sample((state, shape, d), differentiable=False, label=f"{shape} {d}")
            for shape in ((3, 5), (), (0,), (9,)) for d in stream
        ],
    ))  # fmt: skip


RANDOM_BITS = _row(
    "random_bits",
    {dtypes.uint32: philox.random_bits, dtypes.uint64: philox.random_bits_u64},
    {
        dtypes.uint32: "m_random_bits_u32({seed}, {counter}, {index})",
        dtypes.uint64: "m_random_bits_u64({seed}, {counter}, {index})",
    },
)
RANDOM_UNIFORM = _row(
    "random_uniform",
    {dtypes.float32: philox.uniform_f32, dtypes.float64: philox.uniform_f64},
    {
        dtypes.float32: "m_uniform_f32(m_random_bits_u32({seed}, {counter}, {index}))",
        dtypes.float64: "m_uniform_f64(m_random_bits_u64({seed}, {counter}, {index}))",
    },
)
RANDOM_NORMAL = _row(
    "random_normal",
    {dtypes.float32: philox.normal_f32, dtypes.float64: philox.normal_f64},
    {
        dtypes.float32: "m_normal_f32({seed}, {counter}, {index})",
        dtypes.float64: "m_normal_f64({seed}, {counter}, {index})",
    },
)


@public(RANDOM_BITS, namespace="random")
def stateless_bits(state: Any, shape: Shape, dtype: Any = dtypes.uint32, /) -> Any:
    """Random 32- or 64-bit integers of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> [hex(w) for w in hml.random.stateless_bits(np.array([0, 0], np.uint64), (2,)).tolist()]
    ['0x6627e8d5', '0xe169c58d']
    """
    return call(RANDOM_BITS, lift(state), shape=tuple(shape), dtype=dtypes.as_dtype(dtype))


@public(RANDOM_UNIFORM, namespace="random")
def stateless_uniform(state: Any, shape: Shape, dtype: Any = dtypes.float32, /) -> Any:
    """Uniform floats in [0, 1) of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> hml.random.stateless_uniform(np.array([0, 0], np.uint64), (2, 3)).shape
    (2, 3)
    """
    return call(RANDOM_UNIFORM, lift(state), shape=tuple(shape), dtype=dtypes.as_dtype(dtype))


@public(RANDOM_NORMAL, namespace="random")
def stateless_normal(state: Any, shape: Shape, dtype: Any = dtypes.float32, /) -> Any:
    """Standard normal floats of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> hml.random.stateless_normal(np.array([0, 0], np.uint64), (2, 3)).shape
    (2, 3)
    """
    return call(RANDOM_NORMAL, lift(state), shape=tuple(shape), dtype=dtypes.as_dtype(dtype))
