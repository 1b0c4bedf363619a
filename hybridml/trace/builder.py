"""Writing a graph down while a Python function runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hybridml import backends, errors
from hybridml.eager.dispatch import record
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import (
    HybridMLError,
    SourceLine,
    TraceError,
    TracerError,
    add_users_line,
    located,
    user_line,
)
from hybridml.ops.door import call
from hybridml.ops.identity import STRAIGHT_THROUGH
from hybridml.ops.indexing import wrap_index
from hybridml.ops.registry import PUBLIC, Op
from hybridml.ops.spec import TensorSpec
from hybridml.trace.graph import Graph, Node, Operand, Value
from hybridml.trace.holder import holder
from hybridml.trace.symbol import SymbolicTensor, WeakSymbol


class Builder:
    """A graph under construction: the target of every op with a symbolic operand.

    `owned` holds the variables that the function created, by call site: a later trace gets the same ones again.

    A builder with a `parent` writes the sub-graph of a branch or a loop body. What it reads of the graphs around it becomes
    `captures`: inputs of the sub-graph, operands of the node that holds it. `tapes` are those that watch from outside; an eager
    tensor that one of them watches is captured too, so that a gradient can reach it.
    """

    def __init__(
        self,
        name: str,
        owned: dict[Any, Variable] | None = None,
        parent: Builder | None = None,
        tapes: Sequence[Any] = (),
    ) -> None:
        self.name = name
        self.parent = parent
        self.tapes: tuple[Any, ...] = (*parent.tapes, *tapes) if parent is not None else ()
        self.captures: dict[int, tuple[Value, Tensor]] = {}
        self.notes: dict[
            Any, Any
        ] = {}  # what gradients of this trace's loops have prepared, to be used again
        self.closed = False
        self.abandoned: Exception | None = None  # it left a sub-graph half written
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.variables: dict[Variable, Value] = {}  # as they were when the function was entered
        self._now: dict[Variable, Tensor] = {}  # as they are at this point of the trace
        self._assigned: set[Variable] = set()
        self._constants: dict[
            int, tuple[Value, Tensor]
        ] = {}  # the tensor keeps its id from being given to another
        self._arrays: dict[Value, Any] = {}
        self._owned = owned if owned is not None else {}
        self._visits: dict[Any, int] = {}
        self.named_variables: set[int] = set()
        self.converts: bool = (
            parent.converts if parent is not None else False
        )  # control flow of the functions that are called

    # the context

    def __enter__(self) -> Builder:
        state.now.traces.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        state.now.traces.remove(self)
        self.closed = True

    def active(self, tensor: SymbolicTensor | None = None) -> Builder:
        """The trace being written now: this builder's own, or a sub-graph inside it; else an error about the tensor that asked."""
        if not self.closed and state.now.traces:
            inner: Any = state.now.traces[-1]
            if inner.is_inside(self):
                return inner
        raise self.escaped(tensor)

    @property
    def outermost(self) -> Builder:
        """The builder of the function, seen from a sub-graph."""
        return self if self.parent is None else self.parent.outermost

    def check_finished(self) -> None:
        """Raise TraceError if an exception left a sub-graph half written and the function went on."""
        e = self.abandoned
        if e is None:
            return
        error = TraceError(
            f"{type(e).__name__} was raised in a branch or a loop on a tensor, and caught outside of it. Branches are traced whether "
            "they will run or not, so it cannot depend on the tensor whether the exception is raised: put the `try` inside the "
            f"branch, or let a Python value decide. The exception said: {e}"
        ).with_traceback(e.__traceback__)
        add_users_line(error)
        raise error from e

    def is_inside(self, other: Builder) -> bool:
        """True if this is `other` or the builder of a sub-graph, however deep, of it."""
        at: Builder | None = self
        while at is not None and at is not other:
            at = at.parent
        return at is other

    def escaped(self, tensor: SymbolicTensor | None) -> TracerError:
        made = f", made at {tensor._made_at}," if tensor is not None and tensor._made_at else ""
        name = holder(tensor) if tensor is not None else None
        kept = f"in `{name}`" if name else "in a list, an attribute or a global"
        if self.parent is not None:
            where = (
                f"a symbolic tensor of a branch or a loop body (`{self.name}`){made} is used outside of it"
            )
            return TracerError(
                located(
                    f"{where}. It was kept {kept}{'' if name else ' that a called function changes'}; let the function that keeps it "
                    "return it, and assign it in the branch or the body",
                    user_line(),
                )
            )
        return TracerError(
            located(
                f"a symbolic tensor of @hml.function `{self.name}`{made} is used after its trace ended. It was kept {kept}; "
                "return it from the function instead, or keep state in an hml.Variable",
                user_line(),
            )
        )

    # writing

    def symbol(self, value: Value, made_at: SourceLine | None = None, weak: bool = False) -> SymbolicTensor:
        cls = WeakSymbol if weak else SymbolicTensor
        t = cls.__new__(cls)
        t._id = None
        t._value, t._builder, t._made_at = value, self, made_at
        return t

    def input(self, spec: TensorSpec, name: str | None = None, weak: bool = False) -> SymbolicTensor:
        v = Value(spec, name)
        self.inputs.append(v)
        return self.symbol(v, weak=weak)

    def value_of(self, x: Any) -> Operand:
        """The graph's value for an operand; an eager tensor becomes a constant of the graph."""
        if isinstance(x, SymbolicTensor):
            if x._builder is self:
                return x._value
            if x._builder.closed or not self.is_inside(x._builder):
                raise x._builder.escaped(x)
            return self._capture(x)
        if not isinstance(x, Tensor):
            return x
        if any(t.is_watching(x) for t in self.tapes):
            return self._capture(x)
        if id(x) not in self._constants:
            self._constants[id(x)] = (self._constant(x), x)
        return self._constants[id(x)][0]

    def _capture(self, x: Tensor) -> Value:
        if id(x) not in self.captures:
            self.captures[id(x)] = (Value(x.spec), x)
        return self.captures[id(x)][0]

    def _constant(self, x: Tensor) -> Value:
        """A constant of the graph; an array stretched by broadcasting stays small and is stretched in the graph."""
        array = x._array
        small = array[
            tuple(
                [
                    slice(0, 1) if s == 0 and d > 1 else slice(None)
                    for d, s in zip(array.shape, array.strides, strict=True)
                ]
            )
        ]
        if type(array) is not np.ndarray:
            small = backends.of(array).get(small)
        v = Value(TensorSpec(small.shape, small.dtype))
        self._arrays[v] = small
        if small.shape == array.shape:
            return v
        out = Value(x.spec)
        stretch = PUBLIC["broadcast_to"].op  # type: ignore[attr-defined]
        self.nodes.append(Node(stretch, (v,), {"shape": x.shape}, (out,), user_line(2)))
        return out

    def append(self, op: Op, operands: list[Any], attrs: dict[str, Any]) -> Any:
        """Infer, write the node down, tell the tapes."""
        inputs = tuple([self.value_of(x) for x in operands])
        source = user_line(2)
        try:
            given = [x.spec if isinstance(x, Value) else x for x in inputs]
            specs = op.infer(*given, **attrs)
            if op.indexes is not None:
                for i, axis, n in op.indexes(given, attrs):
                    if type(operands[i]) is Tensor and isinstance(
                        n, int
                    ):  # its values are known, and may be wrong where nobody looks at run time
                        wrap_index(backends.of(operands[i]._array).xp, operands[i]._array, n, axis)
        except HybridMLError as e:
            raise type(e)(located(f"{op.name}: {e}", source)) from None
        several = isinstance(specs, tuple)
        outputs = tuple([Value(s) for s in (specs if several else (specs,))])
        self.nodes.append(Node(op, inputs, attrs, outputs, source))
        symbols = tuple([self.symbol(v, source) for v in outputs])
        result = symbols if several else symbols[0]
        if state.now.tapes:
            record(op, attrs, operands, result)
        return result

    # variables

    def read(self, variable: Variable) -> Tensor:
        if variable not in self._now:
            self.variables[variable] = Value(variable.spec, variable.name)
            self._now[variable] = self.symbol(self.variables[variable])
        now = self._now[variable]
        if (
            variable in self._assigned
        ):  # gradients go to the variable and not through the assignment, as they do eagerly
            return call(STRAIGHT_THROUGH, now, self.symbol(self.variables[variable]))
        return (
            self.symbol(now._value) if isinstance(now, SymbolicTensor) else now
        )  # a fresh face: tapes name each read

    def assign(self, variable: Variable, value: Tensor) -> None:
        self.read(variable)
        v = self.value_of(value)
        assert isinstance(v, Value)
        self._now[variable] = self.symbol(v)
        self._assigned.add(variable)

    def named(self, variable: Variable) -> None:
        """The function put a variable into a dict or a set, so that it is to it this variable and no other."""
        if self.parent is not None:
            self.parent.named(variable)
        self.named_variables.add(variable._id)

    def converted(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """A function that a transformation calls, as this trace wants it."""
        from hybridml.trace.autograph.calls import callee  # it is made of tensors

        return callee(f) if self.converts else f

    def checkpoint(self, run: Callable[[], Any]) -> Any:
        """Write down `run()` as one node, whose gradient computes it again."""
        from hybridml.trace.control.recompute import checkpointed  # written with builders

        return checkpointed(run)

    def create_variable(
        self, make: Callable[[], Variable], spec: Callable[[], TensorSpec | None]
    ) -> Variable:
        """A variable made while tracing belongs to the function: one per call site and visit, however often it is traced.

        `spec` says what a new one would be, or None where only making it would tell.
        """
        if self.parent is not None:
            return self.parent.create_variable(make, spec)
        frame = sys._getframe(1)
        while frame.f_back is not None and errors._is_ours(frame):
            frame = frame.f_back
        site = (frame.f_code.co_filename, frame.f_lineno)
        visit = self._visits[site] = self._visits.get(site, -1) + 1
        if (site, visit) not in self._owned:
            saved, state.now.traces = state.now.traces, []
            try:
                self._owned[site, visit] = make()
            except TracerError as e:
                raise TraceError(
                    f"{e}\nA variable's initial value cannot be computed from the traced arguments; give it a constant "
                    "and assign inside the function"
                ) from None
            finally:
                state.now.traces = saved
        else:
            now = spec()
            kept = self._owned[site, visit]
            if now is not None and now != kept.spec:
                raise TraceError(
                    f"the variable made at {site[0]}:{site[1]} in @hml.function `{self.name}` is {kept.spec} since an earlier trace, and "
                    f"would be {now} in this one: a function keeps one variable for each line that makes one. Make it outside and "
                    f"pass it in:\n    {kept.name} = hml.Variable(...)  # before the calls, one for each shape\n"
                    f"    {self.name}({kept.name}, ...)"
                )
        return self._owned[site, visit]

    def assigned(self) -> dict[Variable, Tensor]:
        """What was assigned here, with the values at the end."""
        return {v: self._now[v] for v in self.variables if v in self._assigned}

    def body(self, inputs: Sequence[Value], outputs: Sequence[Value], name: str = "") -> Graph:
        """A sub-graph without variables: `inputs` hold all that is read from outside."""
        return Graph(
            name or self.name, tuple(inputs), (), dict(self._arrays), tuple(self.nodes), tuple(outputs)
        )

    def custom_gradient(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Write a function with its own gradient rule down, rule and all."""
        from hybridml.trace.control.custom import trace_custom  # it is written with builders

        return trace_custom(self.converted(f), args, kwargs)

    # the end

    def finish(self, outputs: list[Any]) -> tuple[Graph, list[Variable]]:
        """The graph, and its variables in the order of `graph.variables`."""
        out_values: list[Value] = []
        for o in outputs:
            v = self.value_of(o)
            assert isinstance(v, Value)
            out_values.append(v)
        order = list(self.variables)
        updates = []
        for i, variable in enumerate(order):
            if variable in self._assigned:
                v = self.value_of(self._now[variable])
                assert isinstance(v, Value)
                updates.append((i, v))
        graph = Graph(
            self.name,
            tuple(self.inputs),
            tuple(self.variables.values()),
            dict(self._arrays),
            tuple(self.nodes),
            tuple(out_values),
            tuple(updates),
        )
        return graph, order
