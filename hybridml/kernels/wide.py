"""Accesses of several neighbouring elements by one thread, for printed CUDA kernels. Imported by their texts only.

For N of 1, 2, 4, 8 and 16:

    aligned_N(p)                       True if the address is a multiple of N elements' bytes, or of 16
    load_N(p, index, wide, inside)     N elements; in one access where `wide` is true, and none (zeros) where `inside` is false
    store_N(p, index, values, wide)    N elements from a tuple

`load_bools_N` and `store_bools_N` are of bools, which lie in memory as bytes, `load_f16_N`, `store_f16_N`, `load_bf16_N` and `store_bf16_N`
of float32 numbers that lie there as half precision. Numba has no such access: its pointers load one
element. CUDA's simulator and other stand-ins take the Python forms, whose pointers have an `address` and a `dtype`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from hybridml.kernels.half import in_python as in_half
from hybridml.kernels.primitives import HALVES

half = in_half()
WIDTHS = (1, 2, 4, 8, 16)


def _in_python(n: int) -> dict[str, Callable[..., Any]]:
    def size(p: Any) -> int:
        return min(n * int(p.dtype.itemsize), 16)

    def aligned(p: Any) -> bool:
        return bool(p.address % size(p) == 0)

    def check(p: Any, index: Any, wide: bool) -> None:
        at = p.address + int(index) * p.dtype.itemsize
        assert not wide or at % size(p) == 0, f"a wide access of {size(p)} bytes at {at}"

    def load(p: Any, index: Any, wide: bool, inside: bool) -> tuple[Any, ...]:
        if not inside:
            return (p.dtype.type(0),) * n
        check(p, index, wide)
        return tuple([p[int(index) + k] for k in range(n)])

    def load_bools(*args: Any) -> tuple[Any, ...]:
        return tuple([x != 0 for x in load(*args)])

    def load_half(suffix: str) -> Callable[..., Any]:
        return lambda *args: tuple(map(half[f"from_{suffix}"], load(*args)))

    def store(p: Any, index: Any, values: tuple[Any, ...], wide: bool) -> None:
        check(p, index, wide)
        for k in range(n):
            p[int(index) + k] = values[k]

    def store_half(suffix: str) -> Callable[..., Any]:
        return lambda p, index, values, wide: store(p, index, tuple(map(half[f"to_{suffix}"], values)), wide)

    found: dict[str, Callable[..., Any]] = {
        "aligned": aligned,
        "load": load,
        "load_bools": load_bools,
    }
    found |= {"store": store, "store_bools": store}
    for s in HALVES:
        found |= {f"load_{s}": load_half(s), f"store_{s}": store_half(s)}
    return {f"{name}_{n}": f for name, f in found.items()}


def in_python() -> dict[str, Callable[..., Any]]:
    """The Python form of every access, by name."""
    return {name: f for n in WIDTHS for name, f in _in_python(n).items()}


def _on_device() -> dict[str, Any]:
    from hybridml.kernels import wide_access

    return {name: f for n in WIDTHS for name, f in wide_access.accesses(n).items()}


simulated = bool(numba.config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
globals().update(in_python() if simulated else _on_device())
