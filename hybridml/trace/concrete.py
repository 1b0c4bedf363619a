"""One trace of a function: its graph, the program compiled from it, and its gradient."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import backends, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable, moves
from hybridml.errors import DeviceError, SignatureError
from hybridml.kernels.programs import executable
from hybridml.trace.check import check
from hybridml.trace.gradient import PureFunction, inline
from hybridml.trace.graph import Graph
from hybridml.trace.passes import optimize


@dataclass
class Stats:
    """What building a program cost and what it saves. Seconds and bytes."""

    trace_seconds: float = 0.0
    passes_seconds: float = 0.0
    emit_seconds: float = 0.0
    compile_seconds: float = 0.0
    load_seconds: float = 0.0
    kernels: int = 0
    compiled: int = 0
    loaded_from_disk: int = 0
    bytes_eager: int = 0
    bytes_traced: int = 0
    arena_bytes: int = 0
    python_steps: int = 0


@dataclass(frozen=True)
class OutputPlan:
    """How to rebuild what the Python function returned: `slots` are output numbers, or constants that are returned as they are."""

    structure: pytree.Structure
    slots: tuple[int | None, ...]
    constants: tuple[Any, ...]

    @property
    def single(self) -> bool:
        return self.structure is pytree.LEAF and self.slots == (0,)


class ConcreteFunction:
    """A traced function for one signature: callable, printable, differentiable.

    `graph` is what was traced, `optimized` what the passes made of it, `kernels` the compiled pieces, `variables` the state it
    reads or assigns.
    """

    def __init__(
        self,
        graph: Graph,
        variables: list[Variable],
        outputs: OutputPlan,
        trace_seconds: float = 0.0,
        check: bool = False,
        named: frozenset[int] = frozenset(),
        backend: backends.Backend = backends.CPU,
    ) -> None:
        self.graph = graph
        self.variables = tuple(variables)
        self._plan = outputs
        self._assigned = [variables[i] for i, _ in graph.updates]
        self._trace_seconds = trace_seconds
        self._check = check
        self.named = named  # ids of the variables that the function put into a dict or a set
        self._made: dict[str, PureFunction] = {}  # shared with copies for other variables
        started = time.perf_counter()
        self.optimized = optimize(graph)
        self._passes_seconds = time.perf_counter() - started
        self.backend = backend
        self._moves = moves()
        self._check_places()
        self.program = executable(self.optimized, backend)

    def on(self, variables: Sequence[Variable]) -> ConcreteFunction:
        """The same program on other variables of the same shapes and dtypes."""
        other = copy.copy(self)
        other.variables = tuple(variables)
        other._assigned = [variables[i] for i, _ in self.graph.updates]
        return other

    def _check_places(self) -> None:
        """Raise DeviceError, naming the variable, where one is on another device than the program."""
        for v in self.variables:
            there = backends.of(v._array)
            if there is not self.backend:
                raise DeviceError(
                    f"@hml.function `{self.graph.name}` runs on {self.backend.name} and uses {v!r}, which is on {there.name}; move it "
                    f'before the call with variable.to("{self.backend.name}"), or pass tensors of {there.name}'
                )

    # facts

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def inputs(self) -> tuple[Any, ...]:
        return tuple([v.spec for v in self.graph.inputs])

    @property
    def outputs(self) -> tuple[Any, ...]:
        return tuple([v.spec for v in self.graph.outputs])

    @property
    def kernels(self) -> list[Any]:
        return self.program.kernels

    @property
    def stats(self) -> Stats:
        return Stats(
            trace_seconds=self._trace_seconds, passes_seconds=self._passes_seconds, **self.program.facts()
        )

    def __repr__(self) -> str:
        return (
            f"<ConcreteFunction {self.name}({', '.join(map(str, self.inputs))}), {len(self.kernels)} kernels>"
        )

    def __str__(self) -> str:
        return str(self.graph)

    # calling

    def __call__(self, *tensors: Any) -> Any:
        """Run on tensors in the order of `inputs`; shapes and dtypes must be exactly those."""
        if len(tensors) != len(self.inputs):
            raise SignatureError(
                f"{self.name} takes {len(self.inputs)} tensors {list(self.inputs)}, got {len(tensors)}"
            )
        lifted = [x if isinstance(x, Tensor) else asarray(x) for x in tensors]
        for x, s, v in zip(lifted, self.inputs, self.graph.inputs, strict=True):
            if x.spec != s:
                raise SignatureError(f"{self.name}: argument `{v.name}`: expected {s}, got {x.spec}")
        return self.call(lifted)

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Run on tensors that are known to fit, with everything that may be going on around: traces and tapes."""
        if state.traces or any(x.priority for x in tensors):
            return self.rebuild(self._inline(tensors))
        watching = [t for t in state.tapes if self._reads_watched(t) or any(map(t.is_watching, tensors))]
        if not watching:
            return self.rebuild([wrap(a) for a in self.run([x._array for x in tensors])])
        return self.rebuild(self._call_recorded(tensors))

    def run(self, arrays: list[Any]) -> list[Any]:
        """The bare call: C-contiguous arrays of the program's device in, fresh arrays out, variables updated in place."""
        if self._moves != moves():
            self._check_places()
            self._moves = moves()
        for v in self._assigned:
            if v.is_held():
                v._array = v._array.copy()
        if self._check:
            return self._run_checked(arrays)
        return self.program.run(arrays + [v._array for v in self.variables])

    def _run_checked(self, arrays: list[Any]) -> list[Any]:
        before = [v._array.copy() for v in self.variables]
        outputs = self.program.run(arrays + [v._array for v in self.variables])
        here = self.backend.get
        results = [here(a) for a in (*outputs, *[v._array for v in self._assigned])]
        check(self.graph, [here(a) for a in arrays], [here(a) for a in before], results, self.backend)
        return outputs

    def rebuild(self, results: list[Any]) -> Any:
        plan = self._plan
        if plan.single:
            return results[0]
        leaves = [c if s is None else results[s] for s, c in zip(plan.slots, plan.constants, strict=True)]
        return pytree.unflatten(plan.structure, leaves)

    def _inline(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Run the graph through the door: one more way to write it into a trace."""
        g = self.graph
        pure = g.replace(inputs=g.inputs + g.variables, variables=(), outputs=g.results, updates=())
        results = inline(pure, [*tensors, *[v.value() for v in self.variables]])
        for v, new in zip(self._assigned, results[len(g.outputs) :], strict=True):
            v.assign(new)
        return results[: len(g.outputs)]

    # gradients: a tape around the call records one step

    def _reads_watched(self, tape: Any) -> bool:
        for v in self.variables:
            tape.accessed(v)
        return any(map(tape.is_watching, self.variables))

    def _call_recorded(self, tensors: Sequence[Tensor]) -> list[Any]:
        assigned = set(self._assigned)
        values = [wrap(v._array.copy() if v in assigned else v._array) for v in self.variables]
        for x, v in zip(values, self.variables, strict=True):
            x._id = v._id
        results = self._pure([*tensors, *values])
        n = len(self.graph.outputs)
        for v, new in zip(self._assigned, results[n:], strict=True):
            v._store(new._array)
        return results[:n]

    @property
    def _pure(self) -> PureFunction:
        if "pure" not in self._made:
            g = self.graph
            whole = g.replace(inputs=g.inputs + g.variables, variables=(), outputs=g.results, updates=())
            self._made["pure"] = PureFunction(whole)
        return self._made["pure"]
