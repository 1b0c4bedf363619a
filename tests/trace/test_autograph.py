"""Control flow on tensors: every row of "Control flow conversion" runs plainly in Python on eager values, and traced, and agrees."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree


@dataclass
class Row:
    words: str  # of the table in the description of @function
    f: Callable[..., Any]
    calls: tuple[tuple[Any, ...], ...]


ROWS: list[Row] = []


def row(words: str, *calls: Any) -> Callable[[Any], Any]:
    """Add a function to the table; each call is one argument, or a tuple of several."""

    def add(f: Any) -> Any:
        ROWS.append(Row(words, f, tuple([c if isinstance(c, tuple) else (c,) for c in calls])))
        return f

    return add


# if, elif, else, early return


@row("if/elif/else", 1.0, -3.0, -1.0)
def if_elif_else(x):
    if x > 0:
        y = x * 2
    elif x < -2:
        y = x * 3
    else:
        y = x
    return y


@row("nested early return", 1.0, 6.0, -1.0)
def early_return(x):
    if x > 0:
        if x > 5:
            return x * 2
        y = 1.0
    else:
        y = 2.0
    return x + y


@row("nested early return", 1.0, 4.0, 7.0, -1.0)
def early_returns_in_turn(x):
    if x < 0:
        return x
    x = x + 1
    if x > 4:
        x = x * 2
        if x > 14:
            return -x
    elif x > 3:
        return x * 10
    return x + 0.5


@row("if/elif/else", [1.0, 2.0], [-1.0, -2.0])
def several_variables_of_several_forms(x):
    pair, n = (x, {"a": x * 2}), 1
    if x.sum() > 0:
        pair = (x + 1, {"a": x})
        n = 2
    return pair[0], pair[1]["a"], n


@row("ternary", 1.0, 3.0, 7.0, -1.0)
def ternary_and_chain(x):
    return x if 0 < x < 5 and not (x == 3) else -x


@row("and/or/not", 1.0, 3.0, -2.0, 0.0)
def and_or_not(x):
    a = x > 0 and x < 2
    b = x < -1 or a
    c = not b
    if c or (a and not c):
        return x + 1
    return x - 1


@row("and/or/not", 0.0, 2.0)
def and_or_of_numbers(x):
    return (x and x + 1) + (x or x - 1)


@row("chained comparison", 1.0, 0.0, 4.0)
def chain_evaluates_once(x):
    seen = []

    def middle():
        seen.append(1)
        return x * 1

    result = 0 < middle() <= 3 != 2
    return result, len(seen)


@row("lambda bodies", 1.0, -1.0)
def lambda_body(x):
    f = lambda v: v * 2 if v > 0 else -v  # noqa: E731
    return f(x) + (lambda v: f(v) if v < 0 else v)(x)


# loops


@row("while", 9.0, 0.5)
def while_loop(x):
    n = 0
    while x > 1:
        x = x / 2
        n += 1
    return x, n


@row("while", 1.0)
def while_true(x):
    while True:
        x = x * 2
        if x > 100:
            return x


@row("for over range(tensor); break, continue", 0, 3, 6, 10)
def for_range(n):
    s = 0
    for i in range(n):
        if i == 3:
            continue
        if i > 6:
            break
        s += i
    return s


@row("for over range(tensor)", (2, 9), (9, 2), (3, 3))
def for_range_of_three(a, b):
    up = down = 0
    for i in range(a, b, 3):
        up = up * 10 + i
    for i in range(b, a, -2):
        down = down * 10 + i
    for i in range(a, 5):
        down = down + i
    return up, down


@row("for over a tensor's rows", [1.0, 2.0, 3.0])
def for_rows(x):
    s = 0
    for v in x:
        s = s + v
    return s


@row("for over a tensor's rows", [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
def for_rows_start_with_a_number(x):
    s, last = 0, None
    for v in x:
        s = s * 2 + v
        last = v
    return s, last


@row("for over a tensor's rows; break, continue", [1.0, -2.0, 3.0, 9.0, 1.0], [1.0, 1.0])
def for_rows_with_jumps(x):
    s = 0.0
    for v in x:
        if v < 0:
            continue
        if v > 5:
            break
        s = s + v
    return s


@row("inside with, try/finally", 1.0, -1.0)
def inside_with_and_try(x):
    log = []
    with contextlib.suppress(KeyError):
        try:
            if x > 0:
                y = x + 1
            else:
                y = x - 1
        finally:
            log.append(1)
        if y > 0:
            return y * 2, len(log)
    return y, len(log)


@row("return inside a tensor loop", [1.0, 3.0], [1.0, 1.0], [5.0, 0.0])
def return_in_loop(x):
    for i, v in enumerate(x):
        if v > 2:
            return i
    return -1


@row("return inside a tensor loop", 0, 1, 5)
def every_path_returns_behind_a_with(n):
    if n > 0:
        while n < 10:
            if n == 3:
                return n * 100
            n = n + 2
        return n
    with contextlib.nullcontext():
        return n - 1


@row("return inside a tensor loop", (3, 4), (4, 9))
def return_in_nested_loops(n, k):
    for i in range(n):
        for j in range(i):
            if i * j == k:
                return i + j
        if i == 3:
            return i * 100
    return n


@row("for-else, while-else", 2, 5, 9)
def loop_else(n):
    for i in range(n):
        if i == 4:
            r = 1
            break
    else:
        r = 2
    while n > 3:
        n -= 2
        if n == 7:
            break
    else:
        r = r * 10
    return r, n


@row("for-else, while-else", [1.0, 2.0, 3.0], [5.0, 6.0, 7.0], [0.0, 1.0, 2.0])
def loop_else_that_sets_the_target(x):
    for i, v in enumerate(x, start=5):  # noqa: B007
        if v > 2:
            break
    else:
        i = -1
    return i, v


@row("enumerate(t)", [1.0, 2.0, 3.0])
def enumerate_rows(x):
    s = 0.0
    for i, v in enumerate(x, 1):
        s = s + i * v
    return s


@row("zip(t, u)", ([1.0, 2.0, 3.0], [4.0, 5.0]))
def zip_rows(x, y):
    s = 0.0
    for a, b in zip(x, y):  # noqa: B905
        s = s * 10 + a * b
    return s


@row("reversed(t)", [1.0, 2.0, 3.0])
def reversed_rows(x):
    s = 0.0
    for i, v in enumerate(reversed(x)):
        s = s * 10 + v * i
    return s


@row("zip(t, u)", ([1.0, 2.0], [[1.0], [2.0]], 2))
def zip_of_everything(x, y, n):
    s = 0.0
    for i, (a, (b,)) in zip(range(n), zip(x, y, strict=True), strict=False):
        s = s + i * a * b
    for k, v in zip(("a", "b"), x, strict=True):
        s = s + len(k) * v
    return s


@row("walrus in the test", 1.0, 2.0, 3.0)
def walrus(x):
    if (y := x * 2) > 3 and (z := y + 1) > 5:
        return z
    while (w := y + 1) < 6:
        y = w
    return y + w


@row("assert t", 1.0, 2.0)
def assert_tensor(x):
    assert x > 0, "must be positive"
    assert isinstance(x, hml.Tensor)
    return x + 1


@row("comprehension over a tensor", [1.0, 2.0, 3.0])
def comprehension(x):
    table = {i: v * 2 for i, v in enumerate(x)}
    return [a + 1 if a > 1 else a for a in x], sum(v for v in x), table[1], [v for v in x if v.ndim == 0]


@row("list append in a tensor loop, then stack", [1.0, -2.0, 3.0])
def append_then_stack(x):
    out = []
    more = []
    for v in x:
        out.append(v * 2 if v > 0 else v)
        more += [v]
    return hml.stack(out), hml.stack(more)


@row("Python loops over Python values", 2.0)
def python_loops(x):
    for name, k in {"a": 1, "b": 2}.items():
        x = x * k + len(name)
    k = 0
    while k < 3:
        k += 1
        if k == 2:
            continue
        x = x + k
    else:
        x = -x
    for _ in iter([1, 2, 3, 4]):
        if k > 3:
            break
        k += 1
    return x, k


@row("Python loops over Python values", 1.0, 3.0, 7.0)
def python_loop_with_a_break_on_a_tensor(x):
    seen = 0
    for k in range(4):
        x = x + k
        if x > 6:
            break
        seen += 1
    return x, seen


@row("while", 3.0, 40.0)
def python_while_that_becomes_a_tensor_loop(x):
    k = 0
    while k < 5:
        k += 1
        if x > 30:
            break
        x = x * 2
    return x, k


@row("while", [1.0, 1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
def short_circuit_guards_an_index(x):
    i = 0
    while i < 4 and x[i] > 0:
        i += 1
    return i


@row("variable defined in one branch only", 1.0, -1.0)
def temporary_of_one_branch(x):
    if x > 0:
        t = x * 2
        x = t + 1
    for v in hml.stack([x, x]):
        t = v
        x = x + t
    return x


@row("for over a tensor's rows", [1.0, 2.0, 3.0])
def last_value_of_the_loop(x):
    for i, v in enumerate(x):  # noqa: B007
        t = v * 2
    return t, v, i


@row("while", 7, 27)
def nested_control_flow(n):
    steps = 0
    while n != 1 and steps < 20:
        if n % 2 == 0:
            n = n // 2
        else:
            for _ in range(3):
                n = n + 1 if n > 100 else n
            n = 3 * n + 1
        steps += 1
    return n, steps


@row("for over a tensor's rows", [[1.0, -2.0], [3.0, 4.0]], [[1, -2], [3, 4]])
def numbers_take_the_dtype_they_meet(x):
    s, t, k = 0, 0, 0
    for r in x:
        for v in r:
            if v > 0:
                s = s + v
                k += 1
            t = t * 2 + v
        while k < 2:
            k += 1
            if s > 2:
                t = t + s
    return s, t, k


# functions of functions


def helper(v, k=2, *, flip=False):
    """A user's function: converted when it is called."""
    if v > 0:
        return v * k
    return -v if flip else v


