"""What conversion says: errors name the variable, both sides, the line and the cure; lines and tracebacks are the user's."""

from __future__ import annotations

import contextlib
import functools
import gc
import linecache
import re
import sys
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import hybridml as hml
from hybridml.errors import (
    CheckError,
    DTypeError,
    ShapeError,
    TraceError,
    TracerError,
    UndefinedError,
    UnrollWarning,
)
from hybridml.trace import autograph
from hybridml.trace.autograph.calls import callee


def line_of(f: Callable[..., Any], offset: int) -> int:
    return f.__code__.co_firstlineno + offset


# errors: (function, argument, error, what it says), in words of the description of @function


def defined_in_one_branch(x):
    if x > 0:
        y = x * 2
    return y


def defined_in_the_other_branch(x):
    if x > 0:
        pass
    else:
        y = x * 2
    return y + 1


def defined_in_a_loop(n):
    for i in range(n):
        last = i * 2
    return last


def dtype_differs_between_branches(x):
    y = x
    if x > 0:
        y = x.astype(hml.int32)
    return y


def shape_differs_between_branches(x):
    if x > 0:
        y = hml.stack([x, x])
    else:
        y = x
    return y


def value_differs_between_branches(x):
    name = "a"
    if x > 0:
        name = "b"
    return x * len(name)


def none_in_one_branch(x):
    if x > 0:
        return x
    return None


def no_return_at_the_end(x):
    if x > 0:
        return x


def dtype_differs_between_iterations(n):
    s = n
    while s < 10:
        s = s * 1.5
    return s


def shape_differs_between_iterations(n):
    s = hml.zeros((1,))
    for _ in range(n):
        s = hml.concat([s, s])
    return s


def structure_differs_between_iterations(n):
    s = None
    for i in range(n):
        s = i
    return s


def append_in_a_loop_of_unknown_length(n):
    out = []
    for i in range(n):
        out.append(i * 2)  # noqa: PERF401
    return hml.stack(out)


def comprehension_of_unknown_length(n):
    return [i for i in range(n)]


def filtered_comprehension(x):
    return [v for v in hml.stack([x, x]) if v > 0]


def recursion_on_a_tensor(x):
    if x <= 1:
        return x
    return x * recursion_on_a_tensor(x - 1)


def recursion_in_a_ternary(x):
    return x if x <= 1 else x * recursion_in_a_ternary(x - 1)


def truth_of_many(x):
    if hml.stack([x, x]) > 0:
        return x
    return -x


def range_of_a_float(x):
    for _ in range(x):
        pass
    return x


class Doubled:
    def __init__(self, x):
        self.x = x

    @property
    def value(self):
        return self.x if self.x > 0 else -self.x

    def __add__(self, other):
        return self.x + other if self.x > 0 else other


def truth_in_a_property(x):
    return Doubled(x).value


def truth_in_an_operator(x):
    return Doubled(x) + x


def truth_in_a_generator(x):
    def values():
        yield x if x > 0 else -x

    return list(values())


def exception_caught_outside_of_a_branch(x):
    try:
        if x > 0:
            raise KeyError("positive")
    except KeyError:
        return x
    return -x


def exception_swallowed_outside_of_a_branch(x):
    with contextlib.suppress(KeyError):
        if x > 0:
            raise KeyError("positive")
    return -x


def numpy_value(x):
    return float(x) + 1


