"""A pass: matrix products take what follows them as their epilogue.

    x + a @ b + bias                          one product, over x where nobody else reads that
    z = a @ b + bias;  h = relu(z)            one product; what asked for the signs of z asks for those of h
    h = gelu(a @ b + bias)  (by tanh)         one product, which keeps z if anybody still reads it
    (g @ w.T) * f'(z), and its sum over rows  one product, which reads what the product on the way forward kept
    x.T @ g  and  sum(g) over rows            one product

The products may be those of a batch, with a bias for all or one for each. What is not taken stays what it was, a kernel after the
product, and why is recorded. Values keep their identity, so whoever read a result of the old nodes reads that of the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.cudnn import CONVOLUTION, ConvolutionPlan
from hybridml.kernels.cuda.epilogue import PRODUCT, Epilogue, kept_spec
from hybridml.kernels.cuda.lt import ALIGNED
from hybridml.kernels.cuda.order import in_order
from hybridml.kernels.cuda.patterns import GELU, GELU_BY_ERF, GELU_GRADIENT, Matcher
from hybridml.kernels.cuda.products import DTYPES, product_steps
from hybridml.kernels.cuda.uses import Alignment, Uses
from hybridml.kernels.fuser import Refusal
from hybridml.ops.registry import Kind
from hybridml.ops.view import RESHAPE
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.passes.dce import dce

Plan = ProductPlan | ConvolutionPlan
Refuse = Callable[[Plan, int], str | None]


@dataclass
class Taken:
    """A product and what it has taken. `operand` is what its function is applied to, `asks` the node that compares it with 0."""

    node: Node
    plan: Plan
    epilogue: Epilogue
    result: Value
    operand: Value
    residual: Value | None = None
    bias: Value | None = None
    asks: Node | None = None
    kept: Value | None = None
    reads_kept: Taken | None = None
    sums: Value | None = None


class Absorber(Uses):
    """One graph. `refuse` says why the library has no such product for buffers at multiples of so many bytes, or None."""

    def __init__(self, graph: Graph, refuse: Refuse, aligned: Alignment) -> None:
        super().__init__(graph)
        self._refuse, self._aligned = refuse, aligned
        self.refusals: list[Refusal] = []
        self._taken: dict[Node, Taken] = {}
        self._gone: set[Node] = set()  # nodes whose result a product gives

    def run(self) -> Graph:
        """The graph with its products' epilogues; the same graph where nothing was taken."""
        products = [(n, plan) for n in self.graph.nodes if (plan := self._plan(n)) is not None]
        for n, plan in products:
            self._forward(n, plan)
        for n, plan in products:
            self._backward(n, plan)
        for n, plan in products:
            self._second(n, plan)
        return self._rewritten() if self._taken else self.graph

    # what a product may take

    def _plan(self, n: Node) -> Plan | None:
        """The product of a node if it is one call of a library, and somebody computes with its result."""
        if n.op.provider != "gemm" or n.out.dtype.name not in DTYPES:
            return None
        if n.op is CONVOLUTION:
            convolution: ConvolutionPlan = n.attrs["plan"]
            return convolution if convolution.direction == "conv" else None
        steps = product_steps(self.graph, n, self.places)
        if steps is None or not steps[0].plan.k:
            return None
        plan: ProductPlan = steps[0].plan
        computed = any(r.op.kind is Kind.ELEMENTWISE for r in self._readers.get(n.out, []))
        if not computed and not self._sums_of_second(n, plan):
            return None
        if len(steps) > 1 or plan.outer > 1:
            self._say(n, None, "epilogues are for a single product, or for a batch at equal distances")
            return None
        return plan

    def _forward(self, n: Node, plan: Plan) -> None:
        taken = Taken(n, plan, Epilogue(), n.out, n.out)
        while self._take_added(taken):
            pass
        self._take_function(taken)
        if taken.epilogue:
            self._taken[n] = taken

    def _take_added(self, t: Taken) -> bool:
        """A bias or a residual."""
        add = self._only_reader(t.result)
        if add is None or add.op.name != "add" or add in self._gone:
            return False
        other = [x for x in add.inputs if not (isinstance(x, Value) and self._is(x, t.result, t.plan.n))]
        whole = add.out.spec.size == t.result.spec.size and add.out.shape[-1:] == (t.plan.n,)
        x = other[0] if whole and len(other) == 1 else None
        vector = None if t.bias is not None else self._vector(x, add.out, t.plan.m, t.plan.n)
        matrix = None if t.residual is not None else self._matrix(x, add.out)
        if vector is not None and self._fits(t, add, vector[0], bias=True, each=vector[1]):
            t.bias = vector[0]
        elif vector is None and matrix is not None and self._fits(t, add, matrix, residual=True):
            t.residual = matrix
        else:
            if vector is None and matrix is None:
                self._say(
                    t.node, add, "what is added is neither a vector along the last axis nor a whole matrix"
                )
            return False
        t.result = t.operand = add.out
        self._gone.add(add)
        return True

    def _take_function(self, t: Taken) -> None:
        z = t.result
        if z in self._results or not self._take_relu(t, z):
            self._take_gelu(t, z)

    def _take_relu(self, t: Taken, z: Value) -> bool:
        readers = self._readers.get(z, [])
        for where in readers:
            asks = self._asks(where, z, t.plan.n)
            if asks is None or not self._is(asks.values[0], z, t.plan.n):
                continue
            if not {where, asks}.issuperset(readers):
                self._say(t.node, where, "the operand of relu is read elsewhere")
            elif self._fits(t, where, function="relu"):
                t.result, t.asks = where.out, asks
                self._gone.add(where)
                return True
        return False

    def _asks(self, where: Node, p: Value, columns: int) -> Node | None:
        """The comparison of `where(z <= 0, 0, p)`, or None for other nodes."""
        if where.op.name != "where" or len(where.inputs) != 3:
            return None
        condition, zero, x = where.inputs
        if zero != 0 or isinstance(zero, Value) or not isinstance(x, Value) or not self._is(x, p, columns):
            return None
        if not isinstance(condition, Value) or not self._is_whole(condition):
            return None
        n = self._producer.get(self.places[condition][0])
        asks = (
            n is not None
            and n.op.name == "less_equal"
            and isinstance(n.inputs[0], Value)
            and n.inputs[1] == 0
        )
        return n if asks else None

    def _take_gelu(self, t: Taken, z: Value) -> None:
        matcher = Matcher(self._producer, {"z": lambda x: self._is(x, z, t.plan.n)})
        for n in self._after(z):
            if n.op.name != "multiply":
                continue
            if matcher.match(GELU_BY_ERF, n.out) is not None:
                self._say(t.node, n, "the library's gelu is by tanh, this one by erf")
            elif (inside := matcher.match(GELU, n.out)) is not None:
                keeps = self._read_outside(z, inside, n)
                if keeps and t.plan.n % 8:
                    self._say(
                        t.node, n, f"rows of {t.plan.n} elements cannot be kept: expected a multiple of 8"
                    )
                elif self._fits(t, n, function="gelu", keeps=keeps):
                    t.result, t.kept = n.out, z if keeps else None
                    self._gone.add(n)
                    return

    def _read_outside(self, z: Value, inside: frozenset[Node], root: Node) -> bool:
        """True if somebody but the nodes of a match reads z, or what the match computes on the way from it."""
        inner = [z, *[m.out for m in inside if m is not root]]
        return any(v in self._results or not inside.issuperset(self._readers.get(v, [])) for v in inner)

    def _open(self, n: Node, plan: Plan) -> Taken | None:
        """A product that may still take a derivative or sums: it has nothing yet, or a residual."""
        t = self._taken.get(n) or Taken(n, plan, Epilogue(), n.out, n.out)
        return t if t.epilogue in (Epilogue(), Epilogue(residual=True)) else None

    def _backward(self, n: Node, plan: Plan) -> None:
        own = self._open(n, plan)
        if own is None:
            return
        for t in self._taken.values():
            if t.epilogue.function and all(
                getattr(t.plan, k) == getattr(plan, k) for k in ("batch", "m", "n")
            ):
                own.reads_kept = t
                root = (self._relu_gradient if t.epilogue.function == "relu" else self._gelu_gradient)(own, t)
                if root is not None:
                    own.result = root.out
                    self._gone.add(root)
                    self._take_sums(own)
                    self._taken[n] = own
                    return
                own.reads_kept = None

    def _relu_gradient(self, own: Taken, t: Taken) -> Node | None:
        where = self._only_reader(own.result)
        if where is None or self._asks(where, own.result, own.plan.n) is not t.asks or t.asks is None:
            return None
        before = own.epilogue
        if not self._fits(own, where, derivative="relu") or not self._fits(t, where, keeps=True):
            own.epilogue = before
            return None
        if t.kept is None:
            rows = t.plan.batch * t.plan.m
            t.kept = Value(kept_spec("relu", rows, t.plan.n, t.result.spec), "signs")
        return where

    def _gelu_gradient(self, own: Taken, t: Taken) -> Node | None:
        z, p, columns = t.operand, own.result, own.plan.n
        leaves = {"z": lambda x: self._is(x, z, columns), "p": lambda x: self._is(x, p, columns)}
        matcher = Matcher(self._producer, leaves)
        for n in self._after(p):
            inside = matcher.match(GELU_GRADIENT, n.out) if n.op.name == "add" else None
            if inside is not None and inside.issuperset(self._readers[p]) and p not in self._results:
                return n if t.kept is not None and self._fits(own, n, derivative="gelu") else None
        return None

    def _take_sums(self, t: Taken) -> None:
        """The sum over the rows of a gradient is a bias's gradient."""
        for s in self._row_sums(t.result, t.plan.batch, t.plan.n):
            if self._fits(t, s, sums="rows"):
                t.sums = s.out
                self._gone.add(s)
                return

    def _second(self, n: Node, plan: Plan) -> None:
        t = self._open(n, plan)
        if t is None or isinstance(plan, ConvolutionPlan):
            return
        read = [*n.values, *([] if t.residual is None else [t.residual])]
        for s in self._sums_of_second(n, plan):
            if s not in self._gone and not self._needs(read, s) and self._fits(t, s, sums="second"):
                t.sums = s.out
                self._gone.add(s)
                self._beside[s] = read
                self._taken[n] = t
                return

    def _sums_of_second(self, n: Node, plan: ProductPlan) -> list[Node]:
        """Sums over the rows of what a product, or each of a batch, reads as it is, as its second operand."""
        b = n.values[1]
        if n.attrs["tb"] or not self._is_whole(b) or b.spec.size != plan.batch * plan.k * plan.n:
            return []
        return self._row_sums(self.places[b][0], plan.batch, plan.n)

    def _fits(self, t: Taken, consumer: Node, operand: Value | None = None, **more: Any) -> bool:
        """True, and the epilogue is longer by that, if the library can do it."""
        wanted = replace(t.epilogue, **more)
        beside = [v for v in (t.residual, t.bias, operand) if v is not None]
        touched = [*t.node.values, consumer.out, t.result, *beside]
        reason = self._refuse(replace(t.plan, epilogue=wanted), min(map(self._aligned, touched)))
        if reason is None:
            t.epilogue = wanted
        else:
            self._say(t.node, consumer, reason)
        return reason is None

    def _say(self, producer: Node, consumer: Node | None, reason: str) -> None:
        readers = self._readers.get(producer.out, [])
        after = consumer or (readers[0] if readers else producer)
        names = [f"{n.op.name} {self.graph.label(n.out)}" for n in (producer, after)]
        self.refusals.append(Refusal(names[0], names[1], reason))

    # the new graph

    def _rewritten(self) -> Graph:
        relus = {t.asks: t for t in self._taken.values() if t.asks is not None}
        nodes: list[Node] = []
        for n in self.graph.nodes:
            if n in self._taken:
                nodes += self._product(self._taken[n])
            elif n in relus:  # relu's result has the signs of its operand
                nodes.append(Node(n.op, (relus[n].result, *n.inputs[1:]), n.attrs, n.outputs, n.source))
            elif n not in self._gone:
                nodes.append(n)
        return dce(self.graph.replace(nodes=in_order(nodes)))

    def _product(self, t: Taken) -> Iterator[Node]:
        more = [] if t.residual is None else [t.residual]
        if t.bias is not None:
            bias, shape = t.bias, (t.plan.batch, t.plan.n) if t.epilogue.each else (t.plan.n,)
            if bias.shape != shape:
                flat = Value(RESHAPE.infer(bias.spec, shape=shape))
                yield Node(RESHAPE, (bias,), {"shape": shape}, (flat,), t.node.source)
                bias = flat
            more.append(bias)
        if t.reads_kept is not None:
            assert t.reads_kept.kept is not None
            more.append(t.reads_kept.kept)
        outputs = [v for v in (t.result, t.kept, t.sums) if v is not None]
        if isinstance(t.plan, ConvolutionPlan):
            whole = replace(t.plan, epilogue=t.epilogue)
            yield Node(CONVOLUTION, (*t.node.inputs, *more), {"plan": whole}, tuple(outputs), t.node.source)
            return
        attrs = {
            **t.node.attrs, "shape": t.result.shape, "batch": t.plan.batch, "epilogue": t.epilogue
        }  # fmt: skip
        yield Node(PRODUCT, (*t.node.inputs, *more), attrs, tuple(outputs), t.node.source)


def absorb(
    graph: Graph, refuse: Refuse, outside: int = ALIGNED, rows: bool = False
) -> tuple[Graph, list[Refusal]]:
    """The graph whose products have epilogues, and what was not taken and why. `outside` and `rows` are those of `Alignment`."""
    absorber = Absorber(graph, refuse, Alignment(graph, outside, rows))
    return absorber.run(), absorber.refusals


__all__ = ["absorb"]
