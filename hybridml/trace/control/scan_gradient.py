"""The gradient of a scan: a scan the other way.

What the backward body reads of the forward one is stacked: the forward node, which is part of a trace still being written, gets more
results. Invariants, rows of xs, views and what depends on invariants alone are not stacked. To a tape that watches, the stacks are
results of the forward scan like any other, so that gradients of gradients flow through them.

Gradients of invariants are sums over the iterations. A matrix product in such a sum (the gradient of a weight) is taken out of the
loop: sum_t x_t^T g_t is one product of the stacked x and g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridml.eager.state import state
from hybridml.ops.door import call
from hybridml.ops.elementwise import add
from hybridml.ops.linalg import MATMUL
from hybridml.ops.registry import OPS, Kind
from hybridml.ops.spec import spec
from hybridml.ops.view import reshape
from hybridml.trace.builder import Builder
from hybridml.trace.control.joint import Joint, is_float, join, node_of, zeros_of
from hybridml.trace.control.rows import SCAN
from hybridml.trace.control.subgraph import emit
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.symbol import SymbolicTensor

_ADD = OPS["add"]


def pullback(
    attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...], first: int = 0, head: Any = None
) -> Any:
    """The rule for the results of a scan, or for results from number `first` on of the node that made `head`."""
    head = results[0] if head is None else head

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        given = {first + k: g for k, g in enumerate(grads) if g is not None}
        return _gradient(head, operands, given, wanted)

    return pull


@dataclass
class _Backward:
    """A scan's gradient, prepared."""

    joint: Joint
    nodes: Graph  # needs, then seeds -> gradients
    needs: list[tuple[str, int]]  # what each need is: ("x", input), ("fixed", input) or ("residual", number)
    stacks: list[SymbolicTensor]  # the residuals of all iterations
    carries: list[int]
    ys: list[int]  # results of the forward scan whose gradient comes in as rows
    slices: list[int]  # xs with a gradient
    sums: dict[int, _Sum]  # by invariant


@dataclass
class _Sum:
    """The gradient of an invariant: terms to be summed in the loop, and products to be taken after it."""

    terms: list[Value] = field(default_factory=list)
    products: list[tuple[Value, Value]] = field(default_factory=list)


def _gradient(head: Any, operands: list[Any], grads: dict[int, Any], wanted: list[bool]) -> list[Any]:
    builder, at = node_of(head)
    attrs = builder.nodes[at].attrs
    body, c, length = attrs["body"], attrs["carried"], attrs["length"]
    carries = [j for j in range(c) if is_float(body.inputs[j])]
    ys = sorted(k for k in grads if k >= c and is_float(body.outputs[k]))
    asked = carries + [i for i in range(c, len(operands)) if wanted[i] and is_float(body.inputs[i])]
    key = (head._value, tuple(ys), tuple(asked))
    if key not in builder.notes:
        builder.notes[key] = _prepare(builder, at, carries, ys, asked)
    back: _Backward = builder.notes[key]
    _tell_tapes(head, operands, back.stacks)

    summed = [i for i, s in back.sums.items() if s.terms]
    factors = _factors(back)
    graph = _body(back, body, summed, factors)
    arrays: dict[Value, Any] = {}
    shared = []
    for v, (kind, i) in zip(back.nodes.inputs, back.needs, strict=False):
        if kind == "fixed":
            shared.append(operands[i])
        else:
            arrays[v] = operands[i] if kind == "x" else back.stacks[i]
    inits = [grads[j] if j in grads else zeros_of(body.inputs[j].spec) for j in carries]
    inits += [zeros_of(body.inputs[i].spec) for i in summed]
    out = emit(
        SCAN,
        [*inits, *[grads[k] for k in ys], *arrays.values(), *shared],
        {
            "body": graph, "carried": len(inits), "sliced": len(ys) + len(arrays), "length": length,
            "reverse": not attrs["reverse"],
        },
    )  # fmt: skip
    found: list[Any] = [None] * len(operands)
    for i, g in zip((*carries, *summed, *back.slices), out, strict=False):
        found[i] = g if wanted[i] else None
    arrays |= zip(factors, out[len(inits) + len(back.slices) :], strict=True)
    for i, s in back.sums.items():
        for x, g in s.products:
            product = call(MATMUL, _flat(arrays[x]), _flat(arrays[g]), ta=True, tb=False)
            found[i] = product if found[i] is None else found[i] + product
    return found


