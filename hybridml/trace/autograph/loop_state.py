"""The state of a loop on tensors, and one iteration of it traced.

Variables with a value before the loop are loop variables. Python numbers among them become tensors; other Python values must come
out of an iteration as they went in. Variables without a value before the loop are the body's own and have none afterwards, because
the loop may run zero times; if it is certain to run, or a jump is certain to have set them, they are loop variables that start
with anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.errors import DTypeError, ShapeError, SourceLine, TraceError, located, user_line
from hybridml.ops.elementwise import astype
from hybridml.ops.spec import TensorSpec
from hybridml.trace.autograph.context import lose
from hybridml.trace.autograph.join import (
    Rises,
    describe,
    is_data,
    is_number,
    leaves_of,
    paths,
    same,
    shown,
    weak,
)
from hybridml.trace.autograph.jumps import RESULT
from hybridml.trace.autograph.slots import UNDEFINED, Slot
from hybridml.trace.autograph.subgraphs import trace
from hybridml.trace.autograph.touched import Touched


class Differs(Exception):
    """A loop variable that does not come out of an iteration as it went in."""

    def __init__(self, error: Exception, grew: bool = False) -> None:
        self.error, self.grew = error, grew  # grew: a list or a dict got more items


@dataclass
class _Leaf:
    """One leaf of a loop variable: a tensor that is carried, or a Python value that stays."""

    path: str
    value: Any  # a Tensor if carried
    original: Any = None
    number: bool = False  # it was a Python number: its dtype may still rise
    risen: bool = False
    constant: bool = False  # an iteration leaves it as it was

    @property
    def carried(self) -> bool:
        return isinstance(self.value, Tensor)

    @property
    def weak(self) -> bool:
        """A number whose dtype is still open."""
        return self.number and not self.risen and self.value.dtype.kind in "if"

    def rise(self, to: Any) -> bool:
        """Take another dtype; True if it did. The first may be any of at least its category, later ones only wider."""
        old = self.value.dtype
        if dtypes.category(to) < dtypes.category(old):
            return False
        to = dtypes.promote([old, to]) if self.risen else to
        if to == old:
            return False
        self.value, self.risen = astype(self.value, to), True
        return True


@dataclass
class _Carried:
    slot: Slot
    structure: pytree.Structure
    leaves: list[_Leaf]


class Loop:
    """The state of one loop, and how to trace its body on symbols."""

    def __init__(
        self,
        slots: list[Slot],
        local: frozenset[str],
        live: frozenset[str],
        static: bool,
        filled: Sequence[str] = (),
    ) -> None:
        self.source = user_line()
        self.slots = list(slots)
        self.entry = [s.get() for s in slots]
        self.carried: list[_Carried] = []
        self.late: list[Slot] = []  # without a value before the loop, but with one after it
        self.fresh: list[Slot] = []
        for s, value in zip(slots, self.entry, strict=True):
            if s.name in local:
                self.fresh.append(s)
            elif value is UNDEFINED:
                wanted = s.name == RESULT or s.name in filled or (static and s.name in live)
                (self.late if wanted else self.fresh).append(s)
            else:
                self._carry(s, value)
        self.live = live

    def _carry(self, s: Slot, value: Any) -> None:
        leaves, structure = leaves_of(value)
        named = zip(paths(s.name, structure), leaves, strict=True)
        self.carried.append(_Carried(s, structure, [_leaf(p, x) for p, x in named]))

    def _join(self, touched: list[tuple[Slot, Any]]) -> None:
        """State that a called function turned out to change: part of the loop's from now on."""
        for s, value in touched:
            self.slots.append(s)
            self.entry.append(value)
            if value is UNDEFINED:
                self.fresh.append(s)
            else:
                self._carry(s, value)

    @property
    def tensors(self) -> list[_Leaf]:
        return [leaf for c in self.carried for leaf in c.leaves if leaf.carried]

    def restore(self) -> None:
        for s, value in zip(self.slots, self.entry, strict=True):
            s.set(value)

    def enter(self, symbols: Sequence[Any]) -> None:
        """Give the loop variables their symbols."""
        feed = iter(symbols)
        for c in self.carried:
            c.slot.set(
                pytree.unflatten(
                    c.structure, [next(feed) if leaf.carried else leaf.value for leaf in c.leaves]
                )
            )

    def trace(
        self, name: str, run: Callable[..., None], before: Sequence[Any], after: Sequence[Any]
    ) -> Traced:
        """Trace one iteration: `run` takes symbols like `before`, then those like `after`, which stand around the state's.

        Repeated while a Python number rises to the dtype that the body gives it, or called functions turn out to change more."""
        while True:
            leaves = self.tensors
            specs = [x.spec for x in before] + [leaf.value.spec for leaf in leaves] + [_row(x) for x in after]
            names = [""] * len(before) + [leaf.path for leaf in leaves] + [""] * len(after)
            inputs: list[Any] = []
            left: list[Any] = []
            more: list[tuple[Slot, Any]] = []
            n, m = len(before), len(before) + len(leaves)

            def iteration(
                *symbols: Any,
                inputs: list[Any] = inputs,
                n: int = n,
                m: int = m,
                left: list[Any] = left,
                more: Any = more,
            ) -> None:
                inputs[:] = [x._value for x in symbols[n:m]]
                builder: Any = state.now.traces[-1]
                # A number stays weakly typed inside: what it meets decides its dtype.
                self.enter(
                    [
                        builder.symbol(x._value, weak=True) if leaf.weak else x
                        for leaf, x in zip(self.tensors, symbols[n:m], strict=True)
                    ]
                )
                with Touched(run) as touched:
                    run(*symbols[:n], *symbols[m:])
                    more.extend(touched.changed([s.key for s in self.slots]))
                left.extend([c.slot.get() for c in self.carried])
                left.extend([s.get() for s in self.late])

            try:
                body = trace(name, iteration, specs, names)
            except Rises as e:
                if e.value not in inputs or not leaves[inputs.index(e.value)].rise(e.dtype):
                    raise  # a number of a loop around this one
                around: Any = state.now.traces[-1]
                around.outermost.abandoned = None
                continue
            finally:
                self._join(more)
                self.restore()
            if not more and not self._rise(left):
                return Traced(body, left)

    def _rise(self, left: list[Any]) -> bool:
        risen = False
        for c, value in zip(self.carried, left, strict=False):
            if value is UNDEFINED:
                continue
            leaves, structure = leaves_of(value)
            if structure != c.structure:
                continue
            for leaf, x in zip(c.leaves, leaves, strict=True):
                if leaf.number and is_data(x):
                    to = dtypes.promote([leaf.value.dtype], [x]) if is_number(x) else lift(x).dtype
                    risen |= leaf.rise(to)
        return risen

    def outputs(self, left: list[Any], where: str) -> list[Tensor]:
        """What one iteration leaves behind, as tensors of the loop variables' specs; raises Differs."""
        found: list[Tensor] = []
        for c, value in zip(self.carried, left, strict=False):
            if value is UNDEFINED:
                raise Differs(
                    TraceError(
                        located(f"{shown(c.slot.name)} is deleted in {where} on a tensor", self.source)
                    )
                )
            leaves, structure = leaves_of(value)
            if structure != c.structure:
                raise Differs(
                    TraceError(located(self._nest(c, value, structure, where), self.source)),
                    structure.node in (list, dict),
                )
            for leaf, x in zip(c.leaves, leaves, strict=True):
                if not leaf.carried:
                    if not same(leaf.value, x):
                        raise Differs(TraceError(located(_kind(leaf, x, where), self.source)))
                    continue
                if not is_data(x):
                    raise Differs(TraceError(located(_kind(leaf, x, where), self.source)))
                leaf.constant = same(leaf.original, x)
                x = weak(x, leaf.value)
                if x.spec != leaf.value.spec:
                    raise Differs(_spec(leaf, x.spec, where, self.source))
                found.append(x)
        return found

    def _nest(self, c: _Carried, value: Any, structure: pytree.Structure, where: str) -> str:
        name = shown(c.slot.name)
        before = describe(c.leaves[0].value) if c.structure.node is None else str(c.structure)
        after = describe(value) if structure.node is None else str(structure)
        if list in (c.structure.node, structure.node):
            return (
                f"the list {name} changes its length in {where} on a tensor, from {c.structure} to {structure}: how many items it will "
                "have is known only when the function runs. Stack the results instead:\n"
                "    carry, ys = hml.scan(lambda carry, x: (carry, y), init, xs)   # ys holds every y"
            )
        cure = f"start it with a tensor, e.g. {c.slot.name} = hml.zeros(...)"
        return f"{name} is {before} before {where} and {after} after one iteration; {cure}"

    def leave(self, results: Sequence[Any], after: dict[str, Any], where: str) -> None:
        """Set the state after the loop."""
        feed = iter(results)
        for c in self.carried:
            values = [next(feed) if leaf.carried else leaf.value for leaf in c.leaves]
            kept = [leaf.original if leaf.constant else x for leaf, x in zip(c.leaves, values, strict=True)]
            c.slot.set(pytree.unflatten(c.structure, kept))
        for s in self.late:
            s.set(after.get(s.name, UNDEFINED))
        for s in self.fresh:
            s.set(UNDEFINED)
            if s.name in self.live:
                at = f" at line {self.source.line}" if self.source else ""
                lose(
                    s.name,
                    f"{shown(s.name)} gets its first value inside {where} on a tensor{at}. The loop may run zero times, so "
                    f"{shown(s.name)} has no value after it: set it before the loop, e.g. {s.name} = hml.zeros(...)",
                )


