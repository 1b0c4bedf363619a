"""Control flow: eager, traced and interpreted agree; gradients agree with differences; errors say what changed."""

from __future__ import annotations

import numpy as np
import pytest
from control_programs import PROGRAMS

import hybridml as hml
from hybridml import pytree
from hybridml.errors import DTypeError, GraphError, NonFiniteError, ShapeError, TraceError, TracerError
from hybridml.testing import check_grads
from hybridml.testing.traced import check_traced
from hybridml.trace.graph import Node, verify
from hybridml.trace.interpret import interpret

programs = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)


def tensors(program):
    return [hml.asarray(a) for a in program.args]


@programs
def test_eager_traced_and_interpreted_agree(program):
    assert check_traced(program.f, tensors(program), ops=64).stats.python_steps == 0


@programs
def test_gradients_agree_with_differences(program):
    check_grads(program.f, program.args, order=2)
    check_grads(hml.function(program.f), program.args, order=2)


def total(out):
    return sum(
        [(t * t).sum() for t in pytree.leaves(out) if t.dtype.kind == "f"],
        hml.asarray(0.0, dtype=hml.float64),
    )


@programs
def test_gradients_inside_a_traced_function(program):
    which = tuple(range(len(program.args)))
    gradient = hml.grad(lambda *args: total(program.f(*args)), argnums=which)
    assert check_traced(gradient, tensors(program), ops=256).stats.python_steps == 0


@pytest.mark.parametrize(
    "name", ["cond, true", "scan over nests", "recurrent", "cond in scan", "loop until large"]
)
def test_second_order_inside_a_traced_function(name):
    program = next(p for p in PROGRAMS if p.name == name)
    which = tuple(range(len(program.args)))
    first = hml.grad(lambda *args: total(program.f(*args)), argnums=which)
    second = hml.grad(lambda *args: sum(hml.sin(g).sum() for g in first(*args)), argnums=which)
    check_traced(second, tensors(program), ops=4096)


def test_hessian_of_a_scan():
    def f(x):
        return hml.scan(lambda c, row: (c * hml.sin(row) + c, c), hml.asarray(1.0, dtype=hml.float64), x)[0]

    x = hml.asarray(np.linspace(0.1, 0.9, 4))
    eager = hml.hessian(f)(x).numpy()
    np.testing.assert_allclose(hml.function(hml.hessian(f))(x).numpy(), eager, rtol=1e-12)
    np.testing.assert_allclose(hml.hessian(hml.function(f))(x).numpy(), eager, rtol=1e-12)
    np.testing.assert_allclose(eager, eager.T)


def test_gradient_of_a_loop_longer_than_its_checkpoints(monkeypatch):
    from hybridml.trace.control import loop_gradient as gradient

    monkeypatch.setattr(gradient, "CHECKPOINTS", 3)

    def f(x, n):
        return hml.while_loop(lambda i, s: i < n, lambda i, s: (i + 1, hml.sin(s) + x), (0, x))[1].sum()

    x = hml.asarray([0.3, -0.4], dtype=hml.float64)
    traced = hml.function(hml.grad(f))
    for n in (0, 1, 3, 4, 10):
        np.testing.assert_allclose(
            traced(x, hml.asarray(n)).numpy(), hml.grad(f)(x, hml.asarray(n)).numpy(), rtol=1e-12
        )


def test_a_custom_rule_is_kept_in_graphs():
    """A rule that is not the derivative shows which one was used."""

    @hml.custom_gradient
    def half(x):
        return x * x, lambda g: g * 0.5

    def f(x):
        return half(hml.scan(lambda c, row: (half(c + row), None), x[0], x)[0]).sum()

    x = hml.asarray(np.linspace(0.1, 0.6, 6).reshape(3, 2))
    eager = hml.grad(f)(x).numpy()
    assert eager[2].tolist() == [0.25, 0.25]
    np.testing.assert_allclose(hml.function(hml.grad(f))(x).numpy(), eager)
    np.testing.assert_allclose(hml.grad(hml.function(f))(x).numpy(), eager)


