"""Branches and loops take in, carry and give out no more than they must, and do in the loop no more than they must.

Results that nobody reads go, and so do operands, loop variables and rows that only they needed. A loop variable that never changes is
an invariant. Work on invariants alone moves in front of the loop. Products with an invariant matrix move out of a scan where the
other factor is a row of xs (one product of all rows before it) or where the result is nothing but a row of ys (one product after it):
a few tall products are faster than many flat ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hybridml.ops.registry import PUBLIC, Kind
from hybridml.trace.graph import Graph, Node, Operand, Value, has_effects
from hybridml.trace.passes.cse import cse
from hybridml.trace.passes.dce import dce
from hybridml.trace.passes.rewrite import Rewriter, rewrite

FLAT = 16  # rows: products of more are as fast one by one


def control(graph: Graph) -> Graph:
    used = {*graph.results, *[v for n in graph.nodes for v in n.values]}

    def visit(r: Rewriter, n: Node) -> bool:
        if n.op.kind is not Kind.CONTROL:
            return False
        kept = used | set(n.outputs) if has_effects(n) else used  # it must run, whoever reads its results
        if n.op.provider == "call":
            for old, new in zip(
                n.outputs, _spliced(r, n.attrs["body"], [r[x] for x in n.inputs]), strict=True
            ):
                r.replace(old, new)
        elif has_effects(n):
            return False  # an effect runs as often as it was written to, whoever reads the results
        elif n.op.provider == "cond":
            _branch(r, n, kept)
        else:
            _Loop(r, n, kept).rewrite()
        return True

    return rewrite(graph, visit)


def _clean(graph: Graph, outputs: list[Value] | None = None) -> Graph:
    return cse(dce(graph if outputs is None else graph.replace(outputs=tuple(outputs))))


def _reads(graph: Graph) -> set[Value]:
    return {*graph.outputs, *[v for n in graph.nodes for v in n.values]}


def _spliced(r: Rewriter, graph: Graph, operands: list[Operand]) -> list[Operand]:
    """The graph's nodes in place of the node that holds it, under fresh values: it may be held more than once."""
    new: dict[Value, Operand] = dict(zip(graph.inputs, operands, strict=True))
    new |= {v: r.constant(a, v) for v, a in graph.constants.items()}
    for n in graph.nodes:
        inputs = tuple([new[x] if isinstance(x, Value) else x for x in n.inputs])
        if n.op.provider == "call":
            new |= zip(n.outputs, _spliced(r, n.attrs["body"], list(inputs)), strict=True)
            continue
        outputs = tuple([Value(v.spec, v.name) for v in n.outputs])
        r.append(Node(n.op, inputs, n.attrs, outputs, n.source))
        new |= zip(n.outputs, outputs, strict=True)
    return [new[v] for v in graph.outputs]


def _branch(r: Rewriter, n: Node, used: set[Value]) -> None:
    operands = [r[x] for x in n.inputs]
    true, false = _clean(n.attrs["true"]), _clean(n.attrs["false"])
    place = {v: i for i, v in enumerate(true.inputs)}
    other = {v: i for i, v in enumerate(false.inputs)}
    kept: dict[tuple[Value, Value], Value] = {}
    for out, pair in zip(n.outputs, zip(true.outputs, false.outputs, strict=True), strict=True):
        if out not in used:
            continue
        if pair[0] in place and place[pair[0]] == other.get(pair[1]) and not has_effects(n):
            r.replace(out, operands[1 + place[pair[0]]])  # an operand either way
        elif pair in kept:
            r.replace(out, kept[pair])
        else:
            kept[pair] = out
    if not kept:
        return
    true = _clean(true, [a for a, _ in kept])
    false = _clean(false, [b for _, b in kept])
    read = _reads(true) | _reads(false)
    stay = [i for i in range(len(true.inputs)) if true.inputs[i] in read or false.inputs[i] in read]
    graphs = {
        name: g.replace(inputs=tuple([g.inputs[i] for i in stay]))
        for name, g in (("true", true), ("false", false))
    }
    inputs = (operands[0], *[operands[i + 1] for i in stay])
    r.append(Node(n.op, inputs, n.attrs | graphs, tuple(kept.values()), n.source))