def _flat(rows: Any) -> Any:
    """The matrices of all iterations as one tall matrix."""
    return reshape(rows, (rows.shape[0] * rows.shape[1], rows.shape[2]))


# preparing


def _prepare(builder: Builder, at: int, carries: list[int], ys: list[int], asked: Sequence[int]) -> _Backward:
    """Split body and gradient, and have the forward node stack what the gradient needs."""
    node = builder.nodes[at]
    c, m, length = node.attrs["carried"], node.attrs["sliced"], node.attrs["length"]
    joint = join(node.attrs["body"], asked, carries + ys)
    g = joint.graph
    forward, backward, needs = _cut(joint, c + m)
    position = {v: i for i, v in enumerate(g.inputs[: joint.n_inputs])}
    kinds: list[tuple[str, int]] = []
    extra: list[Value] = []
    for v in needs:
        i = position.get(v)
        if i is not None and i >= c:
            kinds.append(("x" if i < c + m else "fixed", i))
        else:
            kinds.append(("residual", len(extra)))
            extra.append(v)
    body = g.replace(
        inputs=g.inputs[: joint.n_inputs], nodes=forward, outputs=(*g.outputs[: joint.n_outputs], *extra)
    )
    new = [Value(spec((length, *v.shape), v.dtype)) for v in extra]
    builder.nodes[at] = Node(
        node.op, node.inputs, node.attrs | {"body": body}, (*node.outputs, *new), node.source
    )
    renamed = {v: Value(v.spec, v.name) for v in needs}
    graph = g.replace(
        inputs=(*renamed.values(), *joint.seeds),
        nodes=tuple([_renamed(n, renamed) for n in backward]),
        outputs=tuple([renamed.get(v, v) for v in joint.gradients]),
    )
    gradient_of = dict(zip(joint.wanted, graph.outputs, strict=True))
    fixed = {v for v, (kind, _) in zip(graph.inputs, kinds, strict=False) if kind == "fixed"}
    return _Backward(
        joint,
        graph,
        kinds,
        [builder.symbol(v, node.source) for v in new],
        carries,
        ys,
        [i for i in joint.wanted if c <= i < c + m],
        {i: _terms(graph, v, fixed) for i, v in gradient_of.items() if i >= c + m},
    )


def _renamed(n: Node, names: dict[Value, Value]) -> Node:
    inputs = tuple([names.get(x, x) if isinstance(x, Value) else x for x in n.inputs])
    return Node(n.op, inputs, n.attrs, n.outputs, n.source)


def _terms(graph: Graph, gradient: Value, fixed: set[Value]) -> _Sum:
    """Take a gradient apart into what is added up: products of two matrices that change, and the rest."""
    producer = graph.producers()
    found = _Sum()
    pending = [gradient]
    while pending:
        v = pending.pop()
        n = producer.get(v)
        if (
            n is not None
            and n.op is _ADD
            and all(x.shape == v.shape for x in n.values)
            and len(n.values) == 2
        ):
            pending += n.values
        elif n is not None and _is_tall(n) and not any(x in fixed or x in graph.constants for x in n.values):
            found.products.append((n.values[0], n.values[1]))
        else:
            found.terms.append(v)
    return found


def _is_tall(n: Node) -> bool:
    """True for x^T g: stacked in the first axis, factors of a sum of such products make one product."""
    return n.op is MATMUL and n.attrs["ta"] and not n.attrs["tb"] and all(len(x.shape) == 2 for x in n.values)


