"""Give a buffer of its own to everything that needs one, by copies that fuse with what is around them.

After this pass (1) every view can be resolved to a layout over its base buffer, and (2) every result of the graph is computed by a
node of its own: no result is an input, a constant, a strided view, or another result.
"""

from __future__ import annotations

from hybridml.ops.registry import PUBLIC, Kind, Layout
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter


def materialize(graph: Graph) -> Graph:
    copy = PUBLIC["copy"].op  # type: ignore[attr-defined]
    r = Rewriter(graph)
    layouts: dict[Value, tuple[Value, Layout]] = {}

    def resolved(v: Value) -> tuple[Value, Layout]:
        return layouts.get(v) or (v, Layout.contiguous(v.shape))

    for n in graph.nodes:
        if n.op.kind is not Kind.VIEW or n.op.view is None:
            for v in n.values if n.op.reads is not None or n.op.kind is Kind.CONTROL else ():
                at = resolved(v)[1]
                strange = n.op.reads is not None and not n.op.reads(at)
                if strange or (n.op.kind is Kind.CONTROL and not at.is_contiguous):
                    own = r.emit(copy, (r[v],), {}, n.source)
                    r.replace(v, own)
                    layouts[v] = (
                        own,
                        Layout.contiguous(v.shape),
                    )  # whoever else needs it reads the same copy
            r.keep(n)
            continue
        x = r[n.inputs[0]]
        assert isinstance(x, Value)
        base, at = resolved(x)
        seen = n.op.view(at, **n.attrs)
        if seen is None:
            x = r.emit(copy, (x,), {}, n.source)
            base, seen = x, n.op.view(Layout.contiguous(x.shape), **n.attrs)
            assert seen is not None
            r.append(Node(n.op, (x,), n.attrs, n.outputs, n.source))
        else:
            r.keep(n)
        layouts[n.out] = (base, seen)
    taken: set[Value] = set()

    def result(v: Value) -> Value:
        base, at = resolved(v)
        whole = at.is_contiguous and at.offset == 0 and v.spec.size == base.spec.size
        if base in r.producer and whole and base not in taken:
            taken.add(base)
            return v
        own = r.emit(copy, (v,), {})
        taken.add(own)
        return own

    done = r.finish()
    updates = tuple([(i, result(v)) for i, v in done.updates])
    outputs = tuple([result(v) for v in done.outputs])
    return done.replace(nodes=tuple(r.nodes), outputs=outputs, updates=updates)