def test_a_gradient_asked_inside_a_branch():
    @hml.function
    def f(x, ask):
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = hml.scan(lambda c, row: (hml.sin(c * row) + c, None), x[0], x)[0].sum()
        return hml.cond(ask, lambda: tape.gradient(y, x), lambda: hml.zeros_like(x))

    x = hml.asarray(np.linspace(0.1, 1.0, 6).reshape(3, 2))
    want = hml.grad(lambda x: hml.scan(lambda c, row: (hml.sin(c * row) + c, None), x[0], x)[0].sum())(x)
    np.testing.assert_allclose(f(x, hml.asarray(True)).numpy(), want.numpy(), rtol=1e-12)
    assert not f(x, hml.asarray(False)).numpy().any()


# variables


def test_variables_in_program_order():
    v, w = hml.Variable(1.0, name="v"), hml.Variable([2.0, 3.0], name="w")

    def f(x, n):
        v.assign_add(1.0)

        def body(i, s):
            v.assign(v * 2.0)
            hml.cond(i > 0, lambda: w.assign_add([1.0, 1.0]).value(), lambda: w.value())
            return i + 1, s + v * x.sum()

        out = hml.while_loop(lambda i, s: (i < n) & (v < 100.0), body, (0, 0.0))
        before = v.value()
        v.assign_sub(1.0)
        return out, before, w.value()

    check_traced(f, (hml.asarray([1.0, 2.0]), hml.asarray(3)), variables=(v, w))


def test_a_variable_is_loop_state_in_a_scan():
    v = hml.Variable(1.0)

    def f(xs):
        def step(c, x):
            v.assign_add(x)
            return c + v, v.value()

        return hml.scan(step, 0.0, xs)

    check_traced(f, (hml.asarray([1.0, 2.0, 3.0]),), variables=(v,))


def test_gradient_with_respect_to_a_variable_read_in_a_body():
    w = hml.Variable(np.array([[0.5, -0.2], [0.1, 0.4]]))

    def f(xs):
        with hml.GradientTape() as tape:
            h, ys = hml.scan(lambda h, x: (hml.tanh(h @ w + x), h), hml.zeros((1, 2), dtype=hml.float64), xs)
            loss = (h * h).sum() + ys.sum()
        return loss, tape.gradient(loss, w)

    xs = hml.asarray(np.linspace(-1, 1, 6).reshape(3, 1, 2))
    check_traced(f, (xs,), ops=64)


def test_a_tape_inside_a_body():
    def f(x):
        def body(i, x):
            with hml.GradientTape() as tape:
                tape.watch(x)
                y = (hml.sin(x) * x).sum()
            return i + 1, x - 0.1 * tape.gradient(y, x)

        return hml.while_loop(lambda i, x: i < 3, body, (0, x))[1]

    check_traced(f, (hml.asarray([0.5, 1.0]),), ops=16)
    check_grads(hml.function(f), (np.array([0.5, 1.0]),))


def test_a_variable_made_in_a_branch_is_made_once():
    made = []

    @hml.function
    def f(x):
        def branch():
            v = hml.Variable(2.0)
            made.append(v)
            return v.assign_add(1.0) * x

        return hml.cond(x > 0, branch, lambda: x)

    assert [float(f(hml.asarray(1.0))) for _ in range(3)] == [3.0, 4.0, 5.0]
    assert float(made[0].value()) == 5.0


def test_random_numbers_differ_between_iterations():
    def draws(n):
        return hml.scan(lambda c, _: (c, hml.random.uniform(())), 0.0, length=n)[1]

    hml.random.seed(4)
    eager = draws(5).numpy()
    hml.random.seed(4)
    traced = hml.function(lambda: draws(5))().numpy()
    assert len(set(eager.tolist())) == 5
    np.testing.assert_array_equal(traced, eager)


