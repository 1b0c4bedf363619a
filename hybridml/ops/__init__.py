"""What an operation is: one row per op in one registry, and the one door through which it is called."""

from hybridml.ops import (
    composite,
    convolution,
    convolving,
    einsum,
    elementwise,
    getitem,
    identity,
    indexing,
    joining,
    linalg,
    logic,
    norms,
    pooling,
    random,
    reductions,
    sorting,
    statistics,
    structure,
    transcendental,
    view,
)