def _cut(joint: Joint, first_fixed: int) -> tuple[tuple[Node, ...], list[Node], list[Value]]:
    """Forward nodes, backward nodes, and what the latter need: inputs of the body and results of forward nodes.

    Views, and whatever depends on invariants alone, are computed again rather than kept.
    """
    g = joint.graph
    late = set(joint.seeds)
    fixed = {*g.inputs[first_fixed : joint.n_inputs], *g.constants}
    forward: list[Node] = []
    backward: list[Node] = []
    again: dict[Value, Node] = {}
    for n in g.nodes:
        if any(x in late for x in n.values):
            late.update(n.outputs)
            backward.append(n)
            continue
        forward.append(n)
        if all(x in fixed for x in n.values):
            fixed.update(n.outputs)
            again.update(dict.fromkeys(n.outputs, n))
        elif n.op.kind is Kind.VIEW:
            again[n.out] = n
    needs: dict[Value, None] = {}
    repeated: dict[Node, None] = {}

    def need(v: Value) -> None:
        if v in late or v in g.constants:
            return
        if v in again:
            repeated[again[v]] = None
            for x in again[v].values:
                need(x)
        else:
            needs[v] = None

    for v in [x for n in backward for x in n.values] + list(joint.gradients):
        need(v)
    return tuple(forward), [n for n in forward if n in repeated] + backward, list(needs)


def _tell_tapes(head: Any, operands: list[Any], stacks: list[SymbolicTensor]) -> None:
    """Record the stacks as results of the forward scan, on tapes that do not know them yet."""
    floats = [s for s in stacks if is_float(s)]
    if not floats:
        return
    builder, at = node_of(head)
    first = builder.nodes[at].outputs.index(stacks[0]._value)
    for tape in state.now.tapes:
        ids = [x._id if tape.is_watching(x) else None for x in operands]
        if any(ids) and not all(tape.is_watching(s) for s in floats):
            tape.add(ids, stacks, pullback({}, operands, (), first, head))


# the backward body


def _factors(back: _Backward) -> list[Value]:
    """Factors of products that the loop has to stack; the others are stacked already."""
    ready = {v for v, (kind, _) in zip(back.nodes.inputs, back.needs, strict=False) if kind != "fixed"}
    pairs = [pair for s in back.sums.values() for pair in s.products]
    return list(dict.fromkeys(v for pair in pairs for v in pair if v not in ready))


def _body(back: _Backward, body: Graph, summed: list[int], factors: list[Value]) -> Graph:
    """(seeds of carries, sums; seeds of ys, rows of needs; invariants) -> (carries, sums; gradients of xs, factors)."""
    builder = Builder(back.nodes.name)
    needs = back.nodes.inputs[: len(back.needs)]
    gradient_of = dict(zip(back.joint.wanted, back.nodes.outputs, strict=True))
    terms = [v for i in summed for v in back.sums[i].terms]
    carried = [j for j in back.carries if j in gradient_of]
    outputs = [*[gradient_of[j] for j in carried], *[gradient_of[i] for i in back.slices], *factors, *terms]
    with builder:
        seeds = [builder.input(body.inputs[j].spec) for j in back.carries]
        sums = [builder.input(body.inputs[i].spec) for i in summed]
        seeds += [builder.input(body.outputs[k].spec) for k in back.ys]
        given = {}
        for fixed in (False, True):
            for v, (kind, _) in zip(needs, back.needs, strict=True):
                if (kind == "fixed") is fixed:
                    given[v] = builder.input(v.spec)
        results = iter(
            inline(back.nodes.replace(outputs=tuple(outputs)), [*[given[v] for v in needs], *seeds])
        )
        before = {j: next(results) for j in carried}
        rows = [next(results) for _ in (*back.slices, *factors)]
        after = []
        for i, total in zip(summed, sums, strict=True):
            for _ in back.sums[i].terms:
                total = add(total, next(results))
            after.append(total)
        carry = [before[j] if j in before else zeros_of(body.inputs[j].spec) for j in back.carries]
        return builder.finish([*carry, *after, *rows])[0]