ERRORS: list[tuple[Callable[..., Any], Any, type[Exception], tuple[str, ...]]] = [
    (defined_in_one_branch, 1.0, UndefinedError, ("`y`", "float32[]", "line +2", "`else`", "hml.zeros")),
    (defined_in_the_other_branch, 1.0, UndefinedError, ("`y`", "after the `else` branch (line +4)", "not defined after")),
    (defined_in_a_loop, 3, UndefinedError, ("`last`", "line +1", "zero times", "before the loop")),
    (dtype_differs_between_branches, 1.0, DTypeError, ("`y`", "int32[]", "float32[]", "line +3", ".astype(hml.float32)")),
    (shape_differs_between_branches, 1.0, ShapeError, ("`y`", "float32[2]", "float32[]", "line +2", "line +4")),
    (value_differs_between_branches, 1.0, TraceError, ("`name`", "'a'", "'b'", "hml.where")),
    (none_in_one_branch, 1.0, TraceError, ("returns a value", "None", "zeros_like")),
    (no_return_at_the_end, 1.0, TraceError, ("runs off its end", "zeros_like")),
    (dtype_differs_between_iterations, 3, DTypeError, ("`s`", "int64[]", "float32[]", "while", ".astype(hml.int64)")),
    (shape_differs_between_iterations, 3, ShapeError, ("`s`", "float32[1]", "float32[2]", "hml.scan")),
    (structure_differs_between_iterations, 3, TraceError, ("`s`", "None before", "int64[] after", "hml.zeros")),
    (append_in_a_loop_of_unknown_length, 3, TraceError, ("`out`", "hml.scan", "ys")),
    (comprehension_of_unknown_length, 3, TraceError, ("hml.scan", "only when the function runs")),
    (filtered_comprehension, 1.0, TracerError, ("comprehension", "hml.where")),
    (recursion_on_a_tensor, 3.0, TraceError, ("calls itself", "`while`")),
    (recursion_in_a_ternary, 3.0, TraceError, ("`recursion_in_a_ternary` calls itself", "`while`")),
    (truth_of_many, 1.0, ShapeError, ("(2,)", "hml.any")),
    (range_of_a_float, 1.0, DTypeError, ("range()", "float32[]", "astype")),
    (truth_in_a_property, 1.0, TracerError, ("`value` was not converted", "a property", "hml.where")),
    (truth_in_an_operator, 1.0, TracerError, ("`__add__` was not converted", "an operator", "hml.where")),
    (truth_in_a_generator, 1.0, TracerError, ("`values` was not converted", "generator", "hml.where")),
    (exception_caught_outside_of_a_branch, 1.0, TraceError, ("KeyError", "'positive'", "`try` inside the branch")),
    (exception_swallowed_outside_of_a_branch, 1.0, TraceError, ("KeyError", "Branches are traced")),
    (numpy_value, 1.0, TracerError, ("Python float", "hml operations")),
]  # fmt: skip


@pytest.mark.parametrize(("f", "x", "kind", "says"), ERRORS, ids=[e[0].__name__ for e in ERRORS])
def test_error(f: Any, x: Any, kind: type[Exception], says: tuple[str, ...]) -> None:
    with pytest.raises(kind) as caught:
        hml.function(f)(hml.asarray(x))
    text = str(caught.value)
    for part in says:
        part = re.sub(r"line \+(\d+)", lambda m: f"line {line_of(f, int(m.group(1)))}", part)
        assert part in text, text
    assert "escaped" not in text
    assert f"{__file__}:" in text, "every error names the user's line"


def test_an_undefined_variable_is_no_error_where_it_is_not_used() -> None:
    @hml.function
    def f(x):
        if x > 0:
            y = x * 2
            x = y
        y = x + 1
        return y

    assert float(f(hml.asarray(2.0))) == 5


def test_a_python_name_error_stays_one() -> None:
    @hml.function
    def f(x):
        if x.ndim > 3:
            y = x
        return y

    with pytest.raises(UnboundLocalError):
        f(hml.asarray(1.0))


def test_an_exception_in_a_branch_says_that_both_are_traced() -> None:
    @hml.function
    def f(x):
        if x > 0:
            raise KeyError("negative only")
        return x

    with pytest.raises(KeyError) as caught:
        f(hml.asarray(1.0))
    assert "both sides are always traced" in "".join(caught.value.__notes__)