def logged(f):
    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        if args[0] > 100:
            return args[0]
        return f(*args, **kwargs)

    return wrapper


@logged
def decorated(v):
    return v + 1 if v > 0 else v - 1


@row("functions called by the function", 1.0, -2.0, 200.0)
def calls(x):
    f = functools.partial(helper, flip=True)
    return helper(x, 3) + f(x, k=5) + decorated(x) + sum(map(helper, [x, -x]))


@functools.singledispatch
def dispatched(v):
    raise TypeError(type(v))


@dispatched.register
def _(v: hml.Tensor):
    return v * 2 if v > 0 else -v


@functools.cache
def cached(v):
    return v + 1 if v > 0 else v - 1


@row("decorators", 1.0, -1.0)
def decorators_of_functools(x):
    return dispatched(x) + cached(x), cached(2)


row("decorators", 1.0, -1.0)(cached)


@row("decorators", 1.0, -1.0, 200.0)
@logged
def decorated_itself(x):
    return x if x > 0 else x * 3


class Base:
    def scale(self, x):
        return x * 2 if x > 0 else x


class Layer(Base):
    def __init__(self) -> None:
        self.__count = 3
        self.last = None

    def scale(self, x):
        if x > 1:
            x = super().scale(x) + self.__count
        return x

    def __call__(self, x):
        return self.scale(x) if x < 50 else x


