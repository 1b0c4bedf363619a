"""The gradient of a loop of unknown length.

Loop variables are kept at checkpoints, at most `CHECKPOINTS` of them; then the loop goes backwards from one to the one before, and the
steps between two checkpoints are computed again. With a known limit that is small enough every step has its checkpoint. All of it is
written in scan, while_loop and cond, and so differentiable again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridml.eager.creation import arange, asarray
from hybridml.eager.tape import GradientTape
from hybridml.ops.elementwise import clip, maximum
from hybridml.ops.registry import OPS
from hybridml.trace.control.functions import cond, while_loop
from hybridml.trace.control.joint import is_float, node_of, zeros_of
from hybridml.trace.control.scans import scan
from hybridml.trace.gradient import inline
from hybridml.trace.graph import Graph, Node, Value, without_silent_effects
from hybridml.trace.symbol import SymbolicTensor

CHECKPOINTS = 256
_PLUS = OPS["add"]


def pullback(attrs: dict[str, Any], operands: list[Any], results: tuple[Any, ...]) -> Any:
    def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
        return _WhileGradient(attrs, operands, results[0]).run(grads, wanted)

    return pull


class _WhileGradient:
    """One backward walk through a loop of unknown length."""

    def __init__(self, attrs: dict[str, Any], operands: list[Any], head: Any) -> None:
        self.body: Graph = without_silent_effects(attrs["body"])
        self.carried: int = attrs["carried"]
        self.start, self.fixed = operands[: self.carried], operands[self.carried :]
        self.floats = [j for j in range(self.carried) if is_float(self.body.inputs[j])]
        limit = attrs["limit"]
        self.slots = CHECKPOINTS if limit is None else max(1, min(limit, CHECKPOINTS))
        self.one_each = limit is not None and limit <= CHECKPOINTS
        self.trips = _count(head, self.carried)

    def step(self, now: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(inline(self.body, [*now, *self.fixed]))

    def run(self, grads: list[Any], wanted: list[bool]) -> list[Any]:
        asked = [i for i, x in enumerate(self.fixed) if wanted[self.carried + i] and is_float(x)]
        stride = 1 if self.one_each else maximum((self.trips + (self.slots - 1)) // self.slots, 1)
        marks = self._checkpoints(stride)
        inits = [zeros_of(self.start[j].spec) if grads[j] is None else grads[j] for j in self.floats]
        zero = [zeros_of(self.fixed[i].spec) for i in asked]

        def segment(carry: Any, x: Any) -> Any:
            k, first = x
            count = clip(self.trips - k * stride, 0, stride)
            if self.one_each:
                return cond(
                    count > 0, lambda: self._back(first, carry[0], carry[1], asked), lambda: carry
                ), None

            def back_one(j: Any, seeds: Any, sums: Any) -> Any:
                now = while_loop(lambda i, _: i < j, lambda i, now: (i + 1, self.step(now)), (0, first))[1]
                return (j - 1, *self._back(now, seeds, sums, asked))

            return while_loop(lambda j, *_: j >= 0, back_one, (count - 1, *carry))[1:], None

        (seeds, sums), _ = scan(
            segment, (tuple(inits), tuple(zero)), (arange(self.slots), marks), reverse=True
        )
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
        found = tape._gradients([out[j] for j in self.floats], list(seeds), sources)
        k = len(self.floats)
        before = [
            zeros_of(self.start[j].spec) if g is None else g for j, g in zip(self.floats, found, strict=False)
        ]
        return tuple(before), tuple([s if g is None else s + g for s, g in zip(sums, found[k:], strict=True)])


def _count(head: SymbolicTensor, carried: int) -> Any:
    """How often a loop ran: one more loop variable of the node."""
    builder, at = node_of(head)
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
                plus = Node(_PLUS, (t, 1), {}, (Value(start.spec),))
                g = g.replace(nodes=(*g.nodes, plus), outputs=(*g.outputs, plus.out))
            graphs[name] = g
        trips = Value(start.spec)
        builder.nodes[at] = Node(
            node.op, (*node.inputs[:carried], start, *node.inputs[carried:]),
            node.attrs | graphs | {"carried": carried + 1}, (*node.outputs, trips), node.source,
        )  # fmt: skip
        builder.notes[key] = builder.symbol(trips, node.source)
    return builder.notes[key]
