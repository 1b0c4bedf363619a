"""What an operation is: one row per op in one registry, and the one door through which it is called."""

from hybridml.ops import (  # noqa: F401  (importing a family fills the registry)
    einsum,
    elementwise,
    getitem,
    indexing,
    joining,
    linalg,
    logic,
    reductions,
    sorting,
    statistics,
    structure,
    transcendental,
    view,
)
