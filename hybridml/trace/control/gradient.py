"""Gradients of branches and loops, as more branches and loops.

cond    a cond of the branches' gradients, which compute what they need of the branch again.
scan    a scan the other way. What the backward body reads of the forward one is stacked: the forward node, which is part of a trace
        still being written, gets more results. Invariants, rows of xs and what is cheap to compute from them are not stacked.
while   checkpoints of the loop variables, at most `CHECKPOINTS` of them, then backwards from one to the one before; the steps between
        two checkpoints are computed again.

All of it is written in the same nodes, and so differentiable again: a tape that watches sees the backward loop like any other, and
the extra results of a forward scan as results of that scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import dtypes
from hybridml.eager.creation import arange, asarray, zeros
from hybridml.eager.state import state
from hybridml.eager.tape import GradientTape
from hybridml.ops.elementwise import add, clip, maximum
from hybridml.ops.registry import Kind
from hybridml.ops.spec import TensorSpec, spec
from hybridml.ops.view import broadcast_to
from hybridml.trace.builder import Builder
from hybridml.trace.control.functions import cond, scan, while_loop
from hybridml.trace.control.rows import COND, SCAN
from hybridml.trace.control.subgraph import emit
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, Node, Value
from hybridml.trace.symbol import SymbolicTensor

CHECKPOINTS = 256


def _float(v: Any) -> bool:
    return dtypes.is_float(v.dtype)


def _node(head: SymbolicTensor) -> tuple[Builder, int]:
    """The builder and the position of the node that made a symbol."""
    builder = head._builder
    for i in reversed(range(len(builder.nodes))):
        if head._value in builder.nodes[i].outputs:
            return builder, i
    raise AssertionError("a result without a node")


def _zeros(s: TensorSpec) -> Any:
    """Zeros that take no memory."""
    return broadcast_to(zeros((), dtype=s.dtype), s.shape)


# one body, forwards and backwards


@dataclass
class Joint:
    """A body and its gradient in one graph: inputs of the body, then seeds; outputs of the body, then gradients."""

    graph: Graph
    n_inputs: int
    n_outputs: int
    wanted: tuple[int, ...]  # inputs that have a gradient, in the order of the gradients

    @property
    def seeds(self) -> tuple[Value, ...]:
        return self.graph.inputs[self.n_inputs :]

    @property
    def gradients(self) -> tuple[Value, ...]:
        return self.graph.outputs[self.n_outputs :]


def _join(body: Graph, wanted: Sequence[int], seeded: Sequence[int]) -> Joint:
    """Trace a body and the gradient of its outputs `seeded` with respect to its inputs `wanted`."""
    builder = Builder(f"{body.name}_backward")
    tapes, state.tapes = state.tapes, []
    try:
        with builder:
            inputs = [builder.input(v.spec, v.name) for v in body.inputs]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([inputs[i] for i in wanted])
                outputs = inline(body, inputs)
            seeds = [builder.input(body.outputs[k].spec) for k in seeded]
            found = tape._walk([outputs[k] for k in seeded], seeds, [inputs[i] for i in wanted])
            graph, _ = builder.finish([*outputs, *[g for g in found if g is not None]])
    finally:
        state.tapes = tapes
    having = tuple([i for i, g in zip(wanted, found, strict=True) if g is not None])
    return Joint(graph, len(body.inputs), len(body.outputs), having)


# cond


def cond_pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        seeded = [k for k, g in enumerate(grads) if g is not None and _float(results[k])]
        asked = [i for i, (x, w) in enumerate(zip(operands[1:], wanted[1:], strict=True)) if w and _float(x)]
        found: list[Any] = [None] * len(operands)
        joints = [_join(attrs[k], asked, seeded) for k in ("true", "false")]
        having = [i for i in asked if any(i in j.wanted for j in joints)]
        if not seeded or not having:
            return found
        true, false = [_gradients_only(j, having) for j in joints]
        back = emit(COND, [*operands, *[grads[k] for k in seeded]], {"true": true, "false": false})
        for i, g in zip(having, back, strict=True):
            found[i + 1] = g
        return found

    return pull


def _gradients_only(joint: Joint, having: Sequence[int]) -> Graph:
    """The joint graph with nothing but gradients as outputs, zeros where this branch has none."""
    builder = Builder(joint.graph.name)
    with builder:
        inputs = [builder.input(v.spec, v.name) for v in joint.graph.inputs]
        own = dict(zip(joint.wanted, inline(joint.graph, inputs)[joint.n_outputs :], strict=True))
        grads = [own[i] if i in own else _zeros(joint.graph.inputs[i].spec) for i in having]
        return builder.finish(grads)[0]


# scan


@dataclass
class _Backward:
    """A scan's gradient, prepared: which inputs it stacks, shares or takes as rows, and its body over them and the seeds."""

    joint: Joint
    graph: Graph  # needs, then seeds -> gradients
    needs: list[tuple[str, int]]  # ("carry", input), ("x", input), ("fixed", input) or ("residual", number)
    stacks: list[SymbolicTensor]  # of carries and residuals, in the order of `needs`


