"""The terms that composites expand to, and a matcher for them.

A term is the name of a leaf, a number, or (op, operands...). Sums and products match in either order. The terms are those of
`ops/composite.py` after the passes; a test holds them to what a trace of the composites gives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hybridml.trace.graph import Node, Operand, Value

Term = Any
_COMMUTATIVE = ("add", "multiply")
_C, _CUBE = math.sqrt(2 / math.pi), 0.044715

_HALF = ("multiply", "z", 0.5)
_SQUARE = ("multiply", "z", "z")
_TANH = ("tanh", ("multiply", ("add", "z", ("multiply", ("multiply", _SQUARE, "z"), _CUBE)), _C))
_ONE_MORE = ("add", _TANH, 1)
GELU: Term = ("multiply", _HALF, _ONE_MORE)

_ERF_ONE = ("add", ("erf", ("multiply", "z", math.sqrt(0.5))), 1)
GELU_BY_ERF: Term = ("multiply", _HALF, _ERF_ONE)

_SLOPE = ("multiply", ("multiply", ("multiply", "p", _HALF), ("subtract", 1, ("multiply", _TANH, _TANH))), _C)
_CUBED = ("multiply", _SLOPE, _CUBE)
_TWICE = ("multiply", ("multiply", _CUBED, "z"), "z")
GELU_GRADIENT: Term = (
    "add",
    ("add", ("add", ("add", _SLOPE, ("multiply", _CUBED, _SQUARE)), _TWICE), _TWICE),
    ("multiply", ("multiply", "p", _ONE_MORE), 0.5),
)


class Matcher:
    """Says which nodes make up a term, whose leaves are known values. `same` tells whether a value is, element for element, a leaf."""

    def __init__(self, producer: Mapping[Value, Node], leaves: Mapping[str, Any]) -> None:
        self._producer, self._leaves = producer, leaves
        self._seen: dict[tuple[int, Operand], frozenset[Node] | None] = {}

    def match(self, term: Term, x: Operand) -> frozenset[Node] | None:
        """The nodes between the leaves and x, or None where x is not the term."""
        if isinstance(term, str):
            return frozenset() if isinstance(x, Value) and self._leaves[term](x) else None
        if not isinstance(term, tuple):
            number = not isinstance(x, Value) and math.isclose(float(x), term, rel_tol=1e-6)
            return frozenset() if number else None
        if not isinstance(x, Value):
            return None
        key = id(term), x
        if key not in self._seen:
            self._seen[key] = self._node(term, x)
        return self._seen[key]

    def _node(self, term: Term, x: Value) -> frozenset[Node] | None:
        n = self._producer.get(x)
        if n is None or n.op.name != term[0] or len(n.inputs) != len(term) - 1:
            return None
        orders = [n.inputs, n.inputs[::-1]] if term[0] in _COMMUTATIVE else [n.inputs]
        for operands in orders:
            found = [self.match(t, o) for t, o in zip(term[1:], operands, strict=True)]
            if None not in found:
                return frozenset({n}).union(*[f for f in found if f is not None])
        return None


__all__ = ["GELU", "GELU_BY_ERF", "GELU_GRADIENT", "Matcher", "Term"]
