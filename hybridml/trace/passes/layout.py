"""Transposes of the last two axes become flags of the matrix product that reads them."""

from __future__ import annotations

from hybridml.ops.registry import Kind, Layout
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def layout(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        if not n.op.flags:
            return False
        attrs = dict(n.attrs)
        inputs: list[Operand] = []
        for flag, x in zip(n.op.flags, [r[x] for x in n.inputs], strict=True):
            while isinstance(x, Value) and x in r.producer and _swaps_last_two(r.producer[x]):
                x = r.producer[x].inputs[0]
                attrs[flag] = not attrs[flag]
            inputs.append(x)
        r.append(Node(n.op, tuple(inputs), attrs, n.outputs, n.source))
        return True

    return rewrite(graph, visit)


def _swaps_last_two(n: Node) -> bool:
    shape = n.values[0].shape if n.values else ()
    if n.op.kind is not Kind.VIEW or n.op.view is None or len(shape) < 2:
        return False
    before = Layout.contiguous(shape)
    swap = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    swapped = Layout(tuple([shape[a] for a in swap]), tuple([before.strides[a] for a in swap]))
    return n.op.view(before, **n.attrs) == swapped
