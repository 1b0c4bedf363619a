"""Sizes that are not known yet: integer polynomials, and the decisions that a trace has based on their values."""

from hybridml.symbolic.dim import Dim, Real, Sized, dim, has_dims, hint, is_number, substitute
from hybridml.symbolic.scope import Guard, Guards, Scope

__all__ = [
    "Dim",
    "Guard",
    "Guards",
    "Real",
    "Scope",
    "Sized",
    "dim",
    "has_dims",
    "hint",
    "is_number",
    "substitute",
]
