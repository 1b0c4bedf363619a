"""while and for: Python's own on Python values, `while_loop` and `scan` nodes on tensors.

A loop's state is the variables that its body changes. Those with a value before the loop are loop variables; those without are the
body's own and have no value afterwards, because the loop may run zero times. Python numbers become tensors when they are loop
variables; other Python values must come out of an iteration as they went in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hybridml import dtypes, pytree
from hybridml.eager.creation import asarray, zeros
from hybridml.eager.dispatch import lift
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import DTypeError, ShapeError, SourceLine, TraceError, UnrollWarning, located, user_line
from hybridml.ops.elementwise import less
from hybridml.ops.logic import logical_and
from hybridml.ops.spec import TensorSpec
from hybridml.trace.autograph.conditions import choose, not_any, symbolic, truth
from hybridml.trace.autograph.context import branch, lose
from hybridml.trace.autograph.iterables import TensorIterable, tensor_iterable
from hybridml.trace.autograph.join import describe, is_data, is_number, leaves_of, paths, same, shown, weak
from hybridml.trace.autograph.jumps import RESULT
from hybridml.trace.autograph.slots import UNDEFINED, Slot, objects, variables
from hybridml.trace.autograph.subgraphs import scan_node, trace, while_node

UNROLL_LIMIT = 2000


class _Differs(Exception):
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
    constant: bool = False  # an iteration leaves it as it was

    @property
    def carried(self) -> bool:
        return isinstance(self.value, Tensor)


@dataclass
class _Carried:
    slot: Slot
    structure: pytree.Structure
    leaves: list[_Leaf]


class Loop:
    """The state of one loop, and how to trace its body on symbols."""

    def __init__(
        self, slots: list[Slot], local: frozenset[str], live: frozenset[str], static: bool, filled: Sequence[str] = ()
    ) -> None:
        self.source = user_line()
        self.slots = slots
        self.entry = [s.get() for s in slots]
        self.carried: list[_Carried] = []
        self.late: list[Slot] = []  # without a value before the loop, but needed after it, or the returned value
        self.fresh: list[Slot] = []
        for s, value in zip(slots, self.entry, strict=True):
            if s.name in local:
                self.fresh.append(s)
            elif value is UNDEFINED:
                wanted = s.name == RESULT or s.name in filled or (static and s.name in live)
                (self.late if wanted else self.fresh).append(s)
            else:
                leaves, structure = leaves_of(value)
                named = zip(paths(s.name, structure), leaves, strict=True)
                self.carried.append(_Carried(s, structure, [_leaf(p, x) for p, x in named]))
        self.live = live

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
            c.slot.set(pytree.unflatten(c.structure, [next(feed) if leaf.carried else leaf.value for leaf in c.leaves]))

    def trace(self, name: str, run: Callable[..., None], before: Sequence[Any], after: Sequence[Any]) -> _Traced:
        """Trace one iteration: `run` takes symbols like `before`, then those like `after`, which stand around the state's.

        Repeated while a Python number rises to the dtype that the body gives it."""
        for _ in range(4):
            leaves = self.tensors
            specs = [x.spec for x in before] + [leaf.value.spec for leaf in leaves] + [_row(x) for x in after]
            names = [""] * len(before) + [leaf.path for leaf in leaves] + [""] * len(after)
            left: list[Any] = []
            n, m = len(before), len(before) + len(leaves)

            def iteration(*symbols: Any, n: int = n, m: int = m, left: list[Any] = left) -> None:
                self.enter(symbols[n:m])
                run(*symbols[:n], *symbols[m:])
                left.extend([c.slot.get() for c in self.carried])
                left.extend([s.get() for s in self.late])

            try:
                body = trace(name, iteration, specs, names)
            finally:
                self.restore()
            if self._rise(left):
                continue
            return _Traced(body, left)
        raise AssertionError("dtypes rise at most three times")

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
                    if dtypes.category(to) > dtypes.category(leaf.value.dtype) or (
                        to != leaf.value.dtype and dtypes.category(to) == dtypes.category(leaf.value.dtype)
                    ):
                        leaf.value = asarray(leaf.value, dtype=to)
                        risen = True
        return risen

    def outputs(self, left: list[Any], where: str) -> list[Tensor]:
        """What one iteration leaves behind, as tensors of the loop variables' specs; raises _Differs."""
        found: list[Tensor] = []
        for c, value in zip(self.carried, left, strict=False):
            if value is UNDEFINED:
                raise _Differs(TraceError(located(f"{shown(c.slot.name)} is deleted in {where} on a tensor", self.source)))
            leaves, structure = leaves_of(value)
            if structure != c.structure:
                raise _Differs(TraceError(located(self._nest(c, structure, where), self.source)), structure.node in (list, dict))
            for leaf, x in zip(c.leaves, leaves, strict=True):
                if not leaf.carried:
                    if not same(leaf.value, x):
                        raise _Differs(TraceError(located(_kind(leaf, x, where), self.source)))
                    continue
                if not is_data(x):
                    raise _Differs(TraceError(located(_kind(leaf, x, where), self.source)))
                leaf.constant = same(leaf.original, x)
                x = weak(x, leaf.value)
                if x.spec != leaf.value.spec:
                    raise _Differs(_spec(leaf, x.spec, where, self.source))
                found.append(x)
        return found

    def _nest(self, c: _Carried, structure: pytree.Structure, where: str) -> str:
        name = shown(c.slot.name)
        before = describe(c.leaves[0].value) if c.structure.node is None else str(c.structure)
        if list in (c.structure.node, structure.node):
            return (
                f"the list {name} changes its length in {where} on a tensor, from {c.structure} to {structure}: how many items it will "
                "have is known only when the function runs. Stack the results instead:\n"
                "    carry, ys = hml.scan(lambda carry, x: (carry, y), init, xs)   # ys holds every y"
            )
        cure = f"start it with a tensor, e.g. {c.slot.name} = hml.zeros(...)"
        return f"{name} is {before} before {where} and {structure} after one iteration; {cure}"

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
class _Traced:
    body: Any
    left: list[Any]


