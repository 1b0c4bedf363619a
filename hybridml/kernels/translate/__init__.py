"""Kernel text to LLVM code in one walk over its syntax tree, where Numba would infer types first.

The language is small (see `hybridml.kernels.language`) and every kernel is typed from its first line on, so nothing has to be inferred:
`statements` walks loops and assignments, `expressions` computes, `numbers` holds the rules of arithmetic, which are Numba's. What is
outside of the language raises `Unsupported`, and `hybridml.kernels.compiler` asks Numba.
"""

from hybridml.kernels.translate.module import Translated, translate
from hybridml.kernels.translate.values import Unsupported

__all__ = ["Translated", "Unsupported", "translate"]
