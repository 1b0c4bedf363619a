"""Sums across rows, in the kernel that walks along them: the gradients of a normalisation's scale and offset, of a bias.

Summing down the columns of an (N, M) array wants another walk than the rows' own reductions, and a kernel of its own would read
everything a second time. Here the rows are cut into blocks, `sum` becomes a sum to (blocks, M) and one over the blocks, and the first of
them rides along with the rows: a block's sums stay in the nearest cache. The cut depends on the shape alone, so results do not
depend on the number of threads. (PyTorch's and Apex's layer_norm kernels share the work like this.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hybridml.kernels.space import Space, parts, refine
from hybridml.ops.registry import OPS, Kind
from hybridml.ops.spec import TensorSpec
from hybridml.symbolic import Dim, has_dims, hint
from hybridml.symbolic.polynomial import Symbol, atom
from hybridml.trace.graph import Graph, Node, Value

if TYPE_CHECKING:
    from hybridml.kernels.fuser import Fuser
    from hybridml.kernels.group import Group

BLOCKS = 64  # wanted: enough for many threads, few enough that their sums are nothing beside the rows
FEWEST, MOST = 8, 256
FEW, ROWS = 32, 16  # blocks wanted where no rows ride along, and rows of a block at least
LONG, MANY = 1 << 16, 128  # elements, and rows, of a sum that is cut whatever its kernel
VERY_MANY = 512  # rows of one that is cut although threads could share out its columns, or a product make it in its tiles
WIDE = 2048  # columns that threads share out as well
TOGETHER = 1 << 14  # elements that one thread does anyway: all their rows are one block


def fits(space: Space, rows: frozenset[int], across: frozenset[int]) -> bool:
    """True if a kernel along `rows` can also reduce over `across`: the axes are (blocks, across, rows), in this order."""
    if not rows or not across:
        return False
    n = len(space)
    first = n - len(rows) - len(across)
    if rows != set(range(n - len(rows), n)) or across != set(range(first, n - len(rows))):
        return False
    return first > 0 or math.prod(space) <= TOGETHER


def cut(fuser: Fuser) -> Graph | None:
    """The graph with those sums cut into blocks that could then ride along with rows beside them; None if there are none."""
    wanted: dict[Node, Any] = {}  # a sum, and its blocks
    for pair in fuser.reasons:
        a, b = (fuser.owner[i] for i in pair)
        for row, down in ((a, b), (b, a)):
            if _complement(row, down):
                sums = [n for i in down.nodes if (n := fuser.nodes[i]).op.reduce is not None]
                wanted |= {n: b for n in sums if not isinstance(b := _blocks(n, blocks), int) or b}
                fuser.uncut |= {s for n in sums for s in _alone(n)}
    return _with_blocks(fuser.graph, wanted) if wanted else None


def cut_long(graph: Graph) -> Graph:
    """The graph with long sums down many columns cut into blocks, rows or not: threads then share out rows of memory, not
    columns, of which each would read a few cache lines here and a few there."""
    long = [n for n in graph.nodes if _is_long(n, MANY)]
    of_products = _of_products(graph) if long else set()
    long = [
        n
        for n in long
        if _is_long(n, VERY_MANY) or (n.out.spec.size <= WIDE and n.values[0] not in of_products)
    ]
    wanted = {n: b for n in long if (b := _blocks(n, few_blocks))}
    return _with_blocks(graph, wanted) if wanted else graph


def _with_blocks(graph: Graph, wanted: Mapping[Node, Any]) -> Graph:
    nodes: list[Node] = []
    for n in graph.nodes:
        nodes += _in_blocks(n, wanted[n]) if n in wanted else [n]
    return graph.replace(nodes=tuple(nodes))


def _is_long(n: Node, rows: int) -> bool:
    if n.op.reduce is None or n.attrs["keepdims"] or has_dims(n.values[0].shape):
        return False
    return n.values[0].spec.size >= LONG and n.values[0].spec.size >= rows * n.out.spec.size


def _of_products(graph: Graph) -> set[Value]:
    """Matrix products, and what is made of their elements alone or with others."""
    found: set[Value] = set()
    for n in graph.nodes:
        made = n.op.provider == "gemm" or (
            n.op.kind is Kind.ELEMENTWISE and any(x in found and x.shape == n.out.shape for x in n.values)
        )
        if made:
            found.update(n.outputs)
    return found


def _complement(row: Group, down: Group) -> bool:
    """True if one group reduces along the rows, and the other one over all of them."""
    if not row.reduced or not down.reduced or down.crossing:
        return False
    spaces = [tuple(map(hint, g.space)) for g in (row, down)]  # cutting a sum is right for any sizes
    fine = refine(*spaces)
    if fine is None:
        return False
    along, across = (
        frozenset(p for k in g.reduced for p in parts(space, fine)[k])
        for g, space in zip((row, down), spaces, strict=True)
    )
    return fits((2, *fine), frozenset(k + 1 for k in along), frozenset(k + 1 for k in across))


def _blocks(n: Node, of: Callable[[int], int]) -> Any:
    """How many blocks the rows of a sum over leading axes are cut into; 0 if they cannot be."""
    x, axes = n.values[0], n.attrs["axis"]
    if axes != tuple(range(len(axes))) or not axes or len(axes) == len(x.shape) or x.dtype != n.out.dtype:
        return 0
    rows = math.prod(x.shape[: len(axes)])
    return _open_blocks(rows) if isinstance(rows, Dim) else of(rows)


def blocks(rows: int) -> int:
    """How many blocks of equal size so many rows are cut into; 0 if they cannot be."""
    return _divisor(rows, BLOCKS, rows // 2)


def few_blocks(rows: int) -> int:
    """Likewise where no rows ride along: of at least some rows each, so that the blocks' sums are nothing beside them."""
    return _divisor(rows, FEW, rows // ROWS)


def _divisor(rows: int, wanted: int, most: int) -> int:
    fitting = [b for b in range(FEWEST, min(MOST, most) + 1) if rows % b == 0]
    return min(fitting, key=lambda b: _distance(b, wanted), default=0)


def _distance(blocks: int, wanted: int = BLOCKS) -> float:
    return abs(math.log(blocks / wanted))


def _open_blocks(rows: Dim) -> Any:
    """Likewise where sizes are open: one of the sizes that make up the rows, or a divisor of what they are multiples of."""
    terms = rows.polynomial.terms
    if len(terms) > 1:
        return 0
    ((factors, times),) = terms.items()
    found: list[Any] = [b for b in range(FEWEST, min(MOST, times) + 1) if times % b == 0]
    if len(factors) > 1 or times > 1:
        sizes = [Dim(atom(s), rows.scope) for s in dict.fromkeys(factors)]
        found += [d for d in sizes if FEWEST <= d.hint <= MOST]
    best = min(found, key=lambda b: _distance(hint(b)), default=0)
    return best if not isinstance(best, Dim) or FEWEST <= best <= MOST else 0


def _alone(n: Node) -> set[Symbol]:
    """The one open size that is the number of rows of this sum: it would have to be a product, to be cut."""
    if n.op.reduce is None:
        return set()
    rows = math.prod(n.values[0].shape[: len(n.attrs["axis"])])
    if not isinstance(rows, Dim) or len(rows.polynomial.symbols) != 1:
        return set()
    (s,) = rows.polynomial.symbols
    return {s} if rows.polynomial == atom(s) else set()


def _in_blocks(n: Node, blocks: Any) -> list[Node]:
    reshape = OPS["reshape"]
    x, leading = n.values[0], len(n.attrs["axis"])
    rest = x.shape[leading:]
    rows = math.prod(x.shape[:leading])

    def value(*shape: Any) -> Value:
        return Value(TensorSpec(shape, x.dtype))

    apart, partial = value(blocks, rows // blocks, *rest), value(blocks, *rest)
    together = value(*(1,) * (leading - 1), blocks, *rest)
    return [
        Node(reshape, (x,), {"shape": apart.shape}, (apart,), n.source),
        Node(n.op, (apart,), {"axis": (1,), "keepdims": False}, (partial,), n.source),
        Node(reshape, (partial,), {"shape": together.shape}, (together,), n.source),
        Node(n.op, (together,), n.attrs, n.outputs, n.source),
    ]
