"""What an operation is: one row per op in one registry, and the one door through which it is called."""

from hybridml.ops import elementwise, linalg, logic, reductions, transcendental, view  # noqa: F401  (importing a family fills the registry)
