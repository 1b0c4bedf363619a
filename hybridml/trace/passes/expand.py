"""Replace ops by their row's `expand`: the same function in simpler public ops, which fuse."""

from __future__ import annotations

from hybridml.eager.state import state
from hybridml.trace.builder import Builder
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def expand(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        found = None if n.op.expand is None else splice(r, n)
        if found is None:
            return False
        for old, new in zip(n.outputs, found, strict=True):
            r.replace(old, new)
        return True

    return rewrite(graph, visit)


def splice(r: Rewriter, n: Node) -> list[Operand] | None:
    """Trace the row's `expand` on the node's operands and copy the result into the new graph; None where it declines."""
    assert n.op.expand is not None
    builder = Builder(n.op.name)
    saved = state.now.tapes, state.now.traces
    state.now.tapes, state.now.traces = [], []
    try:
        with builder:
            symbols = [builder.input(x.spec) if isinstance(x, Value) else x for x in n.inputs]
            out = n.op.expand(*symbols, **n.attrs)
            if out is None:
                return None
            inner, _ = builder.finish(list(out) if isinstance(out, tuple) else [out])
    finally:
        state.now.tapes, state.now.traces = saved
    for v, x in zip(inner.inputs, n.values, strict=True):
        r.replace(v, r[x])
    r.constants.update(inner.constants)
    for m in inner.nodes:
        new = Node(m.op, m.inputs, m.attrs, m.outputs, n.source)
        found = None if m.op.expand is None else splice(r, new)
        if found is None:
            r.keep(new)
        else:
            for old, value in zip(m.outputs, found, strict=True):
                r.replace(old, value)
    return [r[v] for v in inner.outputs]