def scan_pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...], first: int = 0, head: Any = None) -> Any:
    """The rule for the results of a scan, or for extra results that start at number `first` of the node that made `head`."""
    head = results[0] if head is None else head

    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        given = {first + k: g for k, g in enumerate(grads) if g is not None}
        return _scan_gradient(head, operands, given, wanted)

    return pull


def _scan_gradient(head: Any, operands: list[Any], grads: dict[int, Any], wanted: list[bool]) -> list[Any]:
    builder, at = _node(head)
    attrs = builder.nodes[at].attrs
    body, c, m, length = attrs["body"], attrs["carried"], attrs["sliced"], attrs["length"]
    carries = [j for j in range(c) if _float(body.inputs[j])]
    seeded = carries + sorted(k for k in grads if k >= c and _float(body.outputs[k]))
    asked = carries + [i for i in range(c, len(operands)) if wanted[i] and _float(body.inputs[i])]
    key = (head._value, tuple(seeded), tuple(asked))
    if key not in builder.notes:
        builder.notes[key] = _prepare_scan(builder, at, seeded, asked)
    back: _Backward = builder.notes[key]
    _tell_tapes(head, operands, back.stacks)
    fixed = [i for i in back.joint.wanted if i >= c + m]
    graph = _backward_body(back, body, carries, seeded, fixed, c, m)
    ys = seeded[len(carries) :]
    stacks = iter(back.stacks)
    rows, shared = [], []
    for kind, i in back.needs:
        if kind == "fixed":
            shared.append(operands[i])
        else:
            rows.append(operands[i] if kind == "x" else next(stacks))
    inits = [grads[j] if j in grads else _zeros(body.inputs[j].spec) for j in carries]
    inits += [_zeros(body.inputs[i].spec) for i in fixed]
    out = emit(
        SCAN,
        [*inits, *[grads[k] for k in ys], *rows, *shared],
        {
            "body": graph, "carried": len(inits), "sliced": len(ys) + len(rows), "length": length,
            "reverse": not attrs["reverse"],
        },
    )  # fmt: skip
    slices = [i for i in back.joint.wanted if c <= i < c + m]
    found: list[Any] = [None] * len(operands)
    for i, g in zip((*carries, *fixed, *slices), out, strict=True):
        found[i] = g if wanted[i] else None
    return found


