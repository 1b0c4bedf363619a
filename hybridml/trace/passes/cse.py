"""Common subexpressions: the same op on the same operands with the same attributes is computed once."""

from __future__ import annotations

from typing import Any

from hybridml.trace.graph import Graph, Node, Value, has_effects, sorted_attributes
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def cse(graph: Graph) -> Graph:
    seen: dict[Any, Node] = {}

    def visit(r: Rewriter, n: Node) -> bool:
        if has_effects(n):
            return False
        operands = tuple([
            id(y) if isinstance(y, Value) else (type(y), repr(y)) for y in [r[x] for x in n.inputs]
        ])  # fmt: skip
        key = (n.op, operands, sorted_attributes(n.attrs) if n.attrs else ())
        first = seen.get(key)
        if first is None:
            seen[key] = r.keep(n)
            return True
        for old, new in zip(n.outputs, first.outputs, strict=True):
            r.replace(old, new)
        return True

    return rewrite(graph, visit)
