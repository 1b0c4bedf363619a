"""@hml.function: trace once a signature, then run the program.

A call is asked of the trace used last first (`recent`). Only if that does not fit is a key built and looked up (`traces`), and only if
there is no trace for it is the function run on symbols (`tracing`).
"""

from __future__ import annotations

import functools
import sys
import time
import types
import weakref
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import backends, pytree
from hybridml.eager.state import state
from hybridml.eager.tensor import wrap
from hybridml.kernels.recognise import NO_ANSWER
from hybridml.ops.spec import TensorSpec
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.explain import Explanation, explain
from hybridml.trace.families import Families
from hybridml.trace.guard import Trace
from hybridml.trace.history import History
from hybridml.trace.method import BoundFunction, weak_method
from hybridml.trace.recent import Recent
from hybridml.trace.signature import Binder, check_signature
from hybridml.trace.traces import Traces
from hybridml.trace.tracing import Tracing


class _Eagerly:
    on = False


def run_functions_eagerly(on: bool) -> None:
    """Make every `@hml.function` run its Python body, for debugging."""
    _Eagerly.on = bool(on)


@dataclass(frozen=True)
class CacheInfo:
    """Counts since the function was made."""

    traces: int
    hits: int
    evictions: int
    size: int
    kernels_compiled: int
    kernels_loaded: int
    binds: int  # sizes that were put into a trace for all sizes
    plans: int  # of graphs with open sizes, the gradients' among them
    apart: int  # sizes that such a plan does not serve, so that they were planned as numbers