@dataclass
class _Carry:
    """A loop variable: inside the body (and the condition) at the start, in the body at the end, and outside."""

    inside: Value
    tested: Value | None
    start: Operand
    after: Value
    result: Value


class _Loop:
    """A while_loop or scan taken apart."""

    def __init__(self, r: Rewriter, n: Node, used: set[Value]) -> None:
        self.r, self.n = r, n
        self.body = _clean(n.attrs["body"])
        self.test: Graph | None = _clean(n.attrs["cond"]) if "cond" in n.attrs else None
        c, m = n.attrs["carried"], n.attrs.get("sliced", 0)
        operands = [r[x] for x in n.inputs]
        inside = self.body.inputs
        tests: list[Value | None] = list(self.test.inputs) if self.test else [None] * len(inside)
        self.carries = [
            _Carry(*each)
            for each in zip(inside, tests, operands, self.body.outputs, n.outputs[:c], strict=False)
        ]
        self.rows = list(zip(inside[c : c + m], operands[c:], strict=False))
        self.fixed = list(zip(inside[c + m :], tests[c + m :], operands[c + m :], strict=True))
        self.ys = list(zip(self.body.outputs[c:], n.outputs[c:], strict=True))
        self.used = used
        self.outside: dict[Value, Operand] = {}  # what is known in front of the loop
        self.late: list[
            tuple[Value, Value, Node]
        ] = []  # products to take after it: result, stacked factor, node

    def rewrite(self) -> None:
        self._drop_what_nobody_reads()
        self._fix_what_never_changes()
        if self.n.attrs.get("length", 1):
            self._move_out()
        self._finish()

    def _drop_what_nobody_reads(self) -> None:
        kept: dict[Value, Value] = {}
        for inner, outer in self.ys:
            if outer in self.used:
                if inner in kept:
                    self.r.replace(outer, kept[inner])
                else:
                    kept[inner] = outer
        self.ys = list(kept.items())
        tested = _reads(self.test) if self.test else set()
        live = [k for k in self.carries if k.result in self.used or k.tested in tested]
        while True:
            body = _clean(self.body, [k.after for k in live] + [v for v, _ in self.ys])
            read = _reads(body)
            more = [k for k in self.carries if k not in live and k.inside in read]
            if not more:
                break
            live += more
        self.carries = [k for k in self.carries if k in live]

    def _fix_what_never_changes(self) -> None:
        if has_effects(self.n):
            return  # it may have no other results
        for k in [k for k in self.carries if k.after is k.inside]:
            self.carries.remove(k)
            self.fixed.append((k.inside, k.tested, k.start))
            self.r.replace(k.result, k.start)

    # out of the loop

    def _move_out(self) -> None:
        outside = self.outside
        outside |= {v: x for v, _, x in self.fixed}
        row_of = dict(self.rows)
        kept: list[Node] = []
        for n in self.body.nodes:
            if n.values and all(v in outside or v in self.body.constants for v in n.values) and _pure(n):
                new = self._outer(n)
                outside[n.out] = new
                if n.op.kind is Kind.VIEW:
                    kept.append(n)  # free in the loop, and whoever needs it outside has it there
                else:
                    self.fixed.append((n.out, Value(n.out.spec) if self.test else None, new))
            elif _is_projection(n) and n.values[0] in row_of and n.values[1] in outside:
                new = self._tall(row_of[n.values[0]], n)
                row_of[n.out] = new
                self.rows.append((n.out, new))
            else:
                kept.append(n)
        self.body = self.body.replace(nodes=tuple(kept))
        self._move_results_out()

    def _outer(self, n: Node) -> Value:
        for v in n.values:
            if v not in self.outside:
                self.r.constants[v] = self.body.constants[v]
        inputs = tuple([self.outside.get(x, x) if isinstance(x, Value) else x for x in n.inputs])
        return self.r.emit(n.op, inputs, n.attrs, n.source)

    def _tall(self, rows: Operand, n: Node) -> Value:
        """The product of all rows with an invariant matrix."""
        assert isinstance(rows, Value)
        reshape = PUBLIC["reshape"].op  # type: ignore[attr-defined]
        t, m, k = rows.shape
        tall = self.r.emit(reshape, (rows,), {"shape": (t * m, k)}, n.source)
        product = self.r.emit(n.op, (tall, self.outside[n.values[1]]), n.attrs, n.source)
        return self.r.emit(reshape, (product,), {"shape": (t, *n.out.shape)}, n.source)

    def _move_results_out(self) -> None:
        """Rows of ys that are products with an invariant: the loop gives the other factor instead."""
        if self.test is not None:
            return
        producer = self.body.producers()
        readers = self.body.readers()
        carried = {k.after for k in self.carries}
        ys: dict[Value, Value] = {}
        for inner, outer in self.ys:
            n = producer.get(inner)
            alone = inner not in readers and inner not in carried
            if (
                n is None
                or not alone
                or not _is_projection(n)
                or n.values[1] not in self.outside
                or n.values[0] in self.outside
            ):
                ys[inner] = outer
                continue
            factor = n.values[0]
            length = self.n.attrs["length"]
            if factor not in ys:
                found = next((o for v, o in self.ys if v is factor), None)
                ys[factor] = found or Value(type(factor.spec)((length, *factor.shape), factor.dtype))
            self.late.append((outer, ys[factor], n))
        self.ys = list(ys.items())

    # together again

    def _finish(self) -> None:
        outputs = [k.after for k in self.carries] + [v for v, _ in self.ys]
        body = _clean(self.body, outputs)
        read = _reads(body) | (_reads(self.test) if self.test else set())
        self.rows = [(v, x) for v, x in self.rows if v in read]
        self.fixed = [(v, t, x) for v, t, x in self.fixed if v in read or t in read]
        inside = [k.inside for k in self.carries] + [v for v, _ in self.rows] + [v for v, _, _ in self.fixed]
        attrs: dict[str, Any] = self.n.attrs | {
            "body": body.replace(inputs=tuple(inside)), "carried": len(self.carries),
        }  # fmt: skip
        if self.test is not None:
            tests = [k.tested for k in self.carries] + [t for _, t, _ in self.fixed]
            attrs["cond"] = self.test.replace(inputs=tuple([t for t in tests if t is not None]))
        else:
            attrs["sliced"] = len(self.rows)
        operands = (
            *[k.start for k in self.carries],
            *[x for _, x in self.rows],
            *[x for _, _, x in self.fixed],
        )
        results = (*[k.result for k in self.carries], *[v for _, v in self.ys])
        if results:
            self.r.append(Node(self.n.op, operands, attrs, results, self.n.source))
        for outer, factor, n in self.late:
            self.r.replace(outer, self._tall(factor, n))


def _pure(n: Node) -> bool:
    """Work that cannot fail and does not grow, and views."""
    if n.op.kind is Kind.VIEW:
        return True
    if n.op.kind not in (Kind.ELEMENTWISE, Kind.REDUCTION, Kind.EXTERN) or len(n.outputs) != 1:
        return False
    return n.out.spec.nbytes <= max(v.spec.nbytes for v in n.values)


def _is_projection(n: Node) -> bool:
    """x @ w of two matrices, x with few rows."""
    if n.op.provider != "gemm" or n.attrs["ta"] or len(n.values) != 2:
        return False
    x, w = n.values
    return len(x.shape) == 2 and len(w.shape) == 2 and 0 < x.shape[0] <= FLAT
