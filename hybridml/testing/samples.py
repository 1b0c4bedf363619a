"""The registry's samples, recast and rearranged for tests."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import dtypes, pytree
from hybridml.ops.registry import NAMESPACES, PUBLIC, Op, Sample


def samples_of(op: Op) -> list[Sample]:
    """An op's samples: the same numbers in every process and order of tests."""
    if op.samples is None:
        return []
    return list(op.samples(np.random.default_rng(zlib.crc32(op.name.encode()))))


def public_functions() -> dict[str, Callable[..., Any]]:
    """The public function of each row, by the row's name."""
    every = [*PUBLIC.values(), *[f for names in NAMESPACES.values() for f in names.values()]]
    return {f.op.name: f for f in every if hasattr(f, "op")}


def recast(args: Any, dtype: Any) -> Any:
    """The arguments with their float arrays in another dtype; values that it cannot hold are brought into its range."""
    dtype = np.dtype(dtype)

    def cast(x: Any) -> Any:
        if not isinstance(x, np.ndarray) or not dtypes.is_float(x.dtype):
            return x
        if dtype.kind in "iu":
            low = 0 if dtype.kind == "u" else -100
            return np.asarray(np.clip(np.nan_to_num(x), low, 100)).astype(dtype)
        with np.errstate(all="ignore"):
            return x.astype(dtype)

    return pytree.map(cast, args)


def strided(args: Any) -> Any:
    """The same values as every second element of a larger array."""

    def spread(x: Any) -> Any:
        if not isinstance(x, np.ndarray) or x.ndim == 0:
            return x
        wide = np.zeros([2 * d for d in x.shape], x.dtype)
        view = wide[tuple([slice(None, None, 2)] * x.ndim)]
        view[...] = x
        return view

    return pytree.map(spread, args)


def transposed(args: Any) -> Any:
    """The same values in column-major order."""
    return pytree.map(lambda x: np.asfortranarray(x) if isinstance(x, np.ndarray) and x.ndim > 1 else x, args)