@dataclass
class Traced:
    body: Any
    left: list[Any]


def _leaf(path: str, x: Any) -> _Leaf:
    if is_number(x):
        return _Leaf(path, asarray(x), x, True)
    if isinstance(x, Tensor) and x.weak:
        return _Leaf(path, x, x, True)
    return _Leaf(path, lift(x) if is_data(x) else x, x)


def _row(x: Any) -> TensorSpec:
    return TensorSpec(x.shape[1:], x.dtype)


def _kind(leaf: _Leaf, x: Any, where: str) -> str:
    return (
        f"{shown(leaf.path)} is {describe(leaf.value)} before {where} on a tensor and {describe(x)} after one iteration. Only tensors "
        "and numbers can change in it: start with a tensor, or make the loop go over a Python value"
    )


def _spec(leaf: _Leaf, new: TensorSpec, where: str, source: SourceLine | None) -> Exception:
    old = leaf.value.spec
    said = f"{shown(leaf.path)} is {old} before {where} on a tensor and {new} after one iteration; "
    if old.shape != new.shape:
        start = f"hml.zeros({new.shape}, dtype=hml.{new.dtype.name})"
        return ShapeError(
            located(
                said
                + f"a loop keeps shapes: start with {leaf.path} = {start}, or collect the steps with hml.scan",
                source,
            )
        )
    return DTypeError(
        located(
            said
            + f"start with {leaf.path} as hml.{new.dtype.name}, or cast in the body with .astype(hml.{old.dtype.name})",
            source,
        )
    )


def leave(
    loop: Loop, results: Sequence[Any], extra: Sequence[Any], forms: dict[str, Any], where: str
) -> None:
    feed = iter(extra)
    after = {
        name: pytree.unflatten(structure, [next(feed) if isinstance(x, Tensor) else x for x in leaves])
        for name, (structure, leaves) in forms.items()
    }
    loop.leave(results, after, where)


def late_outputs(loop: Loop, done: Traced) -> tuple[list[Tensor], dict[str, Any]]:
    """The variables that get their first value in the body and are needed afterwards: their tensors, and their forms."""
    extra: list[Tensor] = []
    forms: dict[str, Any] = {}
    for s, value in zip(loop.late, done.left[len(loop.carried) :], strict=True):
        if value is UNDEFINED:
            continue
        leaves, structure = leaves_of(value)
        leaves = [lift(x) if is_data(x) and not is_number(x) else x for x in leaves]
        extra += [x for x in leaves if isinstance(x, Tensor)]
        forms[s.name] = (structure, leaves)
    return extra, forms