LAYER = Layer()
row("methods", 0.5, 2.0)(LAYER.scale)
row("callable objects", 0.5, 2.0, 60.0)(LAYER)
row("partials", 1.0, -1.0)(functools.partial(helper, k=7, flip=True))
row("lambdas", 1.0, -1.0)(lambda x: (x if x > 0 else -x, (lambda y: y + 1 if y > 0 else y)(x)))
several = (lambda x: x + 1 if x > 0 else x, lambda x: x + 2 if x > 0 else x)
row("two lambdas on a line", 1.0, -1.0)(several[0])
row("two lambdas on a line", 1.0, -1.0)(several[1])


@row("nested functions, closures, nonlocal", 2.0, -2.0)
def closures(x):
    total = x * 0

    def add(v):
        nonlocal total
        if v > 0:
            total = total + v
        else:
            total = total - v

    for v in hml.stack([x, -x, x * 2]):
        add(v)
    add(x)
    return total


@row("recursion on a Python int", 2.0, -1.0)
def recursion(x, n=4):
    if n == 0:
        return x
    if x > 0:
        return recursion(x * 2, n - 1)
    return recursion(x - 1, n - 1)


@row("state in attributes, lists and dicts", 1.0, -1.0)
def containers(x):
    state = {"n": x, "k": 1}
    pair = [x, x]
    box = Base()
    box.value = x
    if x > 0:
        state["n"] = x + 1
        pair[0] = x * 5
        box.value = x + 7
    for v in hml.stack([x, x]):
        pair[1] = pair[1] + v
        box.value = box.value + v
    return state["n"], pair, box.value


