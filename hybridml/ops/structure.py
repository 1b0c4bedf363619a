"""Diagonals, triangles and one-hot codes: positions compared, written in other ops."""

from __future__ import annotations

from typing import Any

from hybridml import dtypes
from hybridml.errors import ShapeError
from hybridml.ops.door import beside, lift
from hybridml.ops.elementwise import astype, equal, where
from hybridml.ops.indexing import integer_index
from hybridml.ops.registry import composite
from hybridml.ops.spec import normalize_axis
from hybridml.ops.statistics import iota
from hybridml.ops.view import expand_dims, reshape, strided_slice


def _matrix(x: Any, name: str) -> Any:
    x = lift(x)
    if x.ndim < 2:
        raise ShapeError(f"{name} needs at least 2 dimensions, got shape {x.shape}")
    return x


def _positions(x: Any) -> tuple[Any, Any]:
    """Row and column of each element of a matrix of the last two axes."""
    with beside(x):
        return iota(x.shape[-2:], 0), iota(x.shape[-2:], 1)


@composite()
def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    """The diagonals of the matrices in the last two axes, `offset` above the main one (below it where negative).

    >>> import hybridml as hml
    >>> hml.diagonal([[1., 2.], [3., 4.]]).tolist()
    [1.0, 4.0]
    """
    x = _matrix(x, "diagonal")
    m, n = x.shape[-2:]
    row, column = (-offset, 0) if offset < 0 else (0, offset)
    length = max(min(m - row, n - column), 0)
    flat = reshape(x, (*x.shape[:-2], m * n))
    start = row * n + column if length else 0
    lead = (0,) * (x.ndim - 2)
    stop = start + (length - 1) * (n + 1) + 1 if length else 0
    return strided_slice(flat, (*lead, start), (*x.shape[:-2], stop), (*(1,) * (x.ndim - 2), n + 1))


@composite(namespace="linalg")
def trace(x: Any, /, *, offset: int = 0) -> Any:
    """The sums of the diagonals of the matrices in the last two axes.

    >>> import hybridml as hml
    >>> float(hml.linalg.trace([[1., 2.], [3., 4.]]))
    5.0
    """
    return diagonal(x, offset=offset).sum(axis=-1)


@composite()
def tril(x: Any, /, *, k: int = 0) -> Any:
    """Matrices with zeros above the k-th diagonal.

    >>> import hybridml as hml
    >>> hml.tril([[1., 2.], [3., 4.]]).tolist()
    [[1.0, 0.0], [3.0, 4.0]]
    """
    x = _matrix(x, "tril")
    row, column = _positions(x)
    return where(column <= row + k, x, 0)


@composite()
def triu(x: Any, /, *, k: int = 0) -> Any:
    """Matrices with zeros below the k-th diagonal.

    >>> import hybridml as hml
    >>> hml.triu([[1., 2.], [3., 4.]]).tolist()
    [[1.0, 2.0], [0.0, 4.0]]
    """
    x = _matrix(x, "triu")
    row, column = _positions(x)
    return where(column >= row + k, x, 0)


@composite()
def one_hot(indices: Any, num_classes: int, /, *, axis: int = -1, dtype: Any = None) -> Any:
    """1 where the position along a new axis is the index, else 0; all zeros for an index outside [0, num_classes).

    >>> import hybridml as hml
    >>> hml.one_hot([0, 2], 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    indices = integer_index(indices)
    axis = normalize_axis(axis, indices.ndim + 1)
    line = tuple([num_classes if i == axis else 1 for i in range(indices.ndim + 1)])
    with beside(indices):
        classes = iota(line, axis, indices.dtype)
    hit = equal(expand_dims(indices, axis=axis), classes)
    return astype(hit, dtypes.default_float if dtype is None else dtype)
