"""if, ternary, and, or, not, comparisons and assert: Python's own on Python values, nodes of the graph on tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from hybridml import pytree
from hybridml.eager.dispatch import lift
from hybridml.eager.placeholder import Placeholder
from hybridml.eager.state import state
from hybridml.eager.variable import Variable
from hybridml.errors import HybridMLError, ShapeError, SourceLine, TraceError, located, user_line
from hybridml.ops.elementwise import not_equal, where
from hybridml.ops.identity import check_true
from hybridml.ops.logic import logical_and, logical_not, logical_or
from hybridml.ops.reductions import any as any_
from hybridml.ops.registry import Kind
from hybridml.ops.view import reshape
from hybridml.trace.autograph.context import branch, first_line, lose
from hybridml.trace.autograph.join import Joined, Pair, Side, describe, is_data, join, shown
from hybridml.trace.autograph.slots import UNDEFINED, Slot, objects, variables
from hybridml.trace.autograph.subgraphs import cond_node, inlined, trace
from hybridml.trace.autograph.touched import Touched
from hybridml.trace.control.mapped import both_sides

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "is": operator.is_, "is not": operator.is_not,
}  # fmt: skip


def symbolic(x: Any) -> Placeholder | None:
    """`x` as a tensor without a value, of the trace or of all examples of a `vmap`, or None if Python can decide what it is."""
    if isinstance(x, Variable) and state.now.traces:
        x = x.value()
    return x if isinstance(x, Placeholder) else None


def not_mapped(what: str) -> None:
    """Raise TraceError inside a `vmap`: loops there are functions, which know how to run for all examples."""
    if state.now.levels:
        raise TraceError(
            located(
                f"{what} runs inside hml.vmap; write it as hml.while_loop or hml.scan, which run for all examples",
                user_line(),
            )
        )


def truth(x: Placeholder, what: str) -> Any:
    """A bool tensor without dimensions: what Python's `bool` would say."""
    if x.size != 1:
        raise ShapeError(
            located(f"{what} is the truth of a tensor of shape {x.shape}, which is ambiguous; use hml.any(x) or hml.all(x)", user_line())
        )  # fmt: skip
    if x.ndim:
        x = reshape(x, ())
    return x if x.dtype.kind == "b" else not_equal(x, 0)


# if