class Kept:
    state = 0.0  # the class's, until the first assignment

    def step(self, v):
        self.state = 0.5 * self.state + v


@row("state in attributes, lists and dicts", [1.0, -2.0, 3.0])
def attributes_that_the_class_has(x):
    kept = Kept()
    for v in x:
        kept.step(v)
    return kept.state


class Sum:
    def __init__(self, start):
        self.total = start
        self.calls = 0

    def add(self, v):
        self.calls += 1
        if v > 0:
            self.total = self.total + v
        return self

    def __call__(self, v):
        self.last = v
        return self.add(v)


@row("state in attributes, lists and dicts", 1.0, -1.0)
def objects_made_in_a_branch(x):
    if x > 0:
        made = Sum(x * 2)
        made.add(x)
        kept = []
        kept.append(made.total)
        x = sum(kept)
    return x


@row("state in attributes, lists and dicts", [1.0, -2.0, 3.0])
def objects_made_in_a_loop(x):
    outer = Sum(0.0)
    for v in x:
        made = Sum(v * 2).add(v)
        kept = [v]
        kept[0] = made.add(1.0).total
        outer.add(kept[0])
    return outer.total


@row("state in attributes, lists and dicts", [2.0, -2.0, 3.0], [-2.0, 2.0, 3.0])
def objects_under_other_names(x):
    boxes = [Sum(x[0]), Sum(x[1])]
    for v in x:
        for b in boxes:
            b.total = b.total + v
    for b in boxes:
        if b.total > 5:
            setattr(b, "total", -b.total)  # noqa: B010
    return [b.total for b in boxes]


@row("state in attributes, lists and dicts", [2.0, -2.0, 3.0], [-2.0, 2.0, 3.0])
def containers_that_functions_change(x):
    state, log, window = {"a": {"b": [x[0], 0]}}, [], collections.deque([x[1]], maxlen=2)
    sums = collections.defaultdict(float)

    def put(where, v):
        where[0] = where[0] + v

    if x[0] > 0:
        put(state["a"]["b"], x[1])
        state["a"]["b"][1] = 7
        window.appendleft(x[2])
        window.pop()
    for v in x:
        put(state["a"]["b"], v)
        sums["s"] += v
        window.append(v * 2)
        (lambda y: log.append(y))(v)
    order = [x[0], x[1]]
    if x[0] > x[1]:
        order.reverse()
    return state, log, list(window), sums["s"], order