def _leaf(path: str, x: Any) -> _Leaf:
    if is_number(x):
        return _Leaf(path, asarray(x), x, True)
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
            located(said + f"a loop keeps shapes: start with {leaf.path} = {start}, or collect the steps with hml.scan", source)
        )
    return DTypeError(
        located(said + f"start with {leaf.path} as hml.{new.dtype.name}, or cast in the body with .astype(hml.{old.dtype.name})", source)
    )


# while


def while_(
    test: Callable[[], Any],
    body: Callable[[], None],
    carried: Sequence[str],
    local: Sequence[str],
    live: Sequence[str],
    exits: Sequence[str],
    filled: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """Python's `while` as long as the condition is a Python value; from the first tensor on, a loop in the graph."""
    flags = variables(exits, [test, body])
    count = _Unrolled()

    def condition() -> Any:
        """The test, after the jumps; a tensor among them decides in the graph."""
        values = [f.get() for f in flags]
        if any(v is True for v in values):
            return False
        taken = [v for v in values if v is not False]
        return and_not(taken, test)

    while True:
        go = condition()
        t = symbolic(go)
        if t is not None:
            break
        if not go:
            return
        body()
        count.step()
    slots = variables([*carried, *local], [test, body]) + objects(late)
    loop = Loop(slots, frozenset(local), frozenset(live), False, filled)
    go = truth(t, "the condition of `while`")

    # The condition has been computed for the first iteration, so it is a loop variable: each iteration computes it for the next.
    def run(_: Any) -> None:
        body()
        after.append(condition())

    after: list[Any] = []
    where = "the `while` loop"
    with branch(body):
        done = loop.trace("while", run, [go], [])
    again = after[-1]
    again = truth(again, "the condition of `while`") if symbolic(again) is not None else asarray(bool(again))
    try:
        outs = loop.outputs(done.left, where)
    except _Differs as e:
        raise e.error from None
    inits = [go, *[leaf.value for leaf in loop.tensors]]
    _finish(loop, done, inits, [again, *outs], lambda go, *_: go, None, where, exits)


def and_not(taken: list[Any], test: Callable[[], Any]) -> Any:
    from hybridml.trace.autograph.conditions import and_

    return test() if not taken else and_(not_any(*taken), test)


def _finish(
    loop: Loop,
    done: _Traced,
    inits: list[Tensor],
    outputs: list[Tensor],
    go: Callable[..., Any],
    limit: int | None,
    where: str,
    exits: Sequence[str],
) -> None:
    """Put a traced body into a while node, with the returned value as one more loop variable if there is one."""
    extra, forms = _late_outputs(loop, done)
    all_inits = [*inits, *[zeros(x.shape, dtype=x.dtype) for x in extra]]
    if extra:
        # Inputs that the body does not read: what came before is overwritten, or never looked at.
        for x in extra:
            done.body.inputs.append(done.body.builder.input(x.spec)._value)
    found: list[Any] = []
    test = trace("test", lambda *symbols: found.append(go(*symbols)), [x.spec for x in all_inits], [""] * len(all_inits))
    results = while_node(test, found[0], done.body, all_inits, [*outputs, *extra], limit)
    first = len(inits) - len(loop.tensors)
    _leave(loop, results[first : len(inits)], results[len(inits) :], forms, where)


def _leave(loop: Loop, results: Sequence[Any], extra: Sequence[Any], forms: dict[str, Any], where: str) -> None:
    feed = iter(extra)
    after = {
        name: pytree.unflatten(structure, [next(feed) if isinstance(x, Tensor) else x for x in leaves])
        for name, (structure, leaves) in forms.items()
    }
    loop.leave(results, after, where)


def _late_outputs(loop: Loop, done: _Traced) -> tuple[list[Tensor], dict[str, Any]]:
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


# for


def for_(
    iterable: Any,
    body: Callable[[Any], None],
    carried: Sequence[str],
    local: Sequence[str],
    live: Sequence[str],
    exits: Sequence[str],
    filled: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """Python's `for` over Python values; over a tensor's rows or a range that ends at a tensor, a loop in the graph."""
    if isinstance(iterable, Variable) and state.traces:
        iterable = iterable.value()
    items = tensor_iterable(iterable)
    changed = objects(late)
    flags = variables(exits, [body])
    names = [*carried, *local]
    if items is None or (items.static and (items.length == 0 or any(s.grows for s in changed))):
        # A list that the body appends to has one item more in each iteration: possible where all iterations are written out.
        _unrolled(iterable if items is None else items, body, flags, variables(names, [body]) + changed, frozenset(local))
        return
    static = items.static and not flags
    loop = Loop(variables(names, [body]) + changed, frozenset(local), frozenset(live), static, filled)
    try:
        if static:
            _scan(items, body, loop)
        else:
            _count(items, body, loop, flags, exits)
    except _Differs as e:
        if not static:
            raise e.error from None
        if e.grew:
            loop.restore()
            _unrolled(items, body, flags, loop.slots, frozenset(local))
        elif not _peels(items, body, loop):
            raise e.error from None


def _unrolled(iterable: Any, body: Callable[[Any], None], flags: list[Slot], slots: list[Slot], local: frozenset[str]) -> None:
    count = _Unrolled()
    for item in iterable:
        values = [f.get() for f in flags]
        if any(v is True for v in values):
            return
        taken = [v for v in values if v is not False]
        if taken:  # a jump that only the run can decide: the rest happens where it was not taken
            pred = truth(not_any(*taken), "a jump")
            labels = ("the next iteration", "an iteration that is skipped")
            choose(pred, lambda item=item: body(item), None, slots, local, labels)  # type: ignore[misc]
        else:
            body(item)
        count.step()
        if any(f.get() is True for f in flags):
            return


def _scan(items: TensorIterable, body: Callable[[Any], None], loop: Loop) -> None:
    """A static number of iterations without jumps."""
    xs, form = pytree.flatten(items.stacked())
    where = "the `for` loop"
    with branch(body):
        done = loop.trace("for", lambda *rows: body(pytree.unflatten(form, rows)), [], xs)
    outs = loop.outputs(done.left, where)
    extra, forms = _late_outputs(loop, done)
    inits = [leaf.value for leaf in loop.tensors]
    k, builder = len(inits), done.body.builder
    done.body.inputs[k:k] = [builder.input(x.spec)._value for x in extra]
    results = scan_node(done.body, [*inits, *[zeros(x.shape, dtype=x.dtype) for x in extra]], xs, [*outs, *extra], len(items))
    _leave(loop, results[:k], results[k:], forms, where)


def _peels(items: TensorIterable, body: Callable[[Any], None], loop: Loop) -> bool:
    """Run the first iteration by itself: what only starts out differently then fits. False if that cannot help."""
    if len(items) < 2:
        loop.restore()
        body(items.item(0))
        return True
    body(items.item(0))
    rest = _Tail(items)
    again = Loop(loop.slots, frozenset([s.name for s in loop.fresh]), loop.live, True)
    try:
        _scan(rest, body, again)
    except _Differs:
        again.restore()
        loop.restore()
        return False
    return True


class _Tail(TensorIterable):
    """All items but the first."""

    def __init__(self, inner: TensorIterable) -> None:
        self._inner, self.length = inner, inner.length - 1

    def item(self, k: Any) -> Any:
        return self._inner.item(k + 1)

    def stacked(self) -> Any:
        return pytree.map(lambda x: x[1:], self._inner.stacked())


def _count(items: TensorIterable, body: Callable[[Any], None], loop: Loop, flags: list[Slot], exits: Sequence[str]) -> None:
    """A counter runs up to the length, or until a jump is taken."""
    where = "the `for` loop"
    following: list[Any] = []

    def run(k: Any) -> None:
        body(items.item(k))
        following.append(k + 1)

    with branch(body):
        done = loop.trace("for", run, [asarray(0)], [])
    outs = loop.outputs(done.left, where)
    places = [i for i, leaf in enumerate(loop.tensors) if leaf.path in exits]

    def go(k: Any, *leaves: Any) -> Any:
        more = less(k, items.length)
        jumps = [leaves[i] for i in places]
        return logical_and(more, not_any(*jumps)) if jumps else more

    inits = [asarray(0), *[leaf.value for leaf in loop.tensors]]
    limit = items.length if items.static else None
    _finish(loop, done, inits, [following[-1], *outs], go, limit, where, exits)


class _Unrolled:
    """Counts iterations of a Python loop that add to the graph, and says so when they are many."""

    def __init__(self) -> None:
        self._count = 0
        self._nodes = self._now()

    def _now(self) -> int:
        builder: Any = state.traces[-1] if state.traces else None
        return len(builder.nodes) if builder is not None else 0

    def step(self) -> None:
        nodes = self._now()
        self._count += nodes > self._nodes
        self._nodes = nodes
        if self._count == UNROLL_LIMIT + 1:
            where = user_line()
            warnings.warn(
                f"a Python loop has written {UNROLL_LIMIT} iterations into the graph, one after the other: tracing and compiling take "
                "long. Let it go over a tensor, e.g. `for i in range(hml.asarray(n))` or `for row in x`, to write it down once"
                + (f"\n  at {where}" if where else ""),
                UnrollWarning,
                stacklevel=4,
            )
