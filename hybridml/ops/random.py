"""Random numbers as rows: pure functions of two words, seed and counter (Philox4x32-10).

The same words give the same bits eagerly, traced, on the CPU and on a GPU. A state is the two as one uint64[2] tensor; who
owns it moves the counter on by `blocks_used` after every draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import dtypes
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops import philox
from hybridml.ops.door import call, lift
from hybridml.ops.registry import Kind, Op, Promote, Sample, composite, public, register
from hybridml.ops.spec import Shape, TensorSpec, spec
from hybridml.ops.view import reshape, strided_slice


def blocks_used(shape: Shape, dtype: np.dtype) -> int:
    """How far a draw moves the counter: blocks of four 32-bit words, whole ones."""
    words = int(np.prod(shape, dtype=np.int64)) * (2 if dtype.itemsize == 8 else 1)
    return -(-words // 4)


def _row(name: str, makers: dict[np.dtype, Any]) -> Op:
    """A row of numbers straight from the stream, in one of several dtypes."""

    def infer(seed: TensorSpec, counter: TensorSpec, *, shape: Shape, dtype: np.dtype) -> TensorSpec:
        if seed.shape != () or counter.shape != () or {seed.dtype, counter.dtype} != {dtypes.uint64}:
            raise ShapeError(f"seed and counter of random numbers are uint64[], got {seed} and {counter}")
        if dtype not in makers:
            raise DTypeError(f"expected {' or '.join(d.name for d in makers)} for {name}, got {dtype.name}")
        return spec(shape, dtype)

    def eager(xp: Any, seed: Any, counter: Any, *, shape: Shape, dtype: np.dtype) -> Any:
        n = int(np.prod(shape, dtype=np.int64))
        return xp.asarray(makers[dtype](int(seed), int(counter), n).reshape(shape))

    state = np.array([7, 2**64 - 1], np.uint64)
    return register(Op(
        name, Kind.RANDOM, infer=infer, eager=eager, promote=Promote.NO, fixed=2,
        scalar=name.replace("random_normal", "m_normal").replace("random_bits", "m_random_bits") + "({0}, {1}, {index})",
        samples=lambda rng: [
            Sample((state, shape, d), differentiable=False, label=f"{shape} {d}")
            for shape in ((3, 5), (), (0,), (9,))
            for d in makers
        ],
    ))  # fmt: skip


RANDOM_BITS = _row("random_bits", {dtypes.uint32: philox.random_bits, dtypes.uint64: philox.random_bits_u64})
RANDOM_NORMAL = _row("random_normal", {dtypes.float32: philox.normal_f32, dtypes.float64: philox.normal_f64})


def _infer_unit(bits: TensorSpec) -> TensorSpec:
    if bits.dtype not in (dtypes.uint32, dtypes.uint64):
        raise DTypeError(f"expected random bits as uint32 or uint64, got {bits}")
    return spec(bits.shape, dtypes.float32 if bits.dtype == dtypes.uint32 else dtypes.float64)


def _eager_unit(xp: Any, bits: Any) -> Any:
    if bits.dtype == np.uint32:
        return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    if bits.dtype == np.uint64:
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    raise TypeError("not random bits")


UNIT_FLOAT = register(Op(
    "unit_float", Kind.ELEMENTWISE, infer=_infer_unit, eager=_eager_unit, promote=Promote.NO, fixed=1, scalar="m_uniform({0})",
    samples=lambda rng: [
        Sample((rng.integers(0, 2**32, (3, 5), np.uint32),), differentiable=False),
        Sample((np.array([0, 255, 256, 2**32 - 1], np.uint32),), differentiable=False, label="ends"),
        Sample((np.array([0, 2047, 2048, 2**64 - 1], np.uint64),), differentiable=False, label="ends"),
    ],
    reference=lambda bits: np.floor(bits / 2.0**8) / 2**24 if bits.dtype == np.uint32 else np.array(
        [(int(b) >> 11) / 2**53 for b in bits.flat]
    ).reshape(bits.shape),
))  # fmt: skip


@public(UNIT_FLOAT, namespace="random")
def unit_float(bits: Any, /) -> Any:
    """Random bits as floats spread evenly over [0, 1): float32 from uint32, float64 from uint64.

    >>> import hybridml as hml, numpy as np
    >>> hml.random.unit_float(np.array([0, 2**31], np.uint32)).tolist()
    [0.0, 0.5]
    """
    return call(UNIT_FLOAT, lift(bits))


def _words(state: Any) -> tuple[Any, Any]:
    state = lift(state)
    if state.shape != (2,) or state.dtype != dtypes.uint64:
        raise ShapeError(f"a random state is uint64[2], seed and counter; got {state.dtype.name}{list(state.shape)}")
    seed, counter = (reshape(strided_slice(state, (i,), (i + 1,), (1,)), ()) for i in (0, 1))
    return seed, counter


@public(RANDOM_BITS, namespace="random")
def stateless_bits(state: Any, shape: Shape, dtype: Any = dtypes.uint32, /) -> Any:
    """Random 32- or 64-bit integers of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> [hex(w) for w in hml.random.stateless_bits(np.array([0, 0], np.uint64), (2,)).tolist()]
    ['0x6627e8d5', '0xe169c58d']
    """
    return call(RANDOM_BITS, *_words(state), shape=tuple(shape), dtype=dtypes.as_dtype(dtype))


@composite(namespace="random")
def stateless_uniform(state: Any, shape: Shape, dtype: Any = dtypes.float32, /) -> Any:
    """Uniform float32 or float64 in [0, 1) of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> hml.random.stateless_uniform(np.array([0, 0], np.uint64), (2, 3)).shape
    (2, 3)
    """
    wide = dtypes.as_dtype(dtype) == dtypes.float64
    return unit_float(stateless_bits(state, shape, dtypes.uint64 if wide else dtypes.uint32))


@public(RANDOM_NORMAL, namespace="random")
def stateless_normal(state: Any, shape: Shape, dtype: Any = dtypes.float32, /) -> Any:
    """Standard normal floats of a state, uint64[2] = [seed, counter].

    >>> import hybridml as hml, numpy as np
    >>> hml.random.stateless_normal(np.array([0, 0], np.uint64), (2, 3)).shape
    (2, 3)
    """
    return call(RANDOM_NORMAL, *_words(state), shape=tuple(shape), dtype=dtypes.as_dtype(dtype))