def counting(start):
    def up(v):
        nonlocal start
        start = start + v
        return start

    return up


@row("state in attributes, lists and dicts", [1.0, -2.0, 3.0])
def methods_that_change_their_object(x):
    a, b, c = Sum(0.0), Sum(x[0]), counting(0)
    for v in x:
        a.add(v)
        if v < 2:
            b(v).add(v * 2)
            c(v)
    while c(x[0]) < 7:
        a.add(x[2])
    return a.total, b.total, c(0)


@row("match", 1.0, -1.0)
def match_on_python_values(x):
    for kind in ("double", ("add", 3), None):
        match kind:
            case "double":
                x = x * 2
            case ("add", k):
                if x > 0:
                    x = x + k
            case _:
                return x
    return x


class Point:
    __match_args__ = ("x", "y")

    def __init__(self, x, y):
        self.x, self.y = x, y


@row("match", 0, 1, 2, 3, 7)
def match_on_a_tensor(n):
    match n:
        case 0:
            return n + 10
        case 1 | 2 if n > 1:
            y = n * 3
        case 1:
            y = n * 5
        case -7 | 7:
            return n
        case k:
            y = k - 100
    return y


@row("match", (0, 1), (1, 0), (0, 0), (4, 5))
def match_on_structures_of_tensors(a, b):
    y = a
    match (a, 7):
        case (0, y) if b > 5:  # bound although the guard says no
            y = y + 1
        case (1, z):
            y = y * 2 + z
    match Point(a, {"k": b}):
        case Point(0, {"k": 1, **rest}):
            return y + 100 + len(rest)
        case Point(x=0, y={"k": v}):
            return v + 200
        case Point(y={"k": v}) as q if v > q.x:
            return v * 3
    return y


@row("match", (0, 1), (1, 0), (0, 0), (2, 3), (2, 5), (4, 5))
def match_on_alternatives_of_structures(a, b):
    match (a, b):
        case (0, _) | (_, 0):
            out = a * 0 + 10
        case (2, (3 | 4) as x) | (x, 5 | 6):
            out = x * 100
        case _:
            out = a + b
    match {"p": Point(a, b), "n": 1}:
        case {"p": Point(0, y) | Point(y, 0)}:
            out = out + y
        case {"n": 1 | 2}:
            out = out - 1
    return out


@row("match", (0, 3), (1, 3), (2, 3))
def match_with_jumps(a, n):
    s = 0
    for i in range(n):
        match i:
            case 0:
                continue
            case 1 if a == 0:
                break
            case 2 if a == 2:
                return s * 100
            case _:
                s = s + i
    else:
        s = s + 1000
    return s


@row("built-ins", 1.0, 5.0)
def builtins_on_tensors(x):
    values = hml.stack([x, 3.0])
    inside = x in values, x in (5, 7)
    return max(x, 3), min(x, 2, 4), any(values > 4), all(values > 0), inside


@row("exceptions", 1.0, -1.0)
def exceptions(x):
    try:
        if x > 0:
            y = x
        else:
            y = -x
        raise ValueError("as usual")
    except ValueError as e:
        y = y + len(str(e))
    del x
    return y


def _same(a: Any, b: Any) -> None:
    left, structure = pytree.flatten(a)
    right, other = pytree.flatten(b)
    assert structure == other
    for p, q in zip(left, right, strict=True):
        np.testing.assert_allclose(np.asarray(p), np.asarray(q), rtol=1e-6)


@pytest.mark.parametrize("r", ROWS, ids=lambda r: f"{r.words}-{getattr(r.f, '__name__', type(r.f).__name__)}")
def test_construct(r: Row) -> None:
    traced = hml.function(r.f)
    for call in r.calls:
        args = [hml.asarray(x) for x in call]
        _same(traced(*args), r.f(*args))
    specs = {tuple(hml.asarray(x).spec for x in c) for c in r.calls}
    assert traced.cache_info().traces == len(specs)