def if_(
    test: Any,
    body: Callable[[], None],
    orelse: Callable[[], None] | None,
    live: Sequence[str],
    dead: Sequence[str],
    filled: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """Run one branch, or trace both. `live` are variables that are needed afterwards, `dead` those that are only changed."""
    t = symbolic(test)
    if t is None:
        if test:
            body()
        elif orelse is not None:
            orelse()
        return
    slots = variables([*live, *dead], [body, orelse]) + objects(late)
    line, other = first_line(body), first_line(orelse)
    labels = (
        f"the `if` branch (line {line})",
        f"the `else` branch (line {other})" if other else "no `else` branch",
    )
    choose(truth(t, "the condition of `if`"), body, orelse, slots, frozenset(dead), labels, filled)


def choose(
    pred: Any,
    body: Callable[[], Any],
    orelse: Callable[[], Any] | None,
    slots: list[Slot],
    dead: frozenset[str],
    labels: tuple[str, str],
    filled: Sequence[str] = (),
) -> None:
    """Trace two branches from one state and leave the joined state behind."""
    source = user_line()
    slots = list(slots)
    entry = [s.get() for s in slots]
    sides, bodies = [], []
    for name, f, label in zip(("true", "false"), (body, orelse), labels, strict=True):
        values: dict[str, Any] = {}

        def run(f: Callable[[], Any] | None = f, values: dict[str, Any] = values) -> None:
            if f is None:
                return
            with branch(f), Touched(f) as touched:
                f()
                for slot, before in touched.changed([s.key for s in slots]):
                    slots.append(slot)
                    entry.append(before)
                    slot.name = _unique(slot.name, slots[:-1])
            values.update({s.name: s.get() for s in slots})

        try:
            if state.now.levels:  # inside a vmap both sides run, and each example takes its own
                with both_sides(f"{label} on a condition of each example"):
                    run()
            else:
                bodies.append(trace(name, run))
        except Exception as e:
            if f is not None and not isinstance(e, HybridMLError) and not getattr(e, "__notes__", None):
                e.add_note(
                    f"(raised while {label} was traced: its condition is a tensor, so both sides are always traced)"
                )
            raise
        finally:
            for s, value in zip(slots, entry, strict=True):
                s.set(value)
        sides.append(Side(label, values))
    for s, value in zip(slots, entry, strict=True):
        for side in sides:
            side.values.setdefault(s.name, value)  # a side that did not touch it
    a, b = sides
    joined = [Joined(undefined=True) if s.name in dead else join(s.name, a, b, source, filled) for s in slots]
    pairs = [x for j in joined for x in j.leaves if isinstance(x, Pair)]
    if bodies:
        results = iter(cond_node(pred, bodies[0], bodies[1], [p.a for p in pairs], [p.b for p in pairs]))
    else:
        results = iter([where(pred, p.a, p.b) for p in pairs])
    for s, j in zip(slots, joined, strict=True):
        if j.undefined:
            s.set(UNDEFINED)
            if s.name not in dead:
                _note_lost(s.name, a, b, source)
        else:
            assert j.structure is not None
            s.set(
                pytree.unflatten(j.structure, [next(results) if isinstance(x, Pair) else x for x in j.leaves])
            )


def _unique(name: str, slots: Sequence[Slot]) -> str:
    """Two objects of one class have attributes of one name."""
    taken = {s.name for s in slots}
    return next(n for n in (name, *[f"{name} ({i})" for i in range(2, len(taken) + 3)]) if n not in taken)


def _note_lost(name: str, a: Side, b: Side, source: SourceLine | None) -> None:
    x, y = a.values[name], b.values[name]
    if x is UNDEFINED and y is UNDEFINED:
        return
    has, misses, value = (b, a, y) if x is UNDEFINED else (a, b, x)
    at = f" at line {source.line}" if source else ""
    lose(
        name,
        f"{shown(name)} is {describe(value)} after {has.label} and not defined after {misses.label}. The condition{at} is a tensor, "
        f"so {shown(name)} needs a value either way: set it before the `if`, e.g. {name} = hml.zeros(...), or in both branches",
    )


class Binding:
    """An operand that binds variables by `:=`, as a function."""

    def __init__(self, f: Callable[[], Any], names: Sequence[str]) -> None:
        self.f, self.names = f, names

    def __call__(self) -> Any:
        return self.f()

    @property
    def slots(self) -> list[Slot]:
        return variables(self.names, [self.f])


class _Value(Slot):
    """Where the two sides of a ternary put their value."""

    def __init__(self, name: str) -> None:
        self.name, self.value, self.key = name, UNDEFINED, id(self)

    def get(self) -> Any:
        return self.value

    def set(self, value: Any) -> None:
        self.value = value


def if_exp(test: Any, body: Callable[[], Any], orelse: Callable[[], Any]) -> Any:
    """`body() if test else orelse()`."""
    t = symbolic(test)
    if t is None:
        return body() if test else orelse()
    slot = _Value("the value of the conditional expression")

    def left() -> None:
        with branch(body):
            slot.set(body())

    def right() -> None:
        with branch(orelse):
            slot.set(orelse())

    pred = truth(t, "the condition of the conditional expression")
    bound = [s for f in (body, orelse) if isinstance(f, Binding) for s in f.slots]
    choose(
        pred, left, right, [slot, *bound], frozenset(), ("the value before `if`", "the value after `else`")
    )
    return slot.value


# and, or, not


def and_(first: Any, *later: Callable[[], Any]) -> Any:
    return _connect(first, later, True)


def or_(first: Any, *later: Callable[[], Any]) -> Any:
    return _connect(first, later, False)


def _connect(value: Any, later: Sequence[Callable[[], Any]], is_and: bool) -> Any:
    for f in later:
        t = symbolic(value)
        if t is None:
            if bool(value) is not is_and:
                return value
            value = f()
        else:
            value = _combine(t, f, is_and)
    return value


_FREE = (Kind.ELEMENTWISE, Kind.VIEW, Kind.REDUCTION, Kind.EXTERN)


def _combine(a: Placeholder, f: Callable[[], Any], is_and: bool) -> Any:
    """The second operand belongs to the graph in any case. It is guarded by the first only if running it for nothing could be seen:
    an index out of range, an effect, a draw of random numbers."""
    word = "and" if is_and else "or"
    test = truth(a, f"the left side of `{word}`")
    if isinstance(f, Binding):
        return _binding(test, a, f, is_and)
    if state.now.levels:
        with both_sides(f"`{word}` on a condition of each example"):
            b = lift(f())
        if a.dtype.kind == "b" and b.dtype.kind == "b":
            return logical_and(test, b) if is_and else logical_or(test, b)
        return where(test, b, a) if is_and else where(test, a, b)
    found: list[Any] = []
    body = trace(word, lambda: found.append(f()))
    b = found[0]
    if isinstance(b, Variable):
        b = b.value()
    if not is_data(b):
        raise TraceError(
            located(
                f"`{word}` of {describe(a)} and {describe(b)}: with a tensor both sides must be tensors or numbers",
                user_line(),
            )
        )
    harmless = not body.builder.assigned() and all(n.op.kind in _FREE for n in body.builder.nodes)
    if harmless:
        b = inlined(body, b)
    if a.dtype.kind == "b" and _is_bool(b):
        if harmless:
            return logical_and(test, b) if is_and else logical_or(test, b)
        nothing = lift(not is_and)
        return _guarded(test, body, b, nothing, is_and)
    a_value = a if a.ndim == 0 else reshape(a, ())
    if harmless:
        return where(test, b, a_value) if is_and else where(test, a_value, b)
    return _guarded(test, body, b, a_value, is_and)


def _binding(test: Any, a: Placeholder, f: Binding, is_and: bool) -> Any:
    """A variable bound for the first time is bound in any case: what reads it stands behind the same condition."""
    if all(s.get() is UNDEFINED for s in f.slots):
        value = f()
        return _combine(a, lambda: value, is_and)
    slot = _Value("the value of the condition")
    other = test if a.dtype.kind == "b" else a
    pred = test if is_and else logical_not(test)
    labels = ("the right side of the condition", "the left side")
    choose(pred, lambda: slot.set(f()), lambda: slot.set(other), [slot, *f.slots], frozenset(), labels)
    return slot.value


def _guarded(test: Any, body: Any, b: Any, otherwise: Any, is_and: bool) -> Any:
    b = lift(b)
    nothing = trace("skip", lambda: None)
    pred = test if is_and else logical_not(test)
    return cond_node(pred, body, nothing, [b], [lift(otherwise)])[0]


def _is_bool(x: Any) -> bool:
    return isinstance(x, bool) or (hasattr(x, "dtype") and x.dtype.kind == "b")


def not_(x: Any) -> Any:
    t = symbolic(x)
    return not x if t is None else logical_not(truth(t, "the operand of `not`"))


def not_any(*flags: Any) -> Any:
    """True where no jump has been taken."""
    return not_(or_(flags[0], *[lambda f=f: f for f in flags[1:]]))  # type: ignore[misc]


# comparisons


def compare(left: Any, *rest: tuple[str, Callable[[], Any]]) -> Any:
    """`a < b < c`, each operand evaluated once and only if needed; and `in`."""
    word, later = rest[0]
    right = later()
    if word in ("in", "not in"):
        result = contains(right, left)
        result = not_(result) if word == "not in" else result
    else:
        result = _OPERATORS[word](left, right)
    if len(rest) == 1:
        return result
    names = [n for _, f in rest[1:] if isinstance(f, Binding) for n in f.names]
    remaining = lambda: compare(right, *rest[1:])  # noqa: E731
    if not names or symbolic(result) is None:
        return and_(result, remaining)
    value = remaining()
    return and_(result, lambda: value)


def contains(container: Any, x: Any) -> Any:
    """`x in container`."""
    t = symbolic(container)
    if t is not None:
        return any_(t == x)
    if symbolic(x) is None or not isinstance(container, (list, tuple, set, frozenset, range)):
        return x in container
    found: Any = False
    for item in container:
        found = or_(found, lambda item=item: item is x or x == item)  # type: ignore[misc]
    return found


# assert


def assert_(test: Any, message: Callable[[], Any] | None, text: str) -> Any:
    """The truth for Python's own assert; on a tensor, a check in the graph that fails when it runs."""
    t = symbolic(test)
    if t is None:
        return test
    said = f"assert {text}" if message is None else str(message())
    check_true(truth(t, "the condition of `assert`"), said)
    return True
