"""Products of a weight that the call also updates are cut along the summed axis, so that each thread keeps its rows of the weight.

x @ w with its result split over two threads makes both of them read all of w. A line of memory that two cores hold can be written only
when the other one has given it up, which costs an update more than its arithmetic. Cut along the summed axis (what GEMM
libraries call split-K), each thread reads the rows of w that it will update later, and half of x; the two partial results are small, and
whoever reads their sum adds them up. The cut depends on shapes alone, so results do not depend on the number of threads.

    y = x @ w    becomes    y = sum over p of x[:, p's columns] @ w[p's rows],    p = 0, 1
"""

from __future__ import annotations

from collections.abc import Mapping

from hybridml.kernels import gemm, gemm_cost
from hybridml.kernels.gemm_cost import Split
from hybridml.kernels.views import Place, places
from hybridml.ops.registry import OPS, Kind
from hybridml.symbolic import hint
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.rewrite import Rewriter, rewrite

PARTS = 2


def cut_depth(graph: Graph) -> Graph:
    """The graph with those products in two parts, or as it is if there are none."""
    found = _products(graph)
    if not found:
        return graph
    where = places(graph)
    found = {n for n in found if _in_order(n, where)}

    def visit(r: Rewriter, n: Node) -> bool:
        if n in found:
            _cut(r, n)
        return n in found

    return rewrite(graph, visit) if found else graph


def _products(graph: Graph) -> set[Node]:
    updated = {graph.variables[i] for i, _ in graph.updates}
    if not updated:
        return set()
    readers = graph.readers()
    return {
        n
        for n in graph.nodes
        if n.op.provider == "gemm" and len(n.values) == 2 and n.values[1] in updated
        and _worthwhile(n) and all(m is n or _keeps_rows(m, n.values[1]) for m in readers[n.values[1]])
    }  # fmt: skip


def _worthwhile(n: Node) -> bool:
    """True if the lines of w that two cores would share cost more than adding up the parts."""
    x, w = n.values
    if (
        len(x.shape) != 2
        or n.attrs["tb"]
        or type(w.spec.size) is not int
        or n.out.dtype.name not in ("float32", "float64")
    ):
        return False
    k, columns = w.shape
    product = gemm_cost.Product(hint(n.out.shape[0]), columns, k, n.attrs["ta"])
    here = gemm.machine(n.out.dtype.name)
    return k >= 2 * PARTS and gemm_cost.saved_by_depth(product, w.dtype.itemsize, here) > 0


def _keeps_rows(reader: Node, w: Value) -> bool:
    """True if each thread reads some rows of w there, or can."""
    if reader.op.kind is Kind.ELEMENTWISE:
        return True
    if (
        reader.op.provider != "gemm"
        or reader.values[0] is w
        or not reader.attrs["tb"]
        or len(reader.out.shape) != 2
    ):
        return False
    m, (n, k) = hint(reader.out.shape[0]), w.shape
    product = gemm_cost.Product(m, n, k, reader.attrs["ta"], transb=True)
    return gemm_cost.best_split(product, PARTS, gemm.machine(w.dtype.name)) is Split.COLUMNS


def _in_order(n: Node, where: Mapping[Value, Place]) -> bool:
    """True if x lies row by row, so that parts of it are views."""
    return where[n.values[0]][1].is_contiguous


def _cut(r: Rewriter, n: Node) -> None:
    x, w = [r[v] for v in n.values]
    assert isinstance(x, Value) and isinstance(w, Value)
    ta, source = n.attrs["ta"], n.source
    k = w.shape[0]
    part = k // PARTS
    whole = part * PARTS
    sizes = tuple([s for a, s in enumerate(x.shape) if a != (0 if ta else 1)])  # of x without its summed axis

    def rows(v: Value, axis: int, first: int, last: int) -> Value:
        """These entries along the summed axis."""
        if (first, last) == (0, k):
            return v
        starts, stops = [0] * len(v.shape), list(v.shape)
        starts[axis], stops[axis] = first, last
        attrs = {"starts": tuple(starts), "stops": tuple(stops), "steps": (1,) * len(v.shape)}
        return r.emit(OPS["slice"], (v,), attrs, source)

    def apart(v: Value, axis: int) -> Value:
        """With the parts as a leading axis."""
        v = rows(v, axis, 0, whole)
        shape = (*v.shape[:axis], PARTS, part, *v.shape[axis + 1 :])
        v = r.emit(OPS["reshape"], (v,), {"shape": shape}, source)
        return v if axis == 0 else r.emit(OPS["permute_dims"], (v,), {"axes": (1, 0, 2)}, source)

    both = r.emit(n.op, (apart(x, 0 if ta else 1), apart(w, 0)), n.attrs, source)
    y = r.emit(OPS["sum"], (both,), {"axis": (0,), "keepdims": False}, source)
    if whole < k:  # the last one, where their number is odd
        column = r.emit(OPS["reshape"], (rows(x, 0 if ta else 1, whole, k),), {"shape": (*sizes, 1)}, source)
        rest = r.emit(OPS["multiply"], (column, rows(w, 0, whole, k)), {}, source)
        y = r.emit(OPS["add"], (y, rest), {}, source)
    r.replace(n.out, y)