# what is decided when


def test_a_known_predicate_is_decided_while_tracing():
    seen = []

    @hml.function
    def f(x):
        one = hml.cond(True, lambda: x + 1, lambda: seen.append("no"))
        return hml.cond(hml.asarray(0), lambda: seen.append("no"), lambda: one * 2)

    assert f(hml.asarray(1.0)).item() == 4.0
    assert not seen
    assert all(n.op.name != "cond" for n in f.get_concrete_function(hml.asarray(1.0)).graph.nodes)


def test_python_objects_pass_through_a_branch():
    @hml.function
    def f(x):
        out = hml.cond(x > 0, lambda: ("relu", x, None, 3), lambda: ("relu", -x, None, 3))
        assert out[0] == "relu"
        assert out[2] is None
        return out[1] * out[3]

    assert f(hml.asarray(-2.0)).item() == 6.0


def test_python_numbers_take_the_dtype_across():
    f = hml.function(lambda x: hml.cond(x.sum() > 0, lambda: x.sum(), lambda: 0))
    out = f(hml.asarray([-1.0], dtype=hml.float64))
    assert (out.item(), out.dtype) == (0.0, hml.float64)


def test_map_fn_over_empty_rows_keeps_shapes():
    for f in (hml.map_fn, hml.function(hml.map_fn)):
        out = f(lambda x: {"s": x.sum(), "x": x > 0}, hml.zeros((0, 3)))
        assert out["s"].shape == (0,)
        assert out["x"].shape == (0, 3)
        assert out["x"].dtype == hml.bool_


# errors: what changed, both specs, the line, the cure


def scalar_loop(start, body):
    return lambda x: hml.while_loop(lambda i, s: i < 3, body(x), (0, start))


ERRORS = {
    "other nest": (
        lambda x: hml.cond(x.sum() > 0, lambda: (x, x), lambda: [x, x]),
        TraceError, r"true_fn returns tuple\(\*, \*\), false_fn returns list\(\*, \*\)",
    ),
    "other shape": (
        lambda x: hml.cond(x.sum() > 0, lambda: {"a": x}, lambda: {"a": x[0]}),
        ShapeError, r"`output\['a'\]` is float32\[3\] from true_fn and float32\[\] from false_fn.*reshape",
    ),
    "other dtype": (
        lambda x: hml.cond(x.sum() > 0, lambda: x, lambda: x > 0),
        DTypeError, r"`output` is float32\[3\] from true_fn and bool\[3\] from false_fn; cast",
    ),
    "other object": (
        lambda x: hml.cond(x.sum() > 0, lambda: "a", lambda: "b"),
        TraceError, r"`output` is str 'a' from true_fn and str 'b' from false_fn",
    ),
    "loop dtype": (
        scalar_loop(0, lambda x: lambda i, s: (i + 1, s + x.sum())),
        DTypeError, r"`loop_vars\[1\]` starts as int64\[\] and becomes float32\[\].*start it with 0.0, or cast",
    ),
    "loop shape": (
        scalar_loop(0.0, lambda x: lambda i, s: (i + 1, s + x)),
        ShapeError, r"`loop_vars\[1\]` starts as float32\[\] and becomes float32\[3\].*hml.scan",
    ),
    "loop nest": (
        scalar_loop(0.0, lambda x: lambda i, s: (i + 1,)),
        TraceError, r"`loop_vars` is tuple\(\*, \*\), the body returns tuple\(\*\)",
    ),
    "bounded loop": (
        lambda x: hml.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, {"s": x}), (0, {"s": 0.0}), maximum_iterations=5),
        ShapeError, r"`loop_vars\[1\]\['s'\]` starts as float32\[\] and becomes float32\[3\]",
    ),
    "carry": (
        lambda x: hml.scan(lambda c, row: ({"h": x}, None), {"h": 0.0}, x),
        ShapeError, r"`carry\['h'\]` starts as float32\[\] and becomes float32\[3\]",
    ),
    "no pair": (lambda x: hml.scan(lambda c, row: c, 0.0, x), TraceError, r"must return \(carry, y\), got"),
    "lengths": (
        lambda x: hml.scan(lambda c, row: (c, None), 0.0, (x, x[:2])),
        ShapeError, r"first axes of xs \[\(3,\), \(2,\)\] must be equal",
    ),
    "no length": (lambda x: hml.scan(lambda c, row: (c, None), 0.0), TraceError, "needs xs or a length"),
    "many predicates": (
        lambda x: hml.cond(x > 0, lambda: x, lambda: -x), ShapeError, r"must have one element, got bool\[3\]",
    ),
    "assignment in a condition": (
        lambda x: hml.while_loop(lambda s: STATE.assign_add(1.0) < 3, lambda s: s, (x,)), TraceError, "assigns a variable",
    ),
}  # fmt: skip
STATE = hml.Variable(0.0)


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    f, kind, message = ERRORS[name]
    with pytest.raises(kind, match=f"(?s){message}") as e:
        hml.function(f)(hml.asarray([1.0, 2.0, 3.0]))
    assert "test_control.py" in str(e.value)


