"""What an operation is: one row per op in one registry, and the one door through which it is called."""

from hybridml.ops import (
    composite,
    einsum,
    elementwise,
    getitem,
    identity,
    indexing,
    joining,
    linalg,
    logic,
    norms,
    random,
    reductions,
    sorting,
    standardize,
    statistics,
    structure,
    transcendental,
    view,
)