class Function:
    """A Python function that is traced once for each signature it is called with."""

    def __init__(
        self,
        python_function: Callable[..., Any],
        input_signature: Sequence[TensorSpec] | None = None,
        reduce_retracing: bool = True,
        autograph: bool = True,
        name: str | None = None,
        check: bool = False,
        background: bool = False,
    ) -> None:
        self.python_function = python_function
        self.input_signature = None if input_signature is None else tuple(input_signature)
        self.reduce_retracing = reduce_retracing
        self.autograph = autograph
        self.check = check
        self.background = background
        self._name = name or getattr(python_function, "__name__", type(python_function).__name__).replace(
            "<lambda>", "lambda"
        )
        self._binder = Binder(python_function)
        self._bound: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
        self._hits = array("q", [0])
        self._history = History(self._name)
        self._recent = Recent(self._binder, self._history, self._hits)
        self._tracing = Tracing(python_function, self._name, self._binder, autograph, check, background)
        families = Families(self.input_signature)
        self._traces = Traces(
            self._tracing, families, reduce_retracing, self._history, self._recent, self._hits
        )
        functools.update_wrapper(self, python_function, updated=())

    # calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = state.now
        if not (now.tapes or now.traces or now.levels or _Eagerly.on):
            recent = self._recent
            answer = recent.named(args, kwargs) if kwargs else recent.fast(args)
            if answer is not NO_ANSWER:
                return answer
            answer = recent.answer(args, kwargs)
            if answer is not NO_ANSWER:
                return answer
        return self._call_slowly(args, kwargs)

    def _call_slowly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        now = state.now
        if _Eagerly.on or now.traces or now.levels:
            return self._tracing.run(args, kwargs)  # inside another trace or a vmap: part of it
        trace, leaves, is_new = self._find(args, kwargs)
        if not is_new:
            self._hits[0] += 1
            self._history.notice(trace)
        tensors = trace.tensors(leaves)
        if not now.tapes:
            tensors = [
                x if x._array.flags.c_contiguous else wrap(backends.contiguous(x._array)) for x in tensors
            ]
        return trace.concrete.call(tensors)

    def _find(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Trace, list[Any], bool]:
        bound = self._binder.bind(args, kwargs)
        if self.input_signature is not None:
            self._check(bound)
        return self._traces.find(bound)

    def _check(self, bound: Any) -> None:
        """Raise SignatureError where tensors among the arguments do not fit the `input_signature`. Objects with state pass."""
        leaves = [x for x in pytree.leaves(bound) if not pytree.is_state(x)]
        assert self.input_signature is not None
        check_signature(leaves, self.input_signature, self._binder)

    # facts for people

    def source(self) -> str:
        """The function after control-flow conversion, or its own text with the reason why it was not converted."""
        return self._tracing.source()

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The trace for these arguments; a TensorSpec stands for any tensor of that shape and dtype."""
        return self._traces.concrete(self._binder.bind(args, kwargs))

    def wait(self, timeout: float | None = None) -> bool:
        """With `background=True`, wait until every trace has its program; False if one has not after `timeout` seconds, or could not be
        compiled. Programs of gradients that a tape around the call asks for are not waited for."""
        end = None if timeout is None else time.monotonic() + timeout
        traces = [t.concrete for t in self._traces.every()]
        return all([c.wait(None if end is None else max(0.0, end - time.monotonic())) for c in traces])

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What was fused and what was not and why, bytes moved, the memory plan and every kernel's source, for these arguments."""
        return explain(self.get_concrete_function(*args, **kwargs))

    def explain_retraces(self) -> str:
        """Which arguments made new traces, from what to what, and the one-line cure of each."""
        return self._history.explain(self._traces.counts["traces"])

    def cache_info(self) -> CacheInfo:
        """Traces, hits, evictions, and kernels compiled or loaded for the traces that are kept."""
        stats = [t.concrete.stats for t in self._traces.every() if t.concrete.wait(0)]
        blueprints = [b for g in self._traces.every_general() for b in g.blueprints]
        return CacheInfo(
            **self._traces.counts,
            hits=self._hits[0],
            size=len(self._traces),
            kernels_compiled=sum(s.compiled for s in stats),
            kernels_loaded=sum(s.loaded_from_disk for s in stats),
            plans=sum(b.planned for b in blueprints),
            apart=sum(b.apart for b in blueprints),
        )

    # methods

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        try:
            bound = self._bound.get(instance)
        except TypeError:  # not hashable or not weakly referable: a plain bound method, traced for the instance as an argument
            return types.MethodType(self, instance)
        if bound is None:
            method = weak_method(self.python_function, instance, self.autograph)
            bound = self._bound[instance] = Function(
                method,
                self.input_signature,
                self.reduce_retracing,
                self.autograph,
                self._name,
                self.check,
                self.background,
            )
            bound._tracing.instance = weakref.ref(instance)
        return BoundFunction(bound, instance)

    def __reduce__(self) -> Any:
        """By name where the module has it under its name, as a function is pickled; else what it was made of, without its traces."""
        found: Any = sys.modules.get(getattr(self, "__module__", None) or "")
        name: str = getattr(self, "__qualname__", "")
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return name
        return Function, (
            self.python_function, self.input_signature, self.reduce_retracing, self.autograph, self._name, self.check, self.background,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<hml.function {self._name}: {self._traces.counts['traces']} traces>"


def function(
    python_function: Callable[..., Any] | None = None,
    *,
    input_signature: Sequence[TensorSpec] | None = None,
    reduce_retracing: bool = True,
    autograph: bool = True,
    name: str | None = None,
    check: bool = False,
    background: bool = False,
) -> Any:
    """Trace a Python function into a graph and run it as one native program.

    Tensors (and NumPy arrays) key a trace by shape and dtype, Python values by type and value. Python side effects happen while
    tracing only; variables and their assignments happen at each call. `check=True` runs the interpreter beside the program and raises
    MismatchError at the first operation that differs. With `background=True` a new trace is compiled by another thread, and calls run
    its operations one by one until the program is there; `wait()` waits for it.

    >>> import hybridml as hml
    >>> @hml.function
    ... def f(x):
    ...     return hml.tanh(x) * 2
    >>> f(hml.asarray([0., 1.])).numpy()
    array([0.       , 1.5231884], dtype=float32)
    """

    def decorate(f: Callable[..., Any]) -> Function:
        return Function(f, input_signature, reduce_retracing, autograph, name, check, background)

    return decorate if python_function is None else decorate(python_function)
