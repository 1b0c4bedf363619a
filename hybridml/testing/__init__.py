"""Helpers for testing operations and models: gradients against finite differences, and the registry's samples."""

from hybridml.testing.gradients import check_grads
from hybridml.testing.samples import public_functions, recast, samples_of, strided, transposed

__all__ = ["check_grads", "public_functions", "recast", "samples_of", "strided", "transposed"]
