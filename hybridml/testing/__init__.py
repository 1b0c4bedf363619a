"""Helpers for tests: gradients against finite differences, eager against traced, and the registry's samples."""

from hybridml.testing.gradients import check_grads
from hybridml.testing.samples import public_functions, recast, samples_of, strided, transposed
from hybridml.testing.traced import check_traced

__all__ = ["check_grads", "check_traced", "public_functions", "recast", "samples_of", "strided", "transposed"]
