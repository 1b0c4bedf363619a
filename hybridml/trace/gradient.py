"""The gradient of a graph: one forward graph that also returns what its backward graph needs.

A tape *around* a traced call records one step. Its rule is the backward graph, which is itself a `PureFunction` and so records
itself when a tape watches the backward walk: gradients of gradients come for free.
(The split into forward with residuals and backward is TensorFlow's `_DelayedRewriteGradientFunctions`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from hybridml import backends, dtypes
from hybridml.eager.batch_tensor import BatchTensor
from hybridml.eager.creation import backend_of, beside, zeros_like
from hybridml.eager.dispatch import run as run_op
from hybridml.eager.effects import perform
from hybridml.eager.state import state
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor, wrap
from hybridml.kernels.executable import Executable
from hybridml.kernels.programs import executable
from hybridml.ops.registry import Kind, Op
from hybridml.trace.builder import Builder
from hybridml.trace.control.mapped import through_functions
from hybridml.trace.control.unroll import unroll
from hybridml.trace.graph import Graph, Node, Value, without_silent_effects
from hybridml.trace.interpret import evaluate
from hybridml.trace.passes import optimize
from hybridml.trace.symbol import SymbolicTensor


@dataclass(frozen=True)
class Split:
    """forward: inputs -> outputs + residuals that are not inputs. backward: saved + seeds -> gradients of `wanted` inputs.

    `saved` says where each residual comes from: (True, input number) or (False, number among the extra outputs).
    """

    forward: Graph
    backward: Graph
    wanted: tuple[int, ...]
    saved: tuple[tuple[bool, int], ...]


def inline(graph: Graph, tensors: Sequence[Any]) -> list[Any]:
    """Run a graph without variables through the door: written into whatever trace is open, recorded by whatever tape watches."""
    environment: dict[Value, Any] = dict(zip(graph.inputs, tensors, strict=True))
    placed = next((b for b in map(backend_of, tensors) if b is not None), backends.CPU)
    environment |= {v: wrap(placed.put(a)) for v, a in graph.constants.items()}
    with beside(next((x for x in tensors if backend_of(x) is not None), None)):
        evaluate(graph, _through_the_door, environment)
    return [environment[v] for v in graph.outputs]


def _through_the_door(op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
    if op.kind is Kind.CONTROL and any(isinstance(x, BatchTensor) for x in operands):
        return through_functions(op, operands, attrs, inline)
    if op.kind is Kind.CONTROL and not any(isinstance(x, SymbolicTensor) for x in operands):
        return unroll(op, operands, attrs, inline)
    if op.kind is Kind.EFFECT:
        return perform(op, operands, attrs)
    return run_op(op, tuple(operands), attrs)


def differentiate(graph: Graph) -> Split:
    """Trace forward and backward together, then cut where the seeds come in."""
    builder = Builder(graph.name)
    tapes, state.now.tapes = state.now.tapes, []
    try:
        with builder:
            inputs = [builder.input(v.spec, v.name) for v in graph.inputs]
            floats = [i for i, v in enumerate(graph.inputs) if dtypes.is_float(v.dtype)]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([inputs[i] for i in floats])
                outputs = inline(graph, inputs)
            seeded = [o for o, v in zip(outputs, graph.outputs, strict=True) if dtypes.is_float(v.dtype)]
            seeds = [builder.input(o.spec) for o in seeded]
            sources = [inputs[i] for i in floats]
            found = tape._gradients(seeded, seeds, sources)
            wanted = tuple([i for i, g in zip(floats, found, strict=True) if g is not None])
            grads = [g for g in found if g is not None]
            joint, _ = builder.finish([*outputs, *grads])
    finally:
        state.now.tapes = tapes
    return _cut(joint, len(graph.inputs), len(graph.outputs), wanted)


def _cut(joint: Graph, n_inputs: int, n_outputs: int, wanted: tuple[int, ...]) -> Split:
    late = set(joint.inputs[n_inputs:])
    forward: list[Node] = []
    backward: list[Node] = []
    for n in joint.nodes:
        if any(x in late for x in n.values):
            late.update(n.outputs)
            backward.append(n)
        else:
            forward.append(n)
    grads = joint.outputs[n_outputs:]
    crossing: dict[Value, None] = {}
    for v in [x for n in backward for x in n.values] + list(grads):
        if v not in late and v not in joint.constants:
            crossing[v] = None
    own = {v: i for i, v in enumerate(joint.inputs[:n_inputs])}
    extra = [v for v in crossing if v not in own]
    saved = tuple([(True, own[v]) if v in own else (False, extra.index(v)) for v in crossing])
    renamed = {v: Value(v.spec, v.name) for v in crossing}
    return Split(
        joint.replace(
            inputs=joint.inputs[:n_inputs],
            nodes=tuple(forward),
            outputs=joint.outputs[:n_outputs] + tuple(extra),
        ),
        joint.replace(
            name=f"{joint.name}_backward",
            inputs=tuple(renamed.values()) + joint.inputs[n_inputs:],
            nodes=tuple([_renamed(n, renamed) for n in backward]),
            outputs=tuple([renamed.get(v, v) for v in grads]),
        ),
        wanted,
        saved,
    )


def _renamed(n: Node, names: dict[Value, Value]) -> Node:
    return Node(
        n.op,
        tuple([names.get(x, x) if isinstance(x, Value) else x for x in n.inputs]),
        n.attrs,
        n.outputs,
        n.source,
    )


Programs = Callable[[backends.Backend], Executable]  # that of one graph for a device


@dataclass(frozen=True)
class Prepared:
    """A split, and the programs of its two graphs."""

    split: Split
    forward: Programs
    backward: Programs

    @staticmethod
    def of(graph: Graph) -> Prepared:
        split, forward, backward = prepared(graph)
        return Prepared(split, partial(executable, forward), partial(executable, backward))


def prepared(graph: Graph) -> tuple[Split, Graph, Graph]:
    """A split, and what the passes made of its two graphs."""
    split = differentiate(graph)
    return split, optimize(split.forward), optimize(split.backward)


class PureFunction:
    """A graph without variables, as a differentiable function of tensors.

    `prepare` gives the gradient's programs, where they are to be had more cheaply than by tracing it; `program` its own, likewise.
    """

    def __init__(
        self,
        graph: Graph,
        prepare: Callable[[], Prepared | None] = lambda: None,
        program: Programs | None = None,
    ) -> None:
        self.graph, self._prepare, self._given = graph, prepare, program
        self._programs: dict[tuple[str, backends.Backend], Executable] = {}

    def _program(self, backend: backends.Backend) -> Executable:
        return self._on(
            "program", backend, self._given or (lambda backend: executable(optimize(self.graph), backend))
        )

    def _forward(self, backend: backends.Backend) -> Executable:
        return self._on("forward", backend, lambda backend: self._prepared.forward(backend))

    def _on(self, which: str, backend: backends.Backend, make: Programs) -> Executable:
        """The program of a graph for a device, made once."""
        if (which, backend) not in self._programs:
            self._programs[which, backend] = make(backend)
        return self._programs[which, backend]

    def compile(self, backend: backends.Backend = backends.CPU) -> None:
        """Make the programs of a call that a tape records, and of its gradient, before anybody asks for them."""
        self._forward(backend)
        self._backward._program(backend)

    @cached_property
    def _prepared(self) -> Prepared:
        return self._prepare() or Prepared.of(self.graph)

    @property
    def _split(self) -> Split:
        return self._prepared.split

    @cached_property
    def _backward(self) -> PureFunction:
        return PureFunction(self._split.backward, program=self._prepared.backward)

    def __call__(self, tensors: list[Any]) -> list[Any]:
        if state.now.traces or any(isinstance(x, SymbolicTensor) for x in tensors):
            return inline(self.graph, tensors)
        backend = backends.common([x._array for x in tensors])
        if not any(t.is_watching(x) for t in state.now.tapes for x in tensors):
            return _run(self._program(backend), tensors)
        results = _run(self._forward(backend), tensors)
        n = len(self.graph.outputs)
        outputs, extra = results[:n], results[n:]
        residuals = [tensors[i] if is_input else extra[i] for is_input, i in self._split.saved]
        for tape in state.now.tapes:
            ids = [x._id if tape.is_watching(x) else None for x in tensors]
            if any(ids):
                tape.add(ids, results, self._pullback(tensors, outputs, residuals))
        return outputs

    def _pullback(self, tensors: list[Any], outputs: list[Any], residuals: list[Any]) -> Any:
        n = len(outputs)

        def pull(grads: list[Any], wanted: list[bool]) -> list[Any]:
            found: list[Any] = [None] * len(tensors)
            if any(g is not None for g in grads[:n]):
                seeds = [
                    zeros_like(o) if g is None else g
                    for g, o in zip(grads[:n], outputs, strict=True)
                    if dtypes.is_float(o.dtype)
                ]
                for i, g in zip(self._split.wanted, self._backward([*residuals, *seeds]), strict=True):
                    found[i] = g
            if any(g is not None for g in grads[n:]):
                for i, g in enumerate(self._through_residuals(tensors, grads[n:], wanted)):
                    found[i] = g if found[i] is None else found[i] if g is None else found[i] + g
            return found

        return pull

    def _through_residuals(self, tensors: list[Any], seeds: list[Any], wanted: list[bool]) -> list[Any]:
        """Second order: a gradient reached a residual. Run forwards once more under a tape of its own."""
        sources = [x for x, w in zip(tensors, wanted, strict=True) if w]
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            extra = inline(without_silent_effects(self._split.forward), tensors)[len(self.graph.outputs) :]
        pairs = [(r, s) for r, s in zip(extra, seeds, strict=True) if s is not None]
        found = iter(tape._gradients([r for r, _ in pairs], [s for _, s in pairs], sources))
        return [next(found) if w else None for w in wanted]


def _run(program: Executable, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [wrap(a) for a in program.run([backends.contiguous(x._array) for x in tensors])]
