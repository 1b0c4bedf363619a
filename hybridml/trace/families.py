"""What varies from call to call of one function: Python numbers, and sizes of dimensions, by the form of the call.

A form is a call's key with everything left open that can be: numbers known by type, tensors by dtype and number of dimensions. What
differs between two calls of one form varies, unless the function has been seen to need its value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from hybridml.ops.spec import TensorSpec
from hybridml.trace.general import General
from hybridml.trace.signature import CallKey, Place, Places

MAX_GENERAL = 8  # symbolic traces of one form: each is good for the sizes that meet its guards
MAX_FAMILIES = 256
NUMBER = -1  # the axis of a place that is a Python number


class Family:
    """The calls of one form. `fixed` are places whose value the function needs."""

    def __init__(self, first: CallKey) -> None:
        self.first = first
        self.varying: set[Place] = set()
        self.fixed: set[Place] = set()
        self.generals: dict[CallKey, list[General]] = {}


class Families:
    """The families of one function."""

    def __init__(self, signature: Sequence[TensorSpec] | None = None) -> None:
        self._families: OrderedDict[CallKey, Family] = OrderedDict()
        self._signature = tuple(signature or ())

    def of(self, key: CallKey) -> Family:
        form = key.opened(None)
        found = self._families.get(form)
        if found is None:
            found = self._families[form] = Family(key)
            found.varying |= self._declared(key)
            if len(self._families) > MAX_FAMILIES:
                self._families.popitem(last=False)
        return found

    def _declared(self, key: CallKey) -> set[Place]:
        """The sizes that the signature leaves open."""
        tensors = [i for i, k in enumerate(key.keys) if isinstance(k, TensorSpec)]
        if len(tensors) != len(self._signature):  # objects among the arguments hold tensors of their own
            return set()
        pairs = zip(tensors, self._signature, strict=True)
        return {(i, a) for i, s in pairs for a, d in enumerate(s.shape) if d is None}

    def numbers(self, key: CallKey) -> Places:
        """The numbers of this form that traces take as scalars."""
        family = self._families.get(key.opened(None))
        if family is None:
            return frozenset()
        return frozenset(p for p in family.varying if p[1] == NUMBER and p not in family.fixed)

    def varying(self, key: CallKey, learn: bool = True) -> Places:
        """What varies in this call: what was declared and, with `learn`, where it differs from an earlier one of its form, now or before.

        Sizes 0 and 1 broadcast, or hold nothing, and so are always traced for themselves.
        """
        family = self.of(key)
        found = family.varying | (family.first.differences(key) if learn else frozenset())
        return frozenset(
            p for p in found if p not in family.fixed and (p[1] == NUMBER or key.sizes([p])[0] >= 2)
        )

    def vary(self, key: CallKey, places: Places) -> None:
        """A trace has these places open: later calls of the form look for it."""
        self.of(key).varying |= places

    def fix(self, key: CallKey, places: Iterable[Place]) -> None:
        """The function needs the values at these places."""
        self.of(key).fixed.update(places)

    def generals(self, key: CallKey, places: Places) -> Iterator[General]:
        """Symbolic traces with these places open."""
        yield from self.of(key).generals.get(key.opened(places), ())

    def every_general(self) -> Iterator[General]:
        """All symbolic traces."""
        for family in self._families.values():
            for kept in family.generals.values():
                yield from kept

    def keep(self, key: CallKey, places: Places, general: General) -> None:
        """Remember a symbolic trace; the oldest of too many goes."""
        kept = self.of(key).generals.setdefault(key.opened(places), [])
        kept.append(general)
        del kept[:-MAX_GENERAL]

    def forget_dead(self) -> None:
        for form in [f for f in self._families if f.dead]:
            del self._families[form]
