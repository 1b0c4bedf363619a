"""The sub-graph of a call takes the place of its node.

Such nodes (`checkpoint`, `custom_gradient`) are there for their gradient, which has been taken by now.
"""

from __future__ import annotations

from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def open_calls(graph: Graph) -> Graph:
    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.provider != "call":
            return False
        body = open_calls(n.attrs["body"])
        r.constants.update(body.constants)
        now = dict(
            zip(body.inputs, [r[x] for x in n.inputs], strict=True)
        )  # one body may be opened several times
        for m in body.nodes:
            outputs = tuple([Value(v.spec, v.name) for v in m.outputs])
            inputs = tuple([now.get(x, x) if isinstance(x, Value) else x for x in m.inputs])
            r.append(Node(m.op, inputs, m.attrs, outputs, m.source))
            now.update(zip(m.outputs, outputs, strict=True))
        for old, v in zip(n.outputs, body.outputs, strict=True):
            r.replace(old, now.get(v, v))
        return True

    return rewrite(graph, visit)
