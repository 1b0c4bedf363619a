"""@hml.function: trace once a signature, then run the program.

A call is asked of the trace used last first (`recent`). Only if that does not fit is a key built and looked up.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
import types
import weakref
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybridml import backends, pytree
from hybridml.eager.state import state
from hybridml.eager.tensor import wrap
from hybridml.eager.variable import Variable
from hybridml.errors import (
    TraceError,
)
from hybridml.kernels.recognise import NO_ANSWER
from hybridml.ops.spec import TensorSpec, spec
from hybridml.symbolic import Dim, Guards, Scope
from hybridml.symbolic.polynomial import atom
from hybridml.trace import autograph
from hybridml.trace.any_size import AnySize
from hybridml.trace.builder import Builder
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.explain import Explanation, explain
from hybridml.trace.families import NUMBER, Families
from hybridml.trace.general import General
from hybridml.trace.guard import NUMBERS, Trace
from hybridml.trace.history import History
from hybridml.trace.method import BoundFunction, weak_method
from hybridml.trace.reach import reaches
from hybridml.trace.recent import Recent
from hybridml.trace.signature import (
    Binder,
    CallKey,
    Place,
    Places,
    check_signature,
    is_tensor,
    leaf_keys,
    leaf_names,
    placement,
)
from hybridml.trace.watch import is_plain, reads_of
from hybridml.trace.written import Written, write

MAX_TRACES = 64
STAND_IN_SIZE = (
    120  # what comparisons are answered by where a size is open and no call has come: it has many divisors
)


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
        self._traces: OrderedDict[CallKey, Trace] = OrderedDict()
        self._any_size: OrderedDict[CallKey, AnySize] = OrderedDict()
        self._owned: dict[Any, Variable] = {}
        self._lock = threading.RLock()
        self._bound: weakref.WeakKeyDictionary[Any, Function] = weakref.WeakKeyDictionary()
        self._hits = array("q", [0])
        self._count = {"traces": 0, "evictions": 0, "binds": 0}
        self._families = Families(self.input_signature)
        self._by_identity: set[CallKey] = (
            set()
        )  # forms whose variables the function knows by more than their place
        self._history = History(self._name)
        self._recent = Recent(self._binder, self._history, self._hits)
        self._instance: weakref.ref[Any] | None = None  # of a method
        functools.update_wrapper(self, python_function, updated=())

    # calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = state.now
        if not (now.tapes or now.traces or now.levels or _Eagerly.on):
            recent = self._recent
            if not kwargs and (answer := recent.fast(args)) is not NO_ANSWER:
                return answer
            answer = recent.answer(args, kwargs)
            if answer is not NO_ANSWER:
                return answer
        return self._call_slowly(args, kwargs)

    def _call_slowly(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        now = state.now
        if _Eagerly.on or now.traces or now.levels:
            return self._run(args, kwargs)  # inside another trace or a vmap: part of it
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
        with self._lock:
            leaves, structure = pytree.flatten(bound, opened=True)
            key = self._key(leaves, structure)
            trace = self._known(key)
            is_new = trace is None
            if trace is None:
                trace, key, leaves, is_new = self._trace(bound)
            trace = trace.on(leaves)
            self._recent.use(trace, key)
        return trace, leaves, is_new

    def _check(self, bound: Any) -> None:
        """Raise SignatureError where tensors among the arguments do not fit the `input_signature`. Objects with state pass."""
        leaves = [x for x in pytree.leaves(bound) if not pytree.is_state(x)]
        assert self.input_signature is not None
        check_signature(leaves, self.input_signature, self._binder)

    def _key(self, leaves: list[Any], structure: pytree.Structure) -> CallKey:
        """The key of a call; its variables are known by identity where the function knows them so."""
        device = placement(leaves).name
        key = CallKey(structure, leaf_keys(leaves), device)
        variables = [id(x) for x in leaves if isinstance(x, Variable)]
        if variables:
            trace = self._known(key)
            if key.opened(None) in self._by_identity or (
                trace is not None and not trace.captured.isdisjoint(variables)
            ):
                return CallKey(structure, leaf_keys(leaves, by_identity=True), device)
        return key

    def _tells_apart(self, leaves: list[Any], named: frozenset[int]) -> bool:
        """True if the function may know one of the variables it is given otherwise than as its argument."""
        variables = [x for x in leaves if isinstance(x, Variable)]
        if not variables:
            return False
        others = [x for x in leaves if not isinstance(x, Variable) and not is_tensor(x)]
        return any(v._id in named for v in variables) or reaches([self.python_function, *others], variables)

    def _known(self, key: CallKey) -> Trace | None:
        """The trace for this key, exact or with the numbers that are known to vary left open."""
        found = key if key in self._traces else key.opened(self._families.numbers(key))
        trace = self._traces.get(found)
        if trace is not None:
            self._traces.move_to_end(found)
        return trace

    # tracing

    def _trace(self, bound: Any) -> tuple[Trace, CallKey, list[Any], bool]:
        """A trace for a call that has none, the key it is kept under, the leaves of the arguments, and whether the function ran for it.

        Sizes that an earlier trace takes are bound; what differs from an earlier call of this form is traced as a symbol, once. Tracing
        may change the objects among the arguments: a module makes its weights at first use. So the key is that of the arguments as tracing
        left them, and the next call finds it.
        """
        self._forget_dead()
        leaves, structure = pytree.flatten(bound, opened=True)
        key = self._key(leaves, structure)
        reads = reads_of(self.python_function, self._objects(leaves, structure))
        places = self._families.varying(key, self.reduce_retracing)
        found = self._by_sizes(key, places)
        is_new = found is None
        if found is None:
            self._count["traces"] += 1
            found, places, key, leaves, structure = self._traced(bound, key, leaves, structure, places)
        else:
            self._count["binds"] += 1
        numbers = frozenset([i for i, axis in places if axis == NUMBER])
        trace = Trace(found, [_stand_in(x) for x in leaves], structure, numbers, self._hits)
        trace.reads = tuple(
            [r for r in reads if not r.changed]
        )  # what tracing changed is the function's own business
        if self._tells_apart(leaves, trace.concrete.named):
            self._by_identity.add(key.opened(None))
            key = CallKey(structure, leaf_keys(leaves, by_identity=True), key.device)
        self._traces[key.opened(_numbers(places))] = trace
        if len(self._traces) > MAX_TRACES:
            self._traces.popitem(last=False)
            self._count["evictions"] += 1
        return trace, key, leaves, is_new

    def _by_sizes(self, key: CallKey, places: Places) -> ConcreteFunction | None:
        """The program for this call's sizes from a trace for all sizes, if there is one that allows them."""
        for general in self._families.generals(key, places):
            sizes = key.sizes(general.places)
            guard = general.refusal(sizes)
            if guard is None:
                return general.bind(sizes)
            self._history.note_refusal(guard)
        return None

    def _traced(
        self, bound: Any, key: CallKey, leaves: list[Any], structure: pytree.Structure, places: Places
    ) -> tuple[ConcreteFunction, Places, CallKey, list[Any], pytree.Structure]:
        """A new trace with as many of the places open as the function allows, those places, and the call as tracing left it."""
        numbers = _numbers(places)
        found = None
        for attempt in dict.fromkeys((places, places - numbers, numbers)):
            if not attempt or structure != key.structure:
                continue
            try:
                found = self._written_open(key, [_stand_in(x) for x in leaves], structure, attempt)
            except Exception:  # it needs a value: whatever is wrong besides shows in the plain trace
                leaves, structure = pytree.flatten(bound, opened=True)
                continue
            self._families.fix(key, places - attempt)
            places = attempt
            break
        if found is None:
            if self._recent.key is not None:
                self._history.note_retrace(self._recent.key, key, self._binder)
            found = self.build([_stand_in(x) for x in leaves], structure, device=key.device)
            self._families.fix(key, places)
            places = frozenset()
        before = leaves
        leaves, structure = pytree.flatten(bound, opened=True)
        if structure != key.structure:
            key, places = self._key(leaves, structure), _moved(_numbers(places), before, leaves)
            self._families.vary(key, places)
        return found, places, key, leaves, structure

    def _written_open(
        self, key: CallKey, leaves: list[Any], structure: pytree.Structure, places: Places
    ) -> ConcreteFunction:
        axes = sorted(places - _numbers(places))
        if not axes:
            self._families.vary(key, places)
            return self.build(leaves, structure, frozenset([i for i, _ in places]), key.device)
        sizes = dict(zip(axes, key.sizes(axes), strict=True))
        general = self.generalise(leaves, structure, places, sizes, key.device)
        pinned = general.pinned
        fixed = {place: guard for place, guard in pinned.items() if guard.pins}
        self._families.vary(key, places)
        self._families.fix(key, fixed)
        names = leaf_names(structure, self._binder)
        for (i, axis), guard in fixed.items():
            self._history.note_fixed(f"argument `{names[i]}`", axis, guard)
        if (
            len(pinned) == len(fixed) < len(axes)
        ):  # else a size happens to equal another number: the next one may not
            self._families.keep(key, places - frozenset(pinned), general)
            self._history.note_general(
                [(f"argument `{names[i]}`", a) for i, a in axes if (i, a) not in pinned]
            )
        return general.bind(key.sizes(general.places))

    def generalise(
        self,
        leaves: list[Any],
        structure: pytree.Structure,
        places: Places,
        sizes: dict[Place, int],
        device: str = "cpu:0",
    ) -> General:
        """Run the Python function once with these sizes as symbols; `sizes` are what comparisons are answered by."""
        scope, guards = Scope(self._name), Guards()
        dims = {place: Dim(atom(scope.symbol(size)), scope) for place, size in sizes.items()}

        def symbolic(i: int, s: TensorSpec) -> TensorSpec:
            return spec([dims.get((i, a), d) for a, d in enumerate(s.shape)], s.dtype)

        with scope.deciding(guards):
            w = self._written(leaves, structure, frozenset([i for i, _ in _numbers(places)]), symbolic)
        return General(
            scope, guards, tuple(sizes), w.graph, w.variables, w.outputs, w.seconds, self.check, w.named, self.background,
            backends.named(device),
        )  # fmt: skip

    def build(
        self,
        leaves: list[Any],
        structure: pytree.Structure,
        numbers: frozenset[int] = frozenset(),
        device: str = "cpu:0",
    ) -> ConcreteFunction:
        """Run the Python function once on symbolic tensors and compile what it wrote down.

        `numbers` are the positions of Python numbers that enter as weakly typed scalars rather than by value.
        """
        w = self._written(leaves, structure, numbers)
        return ConcreteFunction(
            w.graph,
            w.variables,
            w.outputs,
            w.seconds,
            self.check,
            w.named,
            None,
            self.background,
            backends.named(device),
        )

    def _written(
        self,
        leaves: list[Any],
        structure: pytree.Structure,
        numbers: frozenset[int],
        symbolic: Callable[[int, TensorSpec], TensorSpec] = lambda i, s: s,
    ) -> Written:
        builder = Builder(self._name, self._owned)
        builder.converts = self.autograph
        names = leaf_names(structure, self._binder)
        return write(builder, self._run, leaves, structure, names, numbers, symbolic)

    def _run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The Python function: as it is when it runs eagerly, with its control flow converted when it is traced or mapped."""
        if self.autograph and (state.now.traces or state.now.levels):
            return autograph.run(self.python_function, args, kwargs)
        return self.python_function(*args, **kwargs)

    def source(self) -> str:
        """The function after control-flow conversion, or its own text with the reason why it was not converted."""
        if not self.autograph:
            return "# not converted: autograph=False"
        return autograph.text(self.python_function)

    def get_concrete_function(self, *args: Any, **kwargs: Any) -> ConcreteFunction:
        """The trace for these arguments; a TensorSpec stands for any tensor of that shape and dtype."""
        bound = self._binder.bind(args, kwargs)
        leaves, structure = pytree.flatten(bound, opened=True)
        with self._lock:
            key = self._key(leaves, structure)
            if any(isinstance(x, TensorSpec) and None in x.shape for x in leaves):
                return self._for_any_size(key, leaves, structure)
            trace = self._known(key)
            if trace is None:
                trace, _, leaves, _ = self._trace(bound)
        return trace.on(leaves).concrete

    def _for_any_size(self, key: CallKey, leaves: list[Any], structure: pytree.Structure) -> ConcreteFunction:
        """The trace for a signature with open sizes."""
        if key not in self._any_size:
            hints = {
                (i, a): STAND_IN_SIZE
                for i, x in enumerate(leaves)
                if isinstance(x, TensorSpec)
                for a, d in enumerate(x.shape)
                if d is None
            }
            general = self.generalise(leaves, structure, frozenset(hints), hints)
            names = leaf_names(structure, self._binder)
            for (i, axis), guard in general.pinned.items():
                raise TraceError(
                    f"argument `{names[i]}`: the size of axis {axis} cannot be left open, because the function is traced for one size "
                    f"only where {guard}\nGive that size in the TensorSpec"
                )
            self._count["traces"] += 1

            def retrace(specs: list[TensorSpec]) -> ConcreteFunction:
                given = iter(specs)
                return self.build(
                    [next(given) if is_tensor(x) or isinstance(x, TensorSpec) else x for x in leaves],
                    structure,
                )

            self._any_size[key] = AnySize(general, retrace)
            if len(self._any_size) > MAX_TRACES:
                self._any_size.popitem(last=False)
        return self._any_size[key]

    def wait(self, timeout: float | None = None) -> bool:
        """With `background=True`, wait until every trace has its program; False if one has not after `timeout` seconds, or could not be
        compiled. Programs of gradients that a tape around the call asks for are not waited for."""
        end = None if timeout is None else time.monotonic() + timeout
        traces = [t.concrete for t in list(self._traces.values())]
        return all([c.wait(None if end is None else max(0.0, end - time.monotonic())) for c in traces])

    def explain(self, *args: Any, **kwargs: Any) -> Explanation:
        """What was fused and what was not and why, bytes moved, the memory plan and every kernel's source, for these arguments."""
        return explain(self.get_concrete_function(*args, **kwargs))

    # values from outside

    def _objects(self, leaves: list[Any], structure: pytree.Structure) -> dict[str, Any]:
        """Arguments that are objects, whose attributes the function may read, by name."""
        names = leaf_names(structure, self._binder)
        known = {
            name: x
            for x, name in zip(leaves, names, strict=True)
            if not is_tensor(x) and not is_plain(x) and not isinstance(x, (Variable, TensorSpec))
        }
        instance = self._instance() if self._instance is not None else None
        code = getattr(inspect.unwrap(self.python_function), "__code__", None)
        if instance is not None and code is not None and code.co_argcount:
            known[code.co_varnames[0]] = instance
        return known

    # retracing

    def _forget_dead(self) -> None:
        for key in [k for k in self._traces if k.dead]:
            del self._traces[key]
        self._families.forget_dead()

    def explain_retraces(self) -> str:
        """Which arguments made new traces, from what to what, and the one-line cure of each."""
        return self._history.explain(self._count["traces"])

    def cache_info(self) -> CacheInfo:
        """Traces, hits, evictions, and kernels compiled or loaded for the traces that are kept."""
        stats = [t.concrete.stats for t in self._traces.values() if t.concrete.wait(0)]
        generals = [*self._families.every_general(), *[a.general for a in self._any_size.values()]]
        blueprints = [b for g in generals for b in g.blueprints]
        return CacheInfo(
            **self._count,
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
            bound._instance = weakref.ref(instance)
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
        return f"<hml.function {self._name}: {self._count['traces']} traces>"


def _numbers(places: Places) -> Places:
    return frozenset([p for p in places if p[1] == NUMBER])


def _stand_in(x: Any) -> Any:
    return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, TensorSpec) else x


def _moved(numbers: Places, before: list[Any], after: list[Any]) -> Places:
    """Places of the same Python numbers among the leaves after objects among the arguments got more state."""
    if not numbers:
        return numbers
    old, new = ([i for i, x in enumerate(xs) if type(x) in NUMBERS] for xs in (before, after))
    return frozenset([(new[old.index(i)], NUMBER) for i, _ in numbers])


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
