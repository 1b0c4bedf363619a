"""Slices of arithmetic become arithmetic on slices, where they take every element at most once.

The windows of a pooling are slices of one image. Written so, ReLU and bias are computed where the pooling reads them, in its kernel.
"""

from __future__ import annotations

from typing import Any

from hybridml.ops.registry import PUBLIC, Kind, Op
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.passes.cse import cse
from hybridml.trace.passes.dce import dce
from hybridml.trace.passes.rewrite import Rewriter, rewrite


def slices(graph: Graph) -> Graph:
    """From the last operation to the first, as far as it goes."""
    while True:
        movable = _only_sliced(graph)
        if not movable:
            return graph
        graph = cse(dce(_moved(graph, movable)))


def _slice() -> Op:
    op: Op = PUBLIC["strided_slice"].op  # type: ignore[attr-defined]  # public functions carry their row
    return op


def _only_sliced(graph: Graph) -> set[Value]:
    """Results of arithmetic that only slices read, several but in all no more than there is."""
    results, readers, op = set(graph.results), graph.readers(), _slice()
    return {
        n.out
        for n in graph.nodes
        if n.op.kind is Kind.ELEMENTWISE and n.values and n.attrs.keys() <= {"dtype"} and n.out not in results
        and len(found := readers.get(n.out, [])) > 1 and all(m.op is op for m in found)
        and sum(m.out.spec.size for m in found) <= n.out.spec.size
    }  # fmt: skip


def _moved(graph: Graph, movable: set[Value]) -> Graph:
    op = _slice()

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op is not op or n.inputs[0] not in movable:
            return False
        made = r.producer[n.values[0]]
        shape = made.out.shape
        inputs = tuple([_sliced(r, x, shape, n) for x in made.inputs])
        r.append(Node(made.op, inputs, made.attrs, n.outputs, made.source))
        return True

    return rewrite(graph, visit)


def _sliced(r: Rewriter, x: Operand, shape: tuple[int, ...], n: Node) -> Operand:
    """The part of an operand, broadcast to `shape`, that a slice of the result is made of."""
    if not isinstance(x, Value) or not x.shape:
        return x
    lead = len(shape) - len(x.shape)
    whole = {"starts": 0, "stops": None, "steps": 1}
    attrs: dict[str, Any] = {
        name: tuple([v if d == full else whole[name] for v, d, full in zip(n.attrs[name][lead:], x.shape, shape[lead:], strict=True)])
        for name in whole
    }  # fmt: skip
    if attrs == {"starts": (0,) * len(x.shape), "stops": x.shape, "steps": (1,) * len(x.shape)}:
        return x
    if all(d == 1 or d != full for d, full in zip(x.shape, shape[lead:], strict=True)):
        return x
    return r.emit(_slice(), (x,), attrs, n.source)
