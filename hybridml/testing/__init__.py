"""Helpers for testing operations and models: gradients against finite differences, and the registry's samples."""

from hybridml.testing.gradients import check_grads
from hybridml.testing.samples import public_functions, recast, samples_of, strided, transposed
from hybridml.testing.tolerance import TOLERANCE, assert_close, widened
from hybridml.testing.traced import check_traced

__all__ = [
    "TOLERANCE", "assert_close", "check_grads", "check_traced", "public_functions",
    "recast", "samples_of", "strided", "transposed", "widened",
]  # fmt: skip
