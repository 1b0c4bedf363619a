"""One trace of a function: its graph, the program compiled from it, and its gradient."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from hybridml import backends
from hybridml.eager.creation import asarray
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, wrap
from hybridml.eager.variable import Variable, moves
from hybridml.errors import CompileWarning, DeviceError, SignatureError, user_stacklevel
from hybridml.kernels.executable import Executable
from hybridml.kernels.programs import executable
from hybridml.ops.spec import TensorSpec
from hybridml.symbolic import Dim
from hybridml.symbolic.polynomial import Symbol
from hybridml.trace.background import Later
from hybridml.trace.bind import bound
from hybridml.trace.check import check
from hybridml.trace.gradient import Prepared, PureFunction, inline
from hybridml.trace.graph import Graph
from hybridml.trace.interpret import interpret
from hybridml.trace.outputs import OutputPlan
from hybridml.trace.passes import optimize


@dataclass
class Stats:
    """What building a program cost and what it saves. Seconds and bytes.

    `compiled`, `loaded_from_disk` and their seconds count the kernels generated for this graph. The seconds of planning (fusion, memory,
    the program's table), translating, LLVM, Numba and linking are those of all its kernels, matrix products and the driver included;
    what LLVM did in other threads while this one was busy with other stages is `llvm_beside_seconds`.
    """

    trace_seconds: float = 0.0
    passes_seconds: float = 0.0
    emit_seconds: float = 0.0
    compile_seconds: float = 0.0
    load_seconds: float = 0.0
    plan_seconds: float = 0.0
    translate_seconds: float = 0.0
    llvm_seconds: float = 0.0
    llvm_beside_seconds: float = 0.0
    numba_seconds: float = 0.0
    link_seconds: float = 0.0
    kernels: int = 0
    compiled: int = 0
    loaded_from_disk: int = 0
    bytes_eager: int = 0
    bytes_traced: int = 0
    arena_bytes: int = 0
    python_steps: int = 0


@dataclass(frozen=True)
class Binding:
    """Sizes that are put into a symbolic graph: `optimized` gives its optimised form with them in, `program` what runs, `prepare` the
    gradient's programs."""

    values: Mapping[Symbol, int]
    optimized: Callable[[], Graph]
    program: Callable[[backends.Backend], Executable]
    prepare: Callable[[], Prepared | None]


def as_pure(graph: Graph) -> Graph:
    """The graph with its variables as inputs and their new values as outputs."""
    return graph.replace(
        inputs=graph.inputs + graph.variables, variables=(), outputs=graph.results, updates=()
    )


def fits(given: TensorSpec, expected: TensorSpec) -> bool:
    """True for a tensor that a signature allows; sizes that are open are met by any."""
    return (
        given.dtype == expected.dtype
        and given.ndim == expected.ndim
        and all(isinstance(e, Dim) or d == e for d, e in zip(given.shape, expected.shape, strict=True))
    )


def _compiled(
    graph: Graph, binding: Binding | None, backend: backends.Backend
) -> tuple[float, Graph | None, Executable]:
    """Seconds that the passes took, what they made of the graph, and its program; bound sizes need no pass, and no graph to run."""
    if binding is not None:
        return 0.0, None, binding.program(backend)
    started = time.perf_counter()
    optimized = optimize(graph)
    return time.perf_counter() - started, optimized, executable(optimized, backend)


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
        binding: Binding | None = None,
        background: bool = False,
        backend: backends.Backend = backends.CPU,
    ) -> None:
        self._traced, self._binding = graph, binding
        self.variables = tuple(variables)
        self.plan = outputs
        self.assigned = [variables[i] for i, _ in graph.updates]
        self._trace_seconds = trace_seconds
        self._check = check
        self.named = named  # ids of the variables that the function put into a dict or a set
        self._made: dict[str, PureFunction] = {}  # shared with copies for other variables
        alone = not graph.inputs and bool(variables)  # then its variables say where it runs
        self.backend = backends.common([v._array for v in variables]) if alone else backend
        self._moves = moves()
        self._check_places()
        self._background = background
        self._later = Later(partial(_compiled, graph, binding, self.backend)) if background else None
        self._later_gradient: list[Later[None]] = []  # at most one; shared with copies
        if self._later is None:
            self._passes_seconds, optimized, self.program = _compiled(graph, binding, self.backend)
            if optimized is not None:
                self.optimized = optimized

    # What the passes made of the graph, and its program. In the background they are awaited when they are first asked for.

    @cached_property
    def _passes_seconds(self) -> float:
        return self._made_later[0]

    @cached_property
    def optimized(self) -> Graph:
        if self._binding is not None:
            return self._binding.optimized()
        found = self._made_later[1]
        assert found is not None, "what is not bound was optimised"
        return found

    @cached_property
    def program(self) -> Executable:
        return self._made_later[2]

    @property
    def _made_later(self) -> tuple[float, Graph | None, Executable]:
        assert self._later is not None
        return self._later.result()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until calls run the compiled program; False if they do not after `timeout` seconds, or never will."""
        later = self._later
        return later is None or (later.wait(timeout) and later.error is None)

    def on(self, variables: Sequence[Variable]) -> ConcreteFunction:
        """The same program on other variables of the same shapes and dtypes."""
        other = copy.copy(self)
        other.variables = tuple(variables)
        other.assigned = [variables[i] for i, _ in self._traced.updates]
        return other

    def _check_places(self) -> None:
        """Raise DeviceError, naming the variable, where one is on another device than the program."""
        for v in self.variables:
            there = backends.of(v._array)
            if there is not self.backend:
                raise DeviceError(
                    f"@hml.function `{self.name}` runs on {self.backend.name} and uses {v!r}, which is on {there.name}; move it "
                    f'before the call with variable.to("{self.backend.name}"), or pass tensors of {there.name}'
                )

    # facts

    @cached_property
    def graph(self) -> Graph:
        return self._traced if self._binding is None else bound(self._traced, self._binding.values)

    @property
    def name(self) -> str:
        return self._traced.name

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
            if not fits(x.spec, s):
                raise SignatureError(f"{self.name}: argument `{v.name}`: expected {s}, got {x.spec}")
        return self.call(lifted)

    def call(self, tensors: Sequence[Tensor]) -> Any:
        """Run on tensors that are known to fit, with everything that may be going on around: traces and tapes."""
        if state.now.traces or any(x.priority for x in tensors):
            return self.rebuild(self._inline(tensors))
        watching = [t for t in state.now.tapes if self._reads_watched(t) or any(map(t.is_watching, tensors))]
        if not watching:
            return self.returned(self.run([x._array for x in tensors]))
        return self.rebuild(self._call_recorded(tensors))

    @property
    def is_bare(self) -> bool:
        """True where a call runs the program and nothing else."""
        return not self._check and (self._later is None or (self._later.ready and self._later.error is None))

    def run(self, arrays: list[Any]) -> list[Any]:
        """The bare call: C-contiguous arrays of the program's device in, fresh arrays out, variables updated in place."""
        if self._moves != moves():
            self._check_places()
            self._moves = moves()
        for v in self.assigned:
            if v.is_held():
                v._array = backends.of(v._array).copy(v._array)
        if self._later is not None and not self._has_arrived(self._later):
            return self._run_meanwhile(arrays)
        if self._check:
            return self._run_checked(arrays)
        return self.program.run(arrays + [v._array for v in self.variables])

    def _has_arrived(self, later: Later[Any]) -> bool:
        """True if what was to be made in the background can be used, or must be: arrays of a device are not interpreted."""
        if not later.ready:
            return not all(isinstance(v._array, np.ndarray) for v in self.variables)
        if later.error is None:
            return True
        if not later.said:
            later.said = True
            warnings.warn(
                f"@hml.function `{self.name}` could not be compiled in the background, so its operations go on one by one: "
                f"{type(later.error).__name__}: {later.error}. Without background=True the call itself raises this.",
                CompileWarning,
                stacklevel=user_stacklevel(),
            )
        return False

    def _run_meanwhile(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """A call by the interpreter: one operation after the other, each as it runs eagerly."""
        if not all(isinstance(a, np.ndarray) for a in arrays):
            return self.program.run(arrays + [v._array for v in self.variables])
        found, new = interpret(self.graph, arrays, [v._array for v in self.variables])
        outputs, new = [[np.array(a, order="C") for a in results] for results in (found, new)]
        for v, a in zip(self.assigned, new, strict=True):
            np.copyto(v._array, a)
        return outputs

    def _run_checked(self, arrays: list[Any]) -> list[Any]:
        before = [v._array.copy() for v in self.variables]
        outputs = self.program.run(arrays + [v._array for v in self.variables])
        here = self.backend.get
        results = [here(a) for a in (*outputs, *[v._array for v in self.assigned])]
        check(self.graph, [here(a) for a in arrays], [here(a) for a in before], results, self.backend)
        return outputs

    def returned(self, arrays: list[Any]) -> Any:
        """What the Python function returned, of a run's results."""
        if self.plan.single:
            return wrap(arrays[0])
        return self.plan.filled([wrap(a) for a in arrays])

    def rebuild(self, results: list[Any]) -> Any:
        """What the Python function returned, with these tensors in their places."""
        return self.plan.filled(results)

    def _inline(self, tensors: Sequence[Tensor]) -> list[Any]:
        """Run the graph through the door: one more way to write it into a trace."""
        results = inline(as_pure(self.graph), [*tensors, *[v.value() for v in self.variables]])
        n = len(self.graph.outputs)
        for v, new in zip(self.assigned, results[n:], strict=True):
            v.assign(new)
        return results[:n]

    # gradients: a tape around the call records one step

    def _reads_watched(self, tape: Any) -> bool:
        for v in self.variables:
            tape.accessed(v)
        return any(map(tape.is_watching, self.variables))

    def _call_recorded(self, tensors: Sequence[Tensor]) -> list[Any]:
        if self._background and not self._gradient_has_arrived():
            return self._inline(tensors)
        assigned = set(self.assigned)
        values = [wrap(v._array.copy() if v in assigned else v._array) for v in self.variables]
        for x, v in zip(values, self.variables, strict=True):
            x._id = v._id
        results = self._pure([*tensors, *values])
        n = len(self.graph.outputs)
        for v, new in zip(self.assigned, results[n:], strict=True):
            v._store(new._array)
        return results[:n]

    def _gradient_has_arrived(self) -> bool:
        """Whether the programs of the gradient are made; asking for the first time has them made."""
        if not self._later_gradient:
            self._later_gradient.append(Later(self._pure.compile))
        return self._has_arrived(self._later_gradient[0])

    @property
    def _pure(self) -> PureFunction:
        if "pure" not in self._made:
            binding = self._binding
            prepare = (lambda: None) if binding is None else binding.prepare
            self._made["pure"] = PureFunction(as_pure(self.graph), prepare)
        return self._made["pure"]
