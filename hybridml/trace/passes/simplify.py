"""Algebra that the rows declare: neutral elements, involutions, views and reductions that change nothing.

An operand that holds one value everywhere (a scalar, a constant of one element, or a broadcast of one) becomes a literal.
"""

from __future__ import annotations

import operator

from hybridml import dtypes
from hybridml.ops.registry import PUBLIC, Kind, Layout
from hybridml.ops.spec import Scalar
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def literal(r: Rewriter, x: Operand) -> Scalar | None:
    """The one value that `x` holds everywhere, if that is known."""
    while isinstance(x, Value):
        if x in r.constants:
            return r.constants[x].item() if r.constants[x].size == 1 else None
        n = r.producer.get(x)
        if n is None or n.op.kind is not Kind.VIEW:
            return None
        x = n.inputs[0]
    return x


def simplify(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        if len(n.outputs) != 1 or not n.inputs:
            return False
        inputs = [r[x] for x in n.inputs]
        if n.op.kind is Kind.ELEMENTWISE:
            inputs = _with_literals(r, n, inputs)
        same = _unchanged(r, n, inputs)
        if same is not None:
            r.replace(n.out, same)
        elif n.op.kind is Kind.REDUCTION and _reduces_nothing(n):
            reshape = PUBLIC["reshape"].op  # type: ignore[attr-defined]
            r.replace(n.out, r.emit(reshape, (inputs[0],), {"shape": n.out.shape}, n.source))
        elif all(map(operator.is_, inputs, n.inputs)):
            r.append(n)
        else:
            r.append(Node(n.op, tuple(inputs), n.attrs, n.outputs, n.source))
        return True

    return rewrite(graph, visit)


def _with_literals(r: Rewriter, n: Node, inputs: list[Operand]) -> list[Operand]:
    """Uniform operands as literals, as long as the others still give the output its shape and dtype."""
    full = [
        i
        for i, x in enumerate(inputs)
        if isinstance(x, Value) and x.shape == n.out.shape and literal(r, x) is None
    ]
    promoted = [i for i in full if i >= n.op.fixed]
    if not promoted:
        return inputs
    result: list[Operand] = []
    for i, x in enumerate(inputs):
        value = literal(r, x) if isinstance(x, Value) and i >= n.op.fixed else None
        result.append(x if value is None or not _weakly_exact(value, x) else value)
    return result


def _weakly_exact(value: Scalar, x: Operand) -> bool:
    """A float literal is read back as the operand's dtype, so any value of that dtype survives; bools stay bools."""
    return isinstance(x, Value) and dtypes.scalar_category(value) == dtypes.category(x.dtype)


def _unchanged(r: Rewriter, n: Node, inputs: list[Operand]) -> Operand | None:
    """The operand that the node's result equals, if there is one."""
    first = inputs[0]
    if n.op.kind is Kind.VIEW and isinstance(first, Value) and n.op.view is not None and len(inputs) == 1:
        before = Layout.contiguous(first.shape)
        return first if n.op.view(before, **n.attrs) == before else None
    for i, value in n.op.neutral.items():
        other = inputs[1 - i]
        if isinstance(other, Value) and other.spec == n.out.spec and _is(literal(r, inputs[i]), value):
            return other
    if n.op.involution and isinstance(first, Value):
        inner = r.producer.get(first)
        if inner is not None and inner.op is n.op:
            return inner.inputs[0]
    return None


def _is(found: Scalar | None, value: Scalar) -> bool:
    return found is not None and not isinstance(found, bool) and found == value


def _reduces_nothing(n: Node) -> bool:
    x = n.values[0]
    return (
        n.op.reduce is not None and x.dtype == n.out.dtype and all(x.shape[a] == 1 for a in n.attrs["axis"])
    )
