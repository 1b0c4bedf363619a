"""Linear algebra: products, diagonals and norms."""

from hybridml.ops.einsum import einsum, outer, tensordot, vecdot
from hybridml.ops.linalg import matmul
from hybridml.ops.norms import vector_norm
from hybridml.ops.structure import diagonal, trace
from hybridml.ops.view import matrix_transpose

__all__ = [
    "diagonal",
    "einsum",
    "matmul",
    "matrix_transpose",
    "outer",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