def test_assert_on_a_tensor_fails_when_it_runs() -> None:
    def positive(x):
        for v in x:
            if v < 100:
                assert v > 0, f"not positive: rank {v.ndim}"
        return x

    f = hml.function(positive)
    f(hml.asarray([1.0, 2.0]))
    f(hml.asarray([1.0, 200.0]))
    with pytest.raises(CheckError, match="not positive: rank 0") as caught:
        f(hml.asarray([1.0, -2.0])).numpy()
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("loop", ["none", "rows", "while"])
def test_an_assert_runs_although_nothing_is_returned(loop: str) -> None:
    @hml.function
    def f(x):
        if loop == "none":
            if x[0] > 5:
                return
            assert x[0] > 0
        elif loop == "rows":
            for v in x:
                assert v > 0
        else:
            n = 0
            while n < 2:
                assert x[n] > 0
                n += 1 if x[n] < 5 else 2

    assert f(hml.asarray([1.0, 2.0])) is None
    f(hml.asarray([7.0, 8.0]))
    with pytest.raises(CheckError, match="> 0") as caught:
        f(hml.asarray([-1.0, 2.0]))
    assert __file__ in str(caught.value)


# lines, tracebacks, text


def test_lines_of_errors_inside_branches_are_the_users() -> None:
    def fails(x):
        while x > 0:
            if x > 2:
                x = x + hml.reshape(x, (5,))
        return x

    with pytest.raises(ShapeError) as caught:
        hml.function(fails)(hml.asarray(1.0))
    assert f"{__file__}:{line_of(fails, 3)} in fails" in str(caught.value)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename == __file__]
    assert frames[-1].lineno == line_of(fails, 3)
    assert frames[-1].name == "fails"
    assert frames[-1].line == "x = x + hml.reshape(x, (5,))"


