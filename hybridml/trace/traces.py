"""The traces of one function, by the calls that they serve, and when a call gets one of its own.

What differs from an earlier call of the same form (a number, a size) is left open in the next trace, so that it is the last one for it.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from typing import Any

from hybridml import pytree
from hybridml.eager.variable import Variable
from hybridml.ops.spec import TensorSpec
from hybridml.trace.any_size import AnySize
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.families import NUMBER, Families
from hybridml.trace.general import General
from hybridml.trace.guard import NUMBERS, Trace
from hybridml.trace.history import History
from hybridml.trace.reach import reaches
from hybridml.trace.recent import Recent
from hybridml.trace.signature import CallKey, Places, is_tensor, leaf_keys, placement
from hybridml.trace.tracing import Tracing, stand_in

MAX_TRACES = 64


class Traces:
    """Finds the trace for a call, or has one made by `tracing`. With `learns`, what varies from call to call is left open."""

    def __init__(
        self, tracing: Tracing, families: Families, learns: bool, history: History, recent: Recent, hits: array[int]
    ) -> None:  # fmt: skip
        self.tracing, self._families, self._learns = tracing, families, learns
        self._history, self._recent, self._hits = history, recent, hits
        self._by_key: OrderedDict[CallKey, Trace] = OrderedDict()
        self._any_size: OrderedDict[CallKey, AnySize] = OrderedDict()
        self._by_identity: set[CallKey] = (
            set()
        )  # forms whose variables the function knows by more than their place
        self._lock = threading.RLock()
        self.counts = {"traces": 0, "evictions": 0, "binds": 0}

    def __len__(self) -> int:
        return len(self._by_key)

    def every(self) -> list[Trace]:
        """Those that are kept."""
        return list(self._by_key.values())

    def every_general(self) -> list[General]:
        """Those for all sizes."""
        return [*self._families.every_general(), *[a.general for a in self._any_size.values()]]

    def find(self, bound: Any) -> tuple[Trace, list[Any], bool]:
        """The trace for a call, from now on the one used last; the leaves of its arguments, and whether the function ran for it."""
        with self._lock:
            trace, key, leaves, is_new = self._found(bound)
            trace = trace.on(leaves)
            self._recent.use(trace, key)
        return trace, leaves, is_new

    def concrete(self, bound: Any) -> ConcreteFunction:
        """The trace for arguments among which specifications may stand for tensors."""
        with self._lock:
            leaves, structure = pytree.flatten(bound, opened=True)
            if any(isinstance(x, TensorSpec) and None in x.shape for x in leaves):
                return self._for_any_size(self._key(leaves, structure), leaves, structure)
            trace, _, leaves, _ = self._found(bound)
            return trace.on(leaves).concrete

    def _found(self, bound: Any) -> tuple[Trace, CallKey, list[Any], bool]:
        leaves, structure = pytree.flatten(bound, opened=True)
        key = self._key(leaves, structure)
        trace = self._known(key)
        return self._trace(bound) if trace is None else (trace, key, leaves, False)

    # keys

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
        python_function = self.tracing.python_function
        return any(v._id in named for v in variables) or reaches([python_function, *others], variables)

    def _known(self, key: CallKey) -> Trace | None:
        """The trace for this key, exact or with the numbers that are known to vary left open."""
        found = key if key in self._by_key else key.opened(self._families.numbers(key))
        trace = self._by_key.get(found)
        if trace is not None:
            self._by_key.move_to_end(found)
        return trace

    def _drop_one(self) -> None:
        """The one that was used longest ago; of those at hand nothing was noted here."""
        keys = {id(t): k for k, t in self._by_key.items()}
        for trace in reversed(self._recent.traces):
            if id(trace) in keys:
                self._by_key.move_to_end(keys[id(trace)])
        self._by_key.move_to_end(next(reversed(keys.values())))  # the new one
        self._by_key.popitem(last=False)
        self._recent.clear()
        self.counts["evictions"] += 1

    def _forget_dead(self) -> None:
        for key in [k for k in self._by_key if k.dead]:
            del self._by_key[key]
            self._recent.clear()
        self._families.forget_dead()

    # new ones

    def _trace(self, bound: Any) -> tuple[Trace, CallKey, list[Any], bool]:
        """A trace for a call that has none, the key it is kept under, the leaves of the arguments, and whether the function ran for it.

        Sizes that an earlier trace takes are bound; what differs from an earlier call of this form is traced as a symbol, once. Tracing
        may change the objects among the arguments: a module makes its weights at first use. So the key is that of the arguments as tracing
        left them, and the next call finds it.
        """
        self._forget_dead()
        leaves, structure = pytree.flatten(bound, opened=True)
        key = self._key(leaves, structure)
        reads = self.tracing.reads(leaves, structure)
        places = self._families.varying(key, self._learns)
        found = self._by_sizes(key, places)
        is_new = found is None
        if found is None:
            self.counts["traces"] += 1
            found, places, key, leaves, structure = self._traced(bound, key, leaves, structure, places)
        else:
            self.counts["binds"] += 1
        numbers = frozenset([i for i, axis in places if axis == NUMBER])
        trace = Trace(found, [stand_in(x) for x in leaves], structure, numbers, self._hits)
        trace.reads = tuple(
            [r for r in reads if not r.changed]
        )  # what tracing changed is the function's own business
        if self._tells_apart(leaves, trace.concrete.named):
            self._by_identity.add(key.opened(None))
            key = CallKey(structure, leaf_keys(leaves, by_identity=True), key.device)
        self._by_key[key.opened(_numbers(places))] = trace
        if len(self._by_key) > MAX_TRACES:
            self._drop_one()
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
                found = self._open(key, [stand_in(x) for x in leaves], structure, attempt)
            except Exception:  # it needs a value: whatever is wrong besides shows in the plain trace
                leaves, structure = pytree.flatten(bound, opened=True)
                continue
            self._families.fix(key, places - attempt)
            places = attempt
            break
        if found is None:
            if self._recent.key is not None:
                self._history.note_retrace(self._recent.key, key, self.tracing.binder)
            found = self.tracing.build([stand_in(x) for x in leaves], structure, device=key.device)
            self._families.fix(key, places)
            places = frozenset()
        before = leaves
        leaves, structure = pytree.flatten(bound, opened=True)
        if structure != key.structure:
            key, places = self._key(leaves, structure), _moved(_numbers(places), before, leaves)
            self._families.vary(key, places)
        return found, places, key, leaves, structure

    def _open(
        self, key: CallKey, leaves: list[Any], structure: pytree.Structure, places: Places
    ) -> ConcreteFunction:
        """A trace with these places open, but for sizes that the function turns out to need."""
        axes = sorted(places - _numbers(places))
        if not axes:
            self._families.vary(key, places)
            return self.tracing.build(leaves, structure, frozenset([i for i, _ in places]), key.device)
        sizes = dict(zip(axes, key.sizes(axes), strict=True))
        general = self.tracing.generalise(leaves, structure, places, sizes, key.device)
        pinned = general.pinned
        fixed = {place: guard for place, guard in pinned.items() if guard.pins}
        self._families.vary(key, places)
        self._families.fix(key, fixed)
        names = self.tracing.names(structure)
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

    def _for_any_size(self, key: CallKey, leaves: list[Any], structure: pytree.Structure) -> ConcreteFunction:
        """The trace for a signature with open sizes."""
        if key not in self._any_size:
            self._any_size[key] = self.tracing.any_size(leaves, structure, key.device)
            self.counts["traces"] += 1
            if len(self._any_size) > MAX_TRACES:
                self._any_size.popitem(last=False)
        return self._any_size[key]


def _numbers(places: Places) -> Places:
    return frozenset([p for p in places if p[1] == NUMBER])


def _moved(numbers: Places, before: list[Any], after: list[Any]) -> Places:
    """Places of the same Python numbers among the leaves after objects among the arguments got more state."""
    if not numbers:
        return numbers
    old, new = ([i for i, x in enumerate(xs) if type(x) in NUMBERS] for xs in (before, after))
    return frozenset([(new[old.index(i)], NUMBER) for i, _ in numbers])
