"""What the printers of kernels share: indented lines, and the types that scalar text needs."""

from __future__ import annotations

import re

import numpy as np

from hybridml.kernels.spec import Accumulate, suffix

CALL = re.compile(
    r"\b(m_\w+|lane_\w+|[fiu](?:8|16|32|64))(?=\()"
)  # functions and casts that a kernel's text calls

SHORT = frozenset("abs ceil divide floor maximum minimum round rsqrt sign sqrt trunc".split())
"""Scalar functions of a few instructions."""


class Lines:
    """Python text under construction: `out(line)` appends at the current depth."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.depth = 0

    def __call__(self, line: str) -> None:
        self.text.append("    " * self.depth + line)

    def open(self, line: str) -> None:
        self(line)
        self.depth += 1

    def close(self) -> None:
        self.depth -= 1


_ARITHMETIC = re.compile(r"[{}\d\s+*()-]+")


def wrapping(template: str, dtype: np.dtype) -> str:
    """Scalar text whose integer arithmetic wraps around.

    Numba declares that 64-bit signed arithmetic never overflows, and LLVM draws its conclusions (that x - y < 0 where x < y);
    unsigned arithmetic has the same bits and no such promise. Narrower integers are computed in 64 bits.
    """
    if dtype.kind == "i" and dtype.itemsize == 8 and _ARITHMETIC.fullmatch(template):
        return re.sub(r"\{\d\}", r"u64(\g<0>)", template)
    return template


def typed(text: str, s: Accumulate) -> str:
    """The text of a reduction's step, brought back to the accumulator's dtype: Numba widens integers to 64 bits."""
    if s.dtype.kind == "b":
        return f"({text}) != 0"
    widened = s.dtype.kind in "iu" and (s.dtype.itemsize < 8 or "u64(" in text)
    return f"{suffix(s.dtype)}({text})" if widened else text
