"""Gradients of slices that lie side by side are put side by side, not each into zeros of its own and all of them added.

The gradient of `x[:, :n]` is zeros with a box written into them (slice_scatter), and the gradients of several slices of x are
added up. Where the boxes make up one box without a gap, that is a concatenation: each element is written once.
"""

from __future__ import annotations

import itertools
from collections import Counter

from hybridml.ops.registry import PUBLIC, Op
from hybridml.symbolic import has_dims
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

Box = tuple[tuple[int, int], ...]  # first and one past the last index along each axis


def tiles(graph: Graph) -> Graph:
    add, concat, scatter = map(_row, ("add", "concat", "slice_scatter"))
    if all(n.op is not scatter for n in graph.nodes):
        return graph
    made = graph.producers()
    uses = Counter([v for n in graph.nodes for v in n.values] + list(graph.results))
    reader = {v: n for n in graph.nodes for v in n.values}

    def adds(n: Node | None) -> bool:
        return (
            n is not None
            and n.op is add
            and all(v.spec == n.out.spec for v in n.values)
            and len(n.values) == 2
        )

    def terms(total: Node) -> list[Value]:
        """What a sum adds up, through sums that nobody else reads."""
        found, stack = [], list(reversed(total.values))
        while stack:  # a sum may have thousands of terms: no recursion
            v = stack.pop()
            n = made.get(v)
            if n is not None and uses[v] == 1 and adds(n):
                stack += reversed(n.values)
            else:
                found.append(v)
        return found

    def box(v: Value) -> Box | None:
        n = made.get(v)
        return _box(n) if n is not None and n.op is scatter and uses[v] == 1 else None

    def visit(r: Rewriter, n: Node) -> bool:
        if not adds(n) or (uses[n.out] == 1 and adds(reader.get(n.out))):
            return False
        parts = terms(n)
        boxes = {v: b for v in parts if (b := box(v)) is not None}
        found = _side_by_side(boxes)
        if found is None:
            return False
        axis, ordered = found
        whole = r.emit(concat, tuple([r[made[v].inputs[0]] for v in ordered]), {"axis": axis}, n.source)
        union = tuple(zip([a for a, _ in boxes[ordered[0]]], [b for _, b in boxes[ordered[-1]]], strict=True))
        if any(d != b - a for d, (a, b) in zip(n.out.shape, union, strict=True)):
            attrs = {"starts": tuple([a for a, _ in union]), "stops": tuple([b for _, b in union])}
            whole = r.emit(
                scatter, (whole,), {"shape": n.out.shape, **attrs, "steps": (1,) * len(union)}, n.source
            )
        for v in parts:
            if v not in boxes:
                whole = r.emit(add, (whole, r[v]), {}, n.source)
        r.replace(n.out, whole)
        return True

    return rewrite(graph, visit)


def _row(name: str) -> Op:
    op: Op = PUBLIC[name].op  # type: ignore[attr-defined]  # public functions carry their row
    return op


def _box(n: Node) -> Box | None:
    """Where a slice_scatter writes, if it leaves nothing out in between."""
    starts, g = n.attrs["starts"], n.values[0].shape
    if has_dims(n.out.shape) or any(s != 1 for s in n.attrs["steps"]) or 0 in g:
        return None
    first = [a + d if a < 0 else a for a, d in zip(starts, n.out.shape, strict=True)]
    return tuple([(a, a + k) for a, k in zip(first, g, strict=True)])


def _side_by_side(boxes: dict[Value, Box]) -> tuple[int, list[Value]] | None:
    """The axis along which the boxes follow each other without gap, and their order; None if they do not."""
    if len(boxes) < 2:
        return None
    different = [k for k, sides in enumerate(zip(*boxes.values(), strict=True)) if len(set(sides)) > 1]
    if len(different) != 1:
        return None
    (axis,) = different
    ordered = sorted(boxes, key=lambda v: boxes[v][axis])
    fit = all(boxes[a][axis][1] == boxes[b][axis][0] for a, b in itertools.pairwise(ordered))
    return (axis, ordered) if fit else None