def test_a_symbol_of_a_body_does_not_escape():
    kept = []

    @hml.function
    def f(x):
        hml.cond(x.sum() > 0, lambda: kept.append(x * 2), lambda: None)
        return kept[0] + 1

    with pytest.raises(TracerError, match=r"cond|true"):
        f(hml.asarray([1.0]))


# graphs


def test_printed_and_verified():
    @hml.function
    def f(x):
        return hml.cond(x.sum() > 0, lambda: x * 2, lambda: -x)

    graph = f.get_concrete_function(hml.asarray([1.0])).graph
    text = str(graph)
    assert "        graph true(" in text
    assert "        graph false(" in text
    node = next(n for n in graph.nodes if n.op.name == "cond")
    broken = Node(node.op, node.inputs[:1], node.attrs, node.outputs, node.source)
    with pytest.raises(GraphError, match="true branch takes"):
        verify(graph.replace(nodes=tuple([broken if n is node else n for n in graph.nodes])))


def test_keys_tell_branches_apart():
    def key(k):
        f = hml.function(lambda x: hml.cond(x.sum() > 0, lambda: x * k, lambda: -x))
        return f.get_concrete_function(hml.asarray([1.0])).graph.key()

    assert key(2.0) == key(2.0) != key(3.0)


def test_equal_looking_branches_are_not_merged():
    """Two conds on the same operands whose branches differ only in how values are wired."""

    @hml.function
    def f(x, y):
        p = x > y
        return hml.cond(p, lambda: x - y, lambda: x), hml.cond(p, lambda: y - x, lambda: x)

    a, b = f(hml.asarray(3.0), hml.asarray(1.0))
    assert (a.item(), b.item()) == (2.0, -2.0)
    c = f.get_concrete_function(hml.asarray(3.0), hml.asarray(1.0))
    assert [float(v) for v in interpret(c.optimized, [np.float32(3), np.float32(1)])[0]] == [2.0, -2.0]


# effects run, whoever reads the results


def test_checks_in_branches_and_bodies_without_results():
    def check(x):
        hml.check_finite(x, "not finite")

    def step(c, x):
        hml.cond(x > 0, lambda: check(x), lambda: None)
        return c, None

    @hml.function
    def f(xs):
        hml.scan(step, (), xs)
        return xs

    inf = float("inf")
    assert f.get_concrete_function(hml.asarray([1.0, 2.0])).stats.python_steps == 0
    f(hml.asarray([1.0, -inf]))
    with pytest.raises(NonFiniteError, match=r"(?s)not finite.*test_control.py"):
        f(hml.asarray([1.0, inf])).numpy()
    f(hml.asarray([1.0, 2.0]))
