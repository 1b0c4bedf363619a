"""while and for: Python's own on Python values, `while_loop` and `scan` nodes on tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hybridml import pytree
from hybridml.eager.creation import asarray, zeros
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor
from hybridml.eager.variable import Variable
from hybridml.errors import UnrollWarning, user_line, user_stacklevel
from hybridml.ops.elementwise import less
from hybridml.ops.logic import logical_and
from hybridml.trace.autograph.conditions import and_, choose, not_any, not_mapped, symbolic, truth
from hybridml.trace.autograph.context import branch
from hybridml.trace.autograph.iterables import Elements, TensorIterable, parts_of, stream_of, tensor_iterable
from hybridml.trace.autograph.loop_state import Differs, Loop, Traced, late_outputs, leave
from hybridml.trace.autograph.slots import Slot, objects, variables
from hybridml.trace.autograph.subgraphs import scan_node, trace, while_node

UNROLL_LIMIT = 2000

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
    _while(test, body, [test, body], carried, local, live, exits, filled, *late)


def _while(
    test: Callable[[], Any],
    body: Callable[[], None],
    users: Sequence[Callable[..., Any]],
    carried: Sequence[str],
    local: Sequence[str],
    live: Sequence[str],
    exits: Sequence[str],
    filled: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """`users` are the functions whose variables the loop may change."""
    flags = variables(exits, users)
    count = _Unrolled()

    def condition() -> Any:
        """The test, after the jumps; a tensor among them decides in the graph."""
        values = [f.get() for f in flags]
        if any(v is True for v in values):
            return False
        taken = [v for v in values if v is not False]
        return test() if not taken else and_(not_any(*taken), test)

    while True:
        go = condition()
        t = symbolic(go)
        if t is not None:
            not_mapped("a `while` loop whose condition is a tensor")
            break
        if not go:
            return
        body()
        count.step()
    slots = variables([*carried, *local], users) + objects(late)
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
    except Differs as e:
        raise e.error from None
    inits = [go, *[leaf.value for leaf in loop.tensors]]
    _finish(loop, done, inits, [again, *outs], lambda go, *_: go, None, where, exits)


def _finish(
    loop: Loop,
    done: Traced,
    inits: list[Tensor],
    outputs: list[Tensor],
    go: Callable[..., Any],
    limit: int | None,
    where: str,
    exits: Sequence[str],
) -> None:
    """Put a traced body into a while node, with the returned value as one more loop variable if there is one."""
    extra, forms = late_outputs(loop, done)
    all_inits = [*inits, *[zeros(x.shape, dtype=x.dtype) for x in extra]]
    if extra:
        # Inputs that the body does not read: what came before is overwritten, or never looked at.
        for x in extra:
            done.body.inputs.append(done.body.builder.input(x.spec)._value)
    found: list[Any] = []
    test = trace(
        "test",
        lambda *symbols: found.append(go(*symbols)),
        [x.spec for x in all_inits],
        [""] * len(all_inits),
    )
    results = while_node(test, found[0], done.body, all_inits, [*outputs, *extra], limit)
    first = len(inits) - len(loop.tensors)
    leave(loop, results[first : len(inits)], results[len(inits) :], forms, where)


# for


def for_(
    iterable: Any,
    body: Callable[[Any], None],
    carried: Sequence[str],
    local: Sequence[str],
    live: Sequence[str],
    exits: Sequence[str],
    filled: Sequence[str],
    targets: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """Python's `for` over Python values; over a tensor's rows, a range that ends at a tensor, or a dataset, a loop in the graph."""
    if isinstance(iterable, Variable) and state.now.traces:
        iterable = iterable.value()
    names = (carried, local, live, exits, filled)
    counted = (*names, targets)
    parts = parts_of(iterable)
    if parts is not None:
        changed = variables([*carried, *local], [body]) + objects(late)
        flags = variables(exits, [body])
        _unrolled(
            parts,
            lambda part: _part(part(), body, flags, changed, counted, late),
            flags,
            changed,
            frozenset(local),
        )
        return
    stream = stream_of(iterable)
    if stream is not None:
        more, pull = stream
        _while(more, lambda: body(pull()), [body], *names, *late)
        return
    _for(tensor_iterable(iterable), iterable, body, *counted, *late)


def _part(
    part: tuple[int, int, Callable[[Any], Any]],
    body: Callable[[Any], None],
    flags: list[Slot],
    changed: list[Slot],
    names: tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str], Sequence[str], Sequence[str]],
    late: tuple[Callable[[], Slot | None], ...],
) -> None:
    """A stretch of a dataset: one loop over the elements of one spec, and what is left, a smaller batch, written out behind it."""
    length, uniform, get = part
    rest = range(uniform, length) if uniform > 1 else range(length)
    if uniform > 1:
        _for(Elements(uniform, get), None, body, *names, *late)
    _unrolled((get(k) for k in rest), body, flags, changed, frozenset(names[1]))


def _for(
    items: TensorIterable | None,
    iterable: Any,
    body: Callable[[Any], None],
    carried: Sequence[str],
    local: Sequence[str],
    live: Sequence[str],
    exits: Sequence[str],
    filled: Sequence[str],
    targets: Sequence[str],
    *late: Callable[[], Slot | None],
) -> None:
    """`items` where the graph goes over them, else `iterable` where Python does."""
    changed = objects(late)
    flags = variables(exits, [body])
    names = [*carried, *local]
    if items is None or (items.static and (items.length == 0 or any(s.grows for s in changed))):
        # A list that the body appends to has one item more in each iteration: possible where all iterations are written out.
        _unrolled(
            iterable if items is None else items,
            body,
            flags,
            variables(names, [body]) + changed,
            frozenset(local),
        )
        return
    static = items.static and not flags
    if items.static:  # there is a first item, whatever jump follows
        filled = [*filled, *targets]
    loop = Loop(variables(names, [body]) + changed, frozenset(local), frozenset(live), static, filled)
    try:
        if static:
            _scan(items, body, loop)
        else:
            _count(items, body, loop, flags, exits)
    except Differs as e:
        if not static:
            raise e.error from None
        if e.grew:
            loop.restore()
            _unrolled(items, body, flags, loop.slots, frozenset(local))
        elif not _peels(items, body, loop):
            raise e.error from None


def _unrolled(
    iterable: Any, body: Callable[[Any], None], flags: list[Slot], slots: list[Slot], local: frozenset[str]
) -> None:
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
        done = loop.trace("for", lambda *rows: body(items.of_row(pytree.unflatten(form, rows))), [], xs)
    outs = loop.outputs(done.left, where)
    extra, forms = late_outputs(loop, done)
    inits = [leaf.value for leaf in loop.tensors]
    k, builder = len(inits), done.body.builder
    done.body.inputs[k:k] = [builder.input(x.spec)._value for x in extra]
    results = scan_node(
        done.body,
        [*inits, *[zeros(x.shape, dtype=x.dtype) for x in extra]],
        xs,
        [*outs, *extra],
        items.length,
    )
    leave(loop, results[:k], results[k:], forms, where)


def _peels(items: TensorIterable, body: Callable[[Any], None], loop: Loop) -> bool:
    """Run the first iteration by itself: what only starts out differently then fits. False if that cannot help."""
    if items.length < 2:
        loop.restore()
        body(items.item(0))
        return True
    body(items.item(0))
    rest = _Tail(items)
    again = Loop(loop.slots, frozenset([s.name for s in loop.fresh]), loop.live, True)
    try:
        _scan(rest, body, again)
    except Differs:
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

    def of_row(self, row: Any) -> Any:
        return self._inner.of_row(row)


def _count(
    items: TensorIterable, body: Callable[[Any], None], loop: Loop, flags: list[Slot], exits: Sequence[str]
) -> None:
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
        builder: Any = state.now.traces[-1] if state.now.traces else None
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
                stacklevel=user_stacklevel(),
            )