def test_a_debugger_stops_on_the_users_line() -> None:
    def body(x):
        if x > 0:
            y = x * 2
        else:
            y = x * 3
        return y

    seen = []

    def tracer(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != __file__:
            return None
        if event == "line" and "y" in frame.f_code.co_freevars + frame.f_code.co_varnames:
            seen.append(frame.f_lineno)
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        hml.function(body)(hml.asarray(1.0))
    finally:
        sys.settrace(before)
    assert {line_of(body, 2), line_of(body, 4)} <= set(seen)


def test_nodes_know_the_users_lines() -> None:
    def f(x):
        if x > 0:
            x = hml.tanh(x)
        return x

    graph = hml.function(f).get_concrete_function(hml.asarray(1.0)).graph
    node = next(n for n in graph.nodes if n.op.name == "cond")
    inner = node.attrs["true"].nodes[0]
    assert (node.source.line, inner.source.line) == (line_of(f, 1), line_of(f, 2))


def test_source_shows_the_converted_text() -> None:
    def f(x):
        if x > 0:
            x = x * 2
        return x

    text = hml.function(f).source()
    assert "ag__.if_(x > 0" in text
    assert "nonlocal x" in text
    assert hml.function(f, autograph=False).source() == "# not converted: autograph=False"
    assert "generator" in hml.function(_generator).source()


def _generator(x):
    yield x


def test_without_source_it_traces_plainly() -> None:
    scope: dict[str, Any] = {"hml": hml}
    text = "def plain(x, k):\n    return x * 2 if k else x\ndef condition(x):\n    return x if x > 0 else -x"
    exec(compile(text, "<nowhere>", "exec"), scope)
    assert float(hml.function(scope["plain"])(hml.asarray(2.0), True)) == 4
    with pytest.raises(TracerError, match="`condition` was not converted: its source is not available"):
        hml.function(scope["condition"])(hml.asarray(1.0))
    assert "not available" in hml.function(scope["plain"]).source()


def test_a_source_that_changed_is_not_used(tmp_path: Any) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def f(x):\n    return x * 2\n")
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    path.write_text("# a new line\n\ndef g(x, y):\n    return x * 2\n")
    assert float(hml.function(scope["f"])(hml.asarray(2.0))) == 4
    assert "changed" in hml.function(scope["f"]).source()


def test_a_cell_that_is_run_again() -> None:
    """Notebooks put each cell's text into linecache under a name of its own; a cell run again is a new function."""
    results = []
    for run, factor in enumerate((2, 3)):
        text = f"def f(x):\n    if x > 0:\n        return x * {factor}\n    return x\n"
        name = f"<ipython-input-{run}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        scope: dict[str, Any] = {}
        exec(compile(text, name, "exec"), scope)
        results.append(float(hml.function(scope["f"])(hml.asarray(1.0))))
    assert results == [2, 3]


# what is converted, how often, and for how long it lives


def test_a_code_object_is_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    original = autograph.convert._convert

    def counting(f: Any) -> Any:
        done.append(f.__name__)
        return original(f)

    monkeypatch.setattr(autograph.convert, "_convert", counting)

    def once(k: int) -> Any:
        def f(x):
            return inner(x) if x > 0 else x * k

        return f

    def inner(x):
        return x + 1 if x < 5 else x

    for k in range(4):  # decorated in a loop
        f = hml.function(once(k))
        assert float(f(hml.asarray(-1.0))) == -k
        assert f(hml.asarray([2.0])).tolist() == [3]
    assert done == ["f", "inner"]


def test_library_code_is_left_alone() -> None:
    seen = []

    def f(x):
        seen.append((callee(sum) is sum, callee(functools.wraps) is functools.wraps))
        seen.append((callee(traceback.format_exc) is traceback.format_exc, True))
        return x

    hml.function(f)(hml.asarray(1.0))
    assert seen == [(True, True), (True, True)]


def test_functions_handed_to_this_package_are_converted() -> None:
    def loss(w):
        return w * w if w > 0 else -w

    @hml.function
    def f(w):
        return hml.grad(loss)(w), hml.map_fn(loss, hml.stack([w, -w]))

    g, rows = f(hml.asarray(3.0))
    assert float(g) == 6
    assert rows.tolist() == [9, 3]
    assert float(f(hml.asarray(-3.0))[0]) == -1


def test_converted_functions_are_freed() -> None:
    def make() -> Any:
        def f(x):
            return f.__name__ and x if x > 0 else -x

        return f

    f = make()
    hml.function(f)(hml.asarray(1.0))
    gone = weakref.ref(f)
    del f
    gc.collect()
    assert gone() is None


def test_run_functions_eagerly_runs_the_original() -> None:
    seen = []

    @hml.function
    def f(x):
        seen.append(sys._getframe().f_code is f.python_function.__code__)
        return x if x > 0 else -x

    f(hml.asarray(-1.0))
    hml.run_functions_eagerly(True)
    try:
        assert float(f(hml.asarray(-1.0))) == 1
    finally:
        hml.run_functions_eagerly(False)
    assert seen == [False, True]


def test_python_side_effects_happen_once_a_trace() -> None:
    seen = []

    @hml.function
    def f(x, n):
        for v in x:
            seen.append("row")
            if v > 0:
                seen.append("positive")
        while n > 0:
            seen.append("while")
            n -= 1
        return n

    # `seen` grows in the loops, so the rows are written out; the list in a loop of unknown length is an error
    with pytest.raises(TraceError, match="`seen`"):
        f(hml.asarray([1.0, 2.0]), hml.asarray(3))


def test_a_python_loop_past_the_limit_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autograph.loops, "UNROLL_LIMIT", 20)

    @hml.function
    def f(x):
        for _ in range(30):
            x = x + 1
        return x

    with pytest.warns(UnrollWarning, match=r"20 iterations.*\n  at .*test_autograph_errors.py"):
        f(hml.asarray(1.0))


def test_a_loop_over_a_dataset_is_unrolled() -> None:
    batches = [(hml.asarray([1.0]), 2), (hml.asarray([3.0]), 4)]

    @hml.function
    def f(w):
        for x, k in batches:
            if (x * w).sum() > 0:
                w = w + x.sum() * k
        return w

    assert float(f(hml.asarray(1.0))) == 15