def _prepare_scan(builder: Builder, at: int, seeded: Sequence[int], asked: Sequence[int]) -> _Backward:
    """Split body and gradient, and have the forward node stack what the gradient needs."""
    node = builder.nodes[at]
    c, m, length = node.attrs["carried"], node.attrs["sliced"], node.attrs["length"]
    joint = _join(node.attrs["body"], asked, seeded)
    g = joint.graph
    forward, backward, needs = _cut(joint, c + m)
    kinds: list[tuple[str, int]] = []
    extra: list[Value] = []
    position = {v: i for i, v in enumerate(g.inputs[: joint.n_inputs])}
    for v in needs:
        i = position.get(v)
        if i is not None and i >= c:
            kinds.append(("x" if i < c + m else "fixed", i))
            continue
        kinds.append(("residual", len(extra)))
        extra.append(v)
    body = g.replace(inputs=g.inputs[: joint.n_inputs], nodes=forward, outputs=(*g.outputs[: joint.n_outputs], *extra))
    new = [Value(spec((length, *v.shape), v.dtype)) for v in extra]
    builder.nodes[at] = Node(node.op, node.inputs, node.attrs | {"body": body}, (*node.outputs, *new), node.source)
    renamed = {v: Value(v.spec, v.name) for v in needs}
    graph = g.replace(
        inputs=(*renamed.values(), *joint.seeds),
        nodes=tuple([_renamed(n, renamed) for n in backward]),
        outputs=tuple([renamed.get(v, v) for v in joint.gradients]),
    )
    return _Backward(joint, graph, kinds, [builder.symbol(v, node.source) for v in new])


def _renamed(n: Node, names: dict[Value, Value]) -> Node:
    return Node(n.op, tuple([names.get(x, x) if isinstance(x, Value) else x for x in n.inputs]), n.attrs, n.outputs, n.source)


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
    """To tapes that watch, the stacks are results of the forward scan: gradients of gradients flow through them."""
    floats = [s for s in stacks if _float(s)]
    if not floats:
        return
    builder, at = _node(head)
    first = builder.nodes[at].outputs.index(stacks[0]._value)
    for tape in state.tapes:
        ids = [x._id if tape.is_watching(x) else None for x in operands]
        if any(ids) and not all(tape.is_watching(s) for s in floats):
            tape.add(ids, stacks, scan_pullback({}, operands, (), first, head))


def _backward_body(
    back: _Backward, body: Graph, carries: list[int], seeded: Sequence[int], fixed: list[int], c: int, m: int
) -> Graph:
    """The body of the backward scan: (seeds of carries, sums for invariants; seeds of ys, rows; invariants)."""
    builder = Builder(back.graph.name)
    needs = back.graph.inputs[: len(back.needs)]
    with builder:
        seeds = [builder.input(body.inputs[j].spec) for j in carries]
        sums = [builder.input(body.inputs[i].spec) for i in fixed]
        seeds += [builder.input(body.outputs[k].spec) for k in seeded[len(carries) :]]
        rows = {v: builder.input(v.spec) for v, (kind, _) in zip(needs, back.needs, strict=True) if kind != "fixed"}
        rows |= {v: builder.input(v.spec) for v, (kind, _) in zip(needs, back.needs, strict=True) if kind == "fixed"}
        grads = inline(back.graph, [*[rows[v] for v in needs], *seeds])
        own = dict(zip(back.joint.wanted, grads, strict=True))
        out = [own[j] if j in own else _zeros(body.inputs[j].spec) for j in carries]
        out += [add(s, own[i]) for s, i in zip(sums, fixed, strict=True)]
        out += [own[i] for i in back.joint.wanted if c <= i < c + m]
        return builder.finish(out)[0]


# while_loop


def while_pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        return _WhileGradient(attrs, operands, results[0]).run(grads, wanted)

    return pull


