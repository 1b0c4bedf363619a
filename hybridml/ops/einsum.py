"""einsum and other contractions, written as permutations, reshapes and matrix products.

`np.einsum_path` chooses the order of contraction; everything else is public ops, so it traces and has gradients.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.errors import ShapeError
from hybridml.ops.door import lift
from hybridml.ops.linalg import matmul
from hybridml.ops.reductions import sum as sum_
from hybridml.ops.registry import composite
from hybridml.ops.spec import normalize_axis
from hybridml.ops.structure import diagonal
from hybridml.ops.view import broadcast_to, expand_dims, moveaxis, permute_dims, reshape
from hybridml.symbolic import hint

Term = tuple[str, Any]  # the labels of a tensor's axes, and the tensor


def _parse(equation: str, xs: list[Any]) -> tuple[list[str], str]:
    """Labels of each operand and of the result, with letters in place of the ellipses."""
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    inputs = left.split(",")
    if len(inputs) != len(xs):
        raise ShapeError(f"einsum {equation!r} names {len(inputs)} operands, got {len(xs)}")
    spare = [c for c in string.ascii_letters if c not in equation]
    widths = [
        x.ndim - len(i.replace("...", "")) if "..." in i else 0 for i, x in zip(inputs, xs, strict=True)
    ]
    if min(widths) < 0:
        raise ShapeError(
            f"einsum {equation!r} names more axes than an operand of {[x.shape for x in xs]} has"
        )
    dots = spare[: max(widths)]
    inputs = [i.replace("...", "".join(dots[len(dots) - w :])) for i, w in zip(inputs, widths, strict=True)]
    for labels, x in zip(inputs, xs, strict=True):
        if len(labels) != x.ndim or (not labels.isalpha() and labels):
            raise ShapeError(
                f"einsum {equation!r}: an operand of shape {x.shape} is named {labels!r}, one letter an axis"
            )
    if arrow:
        return inputs, right.replace("...", "".join(dots))
    joined = "".join(inputs)
    once = sorted(c for c in set(joined) if joined.count(c) == 1 and c not in dots)
    return inputs, "".join(dots) + "".join(once)


def _sizes(equation: str, terms: list[Term]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for labels, x in terms:
        for c, d in zip(labels, x.shape, strict=True):
            if sizes.setdefault(c, d) != d:
                if 1 not in (sizes[c], d):
                    raise ShapeError(
                        f"einsum {equation!r}: axis {c!r} has size {sizes[c]} in one operand and {d} in another"
                    )
                sizes[c] = max(sizes[c], d)
    return sizes


def _alone(term: Term, keep: set[str]) -> Term:
    """Repeated labels become diagonals, and labels that nobody needs are summed away."""
    labels, x = term
    for c in sorted(set(labels)):
        while labels.count(c) > 1:
            i = labels.index(c)
            j = labels.index(c, i + 1)
            x = diagonal(moveaxis(x, (i, j), (-2, -1)))
            labels = "".join(k for n, k in enumerate(labels) if n not in (i, j)) + c
    gone = tuple([i for i, c in enumerate(labels) if c not in keep])
    if gone:
        x = sum_(x, axis=gone, dtype=x.dtype)
    return "".join(c for c in labels if c in keep), x


def _arranged(term: Term, labels: str) -> Any:
    """The tensor with its axes in the order of `labels`, those it has not as size 1."""
    have = [c for c in labels if c in term[0]]
    x = permute_dims(term[1], [term[0].index(c) for c in have])
    sizes = iter(x.shape)
    return reshape(x, [next(sizes) if c in term[0] else 1 for c in labels])


def _product(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _pair(a: Term, b: Term, keep: set[str]) -> Term:
    """Two tensors contracted over the labels that only they have: a (batched) matrix product."""
    a, b = _alone(a, keep | set(b[0])), _alone(b, keep | set(a[0]))
    both = [c for c in a[0] if c in b[0]]
    batch = "".join(c for c in both if c in keep)
    inner = "".join(c for c in both if c not in keep)
    rows = "".join(c for c in a[0] if c not in both)
    columns = "".join(c for c in b[0] if c not in both)
    if not inner:
        labels = batch + rows + columns
        return labels, _arranged(a, labels) * _arranged(b, labels)
    x, y = _arranged(a, batch + rows + inner), _arranged(b, batch + inner + columns)
    n, m, k = len(batch), len(rows), len(inner)
    shape = (*x.shape[:n], *x.shape[n : n + m], *y.shape[n + k :])
    x = reshape(x, (*x.shape[:n], _product(x.shape[n : n + m]), _product(x.shape[n + m :])))
    y = reshape(y, (*y.shape[:n], _product(y.shape[n : n + k]), _product(y.shape[n + k :])))
    return batch + rows + columns, reshape(matmul(x, y), shape)


@composite()
def einsum(equation: str, /, *operands: Any) -> Any:
    """Sums of products in Einstein's notation, with ellipses, repeated labels and implicit results as in NumPy.

    Raises ShapeError where an equation does not fit its operands.

    >>> import hybridml as hml
    >>> a = hml.asarray([[1., 2.], [3., 4.]])
    >>> hml.einsum("ij,jk->ik", a, a).tolist(), hml.einsum("ii", a).tolist()
    ([[7.0, 10.0], [15.0, 22.0]], 5.0)
    """
    xs = [lift(x) for x in operands]
    inputs, result = _parse(equation, xs)
    terms: list[Term] = list(zip(inputs, xs, strict=True))
    sizes = _sizes(equation, terms)
    if set(result) - set(sizes) or len(set(result)) != len(result):
        raise ShapeError(
            f"einsum {equation!r}: the result's axes {result!r} must be different and come from the operands"
        )
    terms = [(labels, broadcast_to(x, [sizes[c] for c in labels])) for labels, x in terms]
    for step in _order(inputs, result, terms):
        chosen = [terms[i] for i in step]
        terms = [t for i, t in enumerate(terms) if i not in step]
        while len(chosen) > 1:
            a, b = chosen.pop(0), chosen.pop(0)
            needed = set(result).union(*[labels for labels, _ in terms + chosen])
            chosen.insert(0, _pair(a, b, needed))
        terms.append(chosen[0])
    labels, x = _alone(terms[0], set(result))
    return permute_dims(x, [labels.index(c) for c in result])


def _order(inputs: list[str], result: str, terms: list[Term]) -> list[tuple[int, ...]]:
    if len(terms) <= 2:
        return [tuple(range(len(terms)))]
    stand_ins = [np.broadcast_to(np.float32(0), [hint(d) for d in x.shape]) for _, x in terms]
    path, _ = np.einsum_path(f"{','.join(inputs)}->{result}", *stand_ins, optimize="greedy")
    return [tuple(step) for step in path[1:]]


@composite()
def tensordot(x: Any, y: Any, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Any:
    """Products summed over several axes: the last `axes` of x with the first of y, or the axes named for each.

    >>> import hybridml as hml
    >>> hml.tensordot([[1., 2.], [3., 4.]], [1., 1.], axes=1).tolist()
    [3.0, 7.0]
    """
    x, y = lift(x, y), lift(y, x)
    if isinstance(axes, (int, np.integer)):
        if not 0 <= axes <= min(x.ndim, y.ndim):
            raise ShapeError(
                f"tensordot over {axes} axes of shapes {x.shape} and {y.shape}: they have too few"
            )
        a, b = list(range(x.ndim - int(axes), x.ndim)), list(range(int(axes)))
    else:
        a, b = ([normalize_axis(i, t.ndim) for i in part] for part, t in zip(axes, (x, y), strict=True))
    if [x.shape[i] for i in a] != [y.shape[i] for i in b]:
        raise ShapeError(f"tensordot of {x.shape} over {a} and {y.shape} over {b}: the sizes must be equal")
    rows = [i for i in range(x.ndim) if i not in a]
    columns = [i for i in range(y.ndim) if i not in b]
    shape = [x.shape[i] for i in rows] + [y.shape[i] for i in columns]
    k = _product([x.shape[i] for i in a])
    left = reshape(permute_dims(x, rows + a), (_product([x.shape[i] for i in rows]), k))
    right = reshape(permute_dims(y, b + columns), (k, _product([y.shape[i] for i in columns])))
    return reshape(matmul(left, right), shape)


@composite()
def vecdot(x: Any, y: Any, /, *, axis: int = -1) -> Any:
    """The dot products of the vectors along an axis; the other axes broadcast.

    >>> import hybridml as hml
    >>> hml.vecdot([[1., 2.], [3., 4.]], [1., 1.]).tolist()
    [3.0, 7.0]
    """
    x, y = lift(x, y), lift(y, x)
    if x.shape[normalize_axis(axis, x.ndim)] != y.shape[normalize_axis(axis, y.ndim)]:
        raise ShapeError(f"vecdot along axis {axis} of {x.shape} and {y.shape}: the sizes must be equal")
    out = x * y
    return sum_(out, axis=axis, dtype=out.dtype)


@composite()
def outer(x: Any, y: Any, /) -> Any:
    """All products of an element of one vector with one of the other.

    >>> import hybridml as hml
    >>> hml.outer([1., 2.], [3., 4.]).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    x, y = lift(x, y), lift(y, x)
    if x.ndim != 1 or y.ndim != 1:
        raise ShapeError(f"outer needs two vectors, got shapes {x.shape} and {y.shape}")
    return expand_dims(x, axis=1) * expand_dims(y, axis=0)