class _WhileGradient:
    """One backward walk through a loop of unknown length."""

    def __init__(self, attrs: dict[str, Any], operands: list[Any], head: Any) -> None:
        self.body: Graph = attrs["body"]
        self.carried: int = attrs["carried"]
        self.start, self.fixed = operands[: self.carried], operands[self.carried :]
        self.floats = [j for j in range(self.carried) if _float(self.body.inputs[j])]
        limit = attrs["limit"]
        self.slots = CHECKPOINTS if limit is None else max(1, min(limit, CHECKPOINTS))
        self.one_each = limit is not None and limit <= CHECKPOINTS
        self.trips = _count(head, self.carried)

    def step(self, now: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(inline(self.body, [*now, *self.fixed]))

    def run(self, grads: list[Any], wanted: list[bool]) -> list[Any]:
        asked = [i for i, x in enumerate(self.fixed) if wanted[self.carried + i] and _float(x)]
        stride = 1 if self.one_each else maximum((self.trips + (self.slots - 1)) // self.slots, 1)
        marks = self._checkpoints(stride)
        inits = [_zeros(self.start[j].spec) if grads[j] is None else grads[j] for j in self.floats]
        zero = [_zeros(self.fixed[i].spec) for i in asked]

        def segment(carry: Any, x: Any) -> Any:
            k, first = x
            count = clip(self.trips - k * stride, 0, stride)
            if self.one_each:
                return cond(count > 0, lambda: self._back(first, *carry, asked), lambda: carry), None

            def back_one(j: Any, seeds: Any, sums: Any) -> Any:
                now = while_loop(lambda i, _: i < j, lambda i, now: (i + 1, self.step(now)), (0, first))[1]
                return (j - 1, *self._back(now, seeds, sums, asked))

            return while_loop(lambda j, *_: j >= 0, back_one, (count - 1, *carry))[1:], None

        (seeds, sums), _ = scan(segment, (tuple(inits), tuple(zero)), (arange(self.slots), marks), reverse=True)
        found: list[Any] = [None] * (len(self.start) + len(self.fixed))
        for j, g in zip(self.floats, seeds, strict=True):
            found[j] = g if wanted[j] else None
        for i, g in zip(asked, sums, strict=True):
            found[self.carried + i] = g
        return found

    def _checkpoints(self, stride: Any) -> Any:
        """The loop variables at every `stride`-th iteration, stacked."""

        def forward(carry: Any, _: Any) -> Any:
            t, now = carry
            if self.one_each:
                after = cond(t < self.trips, lambda: (t + 1, self.step(now)), lambda: (t, now))
            else:
                after = while_loop(
                    lambda j, t, _: (j < stride) & (t < self.trips),
                    lambda j, t, now: (j + 1, t + 1, self.step(now)),
                    (0, t, now),
                )[1:]
            return after, now

        return scan(forward, (0, tuple(self.start)), length=self.slots)[1]

    def _back(self, now: Sequence[Any], seeds: Any, sums: Any, asked: Sequence[int]) -> tuple[Any, Any]:
        """Seeds and sums one iteration earlier, where the loop variables were `now`."""
        sources = [now[j] for j in self.floats] + [self.fixed[i] for i in asked]
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            out = self.step(now)
        found = tape._walk([out[j] for j in self.floats], list(seeds), sources)
        k = len(self.floats)
        before = [_zeros(self.start[j].spec) if g is None else g for j, g in zip(self.floats, found, strict=False)]
        return tuple(before), tuple([s if g is None else s + g for s, g in zip(sums, found[k:], strict=True)])


def _count(head: SymbolicTensor, carried: int) -> Any:
    """How often a loop ran: one more loop variable of the node."""
    builder, at = _node(head)
    key = (head._value, "trips")
    if key not in builder.notes:
        node = builder.nodes[at]
        start = builder.value_of(asarray(0))
        assert isinstance(start, Value)
        graphs = {}
        for name in ("cond", "body"):
            g = node.attrs[name]
            t = Value(start.spec, "trips")
            g = g.replace(inputs=(*g.inputs[:carried], t, *g.inputs[carried:]))
            if name == "body":
                plus = Node(add.op, (t, 1), {}, (Value(start.spec),))
                g = g.replace(nodes=(*g.nodes, plus), outputs=(*g.outputs, plus.out))
            graphs[name] = g
        trips = Value(start.spec)
        builder.nodes[at] = Node(
            node.op, (*node.inputs[:carried], start, *node.inputs[carried:]),
            node.attrs | graphs | {"carried": carried + 1}, (*node.outputs, trips), node.source,
        )  # fmt: skip
        builder.notes[key] = builder.symbol(trips, node.source)
    return builder.notes[key]
