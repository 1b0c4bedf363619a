"""vmap against a loop over the examples: eager, traced, nested, around and under gradients, through control flow."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree

rng = np.random.default_rng(0)
X = rng.normal(size=(4, 3)).astype(np.float32)
W = hml.Variable(rng.normal(size=(3, 3)).astype(np.float32), name="w")


def loop(f, xs):
    rows = [f(hml.asarray(x)) for x in xs]
    return pytree.map(lambda *each: np.stack([np.asarray(e) for e in each]), *rows)


def close(got, expected, **tolerance):
    for a, b in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, **({"rtol": 2e-5, "atol": 2e-6} | tolerance))


def per_example_gradient(x):
    with hml.GradientTape() as tape:
        loss = (hml.tanh(x @ W) ** 2).sum()
    return tape.gradient(loss, W)


@hml.custom_gradient
def clipped(x):
    return x * 1, lambda g: hml.clip(g, -0.5, 0.5)


def collatz(x):
    return hml.while_loop(
        lambda n, s: (s < 4.0) & (n < 20), lambda n, s: (n + 1, s * 1.5), (0, hml.exp(x.sum()))
    )


FUNCTIONS = {
    "elementwise and reductions": lambda x: (hml.tanh(x) * x).sum(),
    "a matrix product with what all share": lambda x: x @ W,
    "softmax": hml.nn.softmax,
    "indexing": lambda x: (x[0], x[::-1], x[hml.asarray([2, 0])]),
    "several results": lambda x: {"a": x + 1, "b": (x.sum(), hml.argmax(x))},
    "a result that does not depend on the example": lambda x: (x, hml.ones((2,)), 3.0),
    "gradient of each example": hml.grad(lambda x: hml.exp(x).prod()),
    "gradient of each example by a variable": per_example_gradient,
    "second derivatives of each example": hml.hessian(lambda x: (x**3).sum()),
    "jvp": lambda x: hml.jvp(hml.tanh, (x,), (hml.ones_like(x),)),
    "a rule of one's own": hml.grad(lambda x: (clipped(x) * 10 * x).sum()),
    "a checkpointed function": hml.grad(hml.checkpoint(lambda x: hml.sin(hml.exp(x)).sum())),
    "a branch for each example": lambda x: hml.cond(x.sum() > 0, lambda: x * 2, lambda: x - 1),
    "a branch for all": lambda x: hml.cond(W.value().sum() > 0, lambda: (x * 2, 1.0), lambda: (x - 1, 0.0)),
    "gradient of a branch": hml.grad(lambda x: hml.cond(x.sum() > 0, lambda: (x * x).sum(), lambda: x.sum())),
    "a loop of its own length for each example": collatz,
    "a scan": lambda x: hml.scan(lambda c, r: (c * 0.5 + r, c), hml.zeros(()), x),
    "a scan over what all share": lambda x: hml.scan(lambda c, r: (hml.tanh(c @ W) + r, c.sum()), x, hml.ones((5, 3)))[0],
    "gradient of a scan": hml.grad(lambda x: hml.scan(lambda c, r: (c * c + r, c), hml.zeros(()), x)[0]),
    "nested": lambda x: hml.vmap(lambda a: hml.vmap(lambda b: a * b + x.sum())(x))(x),
    "a traced function": hml.function(lambda x: hml.tanh(x).sum()),
    "gradient of a traced function": hml.grad(hml.function(lambda x: hml.tanh(x).sum())),
}  # fmt: skip


@pytest.mark.parametrize("case", FUNCTIONS)
@pytest.mark.parametrize("how", ["eager", "traced"])
def test_equals_a_loop(case, how):
    f = hml.vmap(FUNCTIONS[case])
    close((hml.function(f) if how == "traced" else f)(X), loop(FUNCTIONS[case], X))


DIFFERENTIABLE = [c for c in FUNCTIONS if not c.startswith(("several", "a loop", "a result"))]


@pytest.mark.parametrize("case", DIFFERENTIABLE)
@pytest.mark.parametrize("how", ["eager", "traced", "around a traced function"])
def test_gradient_through_vmap(case, how):
    def total(out):
        return sum((hml.asarray(x) ** 2).sum() for x in pytree.leaves(out))

    def gradients(f):
        f = hml.function(f) if how.startswith("around") else f

        def run(x):
            with hml.GradientTape() as tape:
                tape.watch(x)
                loss = total(f(x))
            return tape.gradient(loss, [x, W], unconnected_gradients="zero")

        return (hml.function(run) if how == "traced" else run)(hml.asarray(X))

    each = FUNCTIONS[case]
    mapped = gradients(hml.vmap(each))
    with hml.GradientTape(persistent=True) as tape:
        rows = [hml.asarray(x) for x in X]
        tape.watch(rows)
        loss = sum(total(each(r)) for r in rows)
    close(
        mapped[0],
        np.stack([tape.gradient(loss, r, unconnected_gradients="zero") for r in rows]),
        rtol=1e-4,
        atol=1e-4,
    )
    close(mapped[1], tape.gradient(loss, W, unconnected_gradients="zero"), rtol=1e-4, atol=1e-4)


def test_axes():
    a, b = X, rng.normal(size=(3, 4)).astype(np.float32)
    f = hml.vmap(lambda x, y: x + y, in_axes=(0, 1))
    np.testing.assert_array_equal(f(a, b), a + b.T)
    np.testing.assert_array_equal(
        hml.vmap(lambda x, y: x + y, in_axes=(0, -1), out_axes=1)(a, b), (a + b.T).T
    )
    np.testing.assert_array_equal(
        hml.vmap(lambda x, y: x @ y, in_axes=(0, None))(a, b), np.stack([r @ b for r in a])
    )
    nest = {"a": a, "b": (b, 2.0)}
    g = hml.vmap(
        lambda n: {"s": n["a"] * n["b"][1], "t": n["b"][0]},
        in_axes=({"a": 0, "b": (1, None)},),
        out_axes={"s": 0, "t": 1},
    )
    out = g(nest)
    np.testing.assert_array_equal(out["s"], a * 2)
    np.testing.assert_array_equal(out["t"], b)
    np.testing.assert_array_equal(hml.vmap(lambda x, k: x * k)(a, k=a[:, 0]), a * a[:, :1])
    assert hml.vmap(lambda x: (x, "name", None), out_axes=(0, None, None))(a)[1:] == ("name", None)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: hml.vmap(lambda x, y: x, in_axes=0)(X, X[:2]), hml.errors.ShapeError, "different numbers of examples"),
        (lambda: hml.vmap(lambda x: x, in_axes=None)(X), ValueError, "nothing to map"),
        (lambda: hml.vmap(lambda x: x, in_axes=(0,))(3.0), TypeError, "in_axes None"),
        (lambda: hml.vmap(lambda x: x)(hml.asarray(3.0)), hml.errors.ShapeError, "no dimensions"),
        (lambda: hml.vmap(lambda x: x, in_axes=(0, 0))(X), ValueError, "does not fit"),
        (lambda: hml.vmap(lambda x: x, in_axes=2)(X), hml.errors.ShapeError, "out of range"),
        (lambda: hml.vmap(lambda x: x, out_axes=None)(X), ValueError, "differs from example to example"),
        (lambda: hml.vmap(lambda x: float(x.sum()))(X), hml.errors.TracerError, "for each of 4 examples at once"),
        (lambda: hml.vmap(lambda x: x.numpy())(X), hml.errors.TracerError, "hml.where"),
        (lambda: hml.vmap(lambda x: x if x.sum() > 0 else -x)(X), hml.errors.TracerError, "`if` or `while`"),
        (lambda: hml.vmap(lambda x: W.assign(x * hml.ones((3, 1))))(X), hml.errors.TracerError, "cannot be assigned"),
        (lambda: hml.vmap(lambda x: x[x > 0])(X), hml.errors.ShapeError, "hml.where"),
    ],
    ids=lambda x: x.replace(" ", "-") if isinstance(x, str) else "",
)  # fmt: skip
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_an_escaped_example_says_so():
    kept = []
    hml.vmap(lambda x: kept.append(x) or x)(X)
    with pytest.raises(hml.errors.TracerError, match="after the mapped function ended"):
        kept[0] + 1


@pytest.mark.parametrize("how", ["eager", "traced"])
def test_random_numbers_differ_between_examples_and_repeat_with_the_seed(how):
    generator = hml.random.Generator(3)

    def noisy(x):
        return x + generator.normal(x.shape)

    f = hml.vmap(noisy)
    f = hml.function(f) if how == "traced" else f
    first, second = f(X).numpy() - X, f(X).numpy() - X
    assert len(np.unique(first)) == first.size and not np.array_equal(first, second)
    generator.seed(3)
    np.testing.assert_array_equal(f(X).numpy() - X, first)


def test_a_vmap_is_traced_into_kernels_for_all_examples_at_once():
    f = hml.function(hml.vmap(hml.grad(lambda x: hml.tanh(x).sum())))
    small, large = (f.get_concrete_function(hml.TensorSpec((n, 3), hml.float32)) for n in (4, 64))
    assert len(small.optimized.nodes) == len(large.optimized.nodes)
    assert small.stats.python_steps == large.stats.python_steps == 0


def branching(x):
    """Python's own control flow on one example."""
    if x.sum() > 0 and x[0] < 1.5:
        y = x * 2
        big = True
    elif x[1] > 0:
        y = -x
        big = False
    else:
        return x * 100
    for v in x:
        y = y + v
    return (y, -y)[0] if big else y - 1


def test_converted_python_branches_for_each_example():
    one = hml.function(branching)
    expected = [one(hml.asarray(x)).numpy() for x in X]
    assert len({tuple(np.sign(e - x)) for e, x in zip(expected, X, strict=True)}) > 1
    for f in (
        hml.function(hml.vmap(branching)),
        hml.vmap(one),
        hml.function(lambda x: hml.vmap(branching)(x)),
    ):
        np.testing.assert_allclose(f(X), expected, rtol=1e-5)


def test_converted_branches_on_what_all_examples_share():
    @hml.function
    def f(x, flag):
        def one(row):
            if flag > 0:
                row = row * 2
            return row.sum()

        return hml.vmap(one)(x)

    for flag in (1.0, -1.0):
        np.testing.assert_allclose(f(X, hml.asarray(flag)), X.sum(1) * (2 if flag > 0 else 1), rtol=1e-5)


def test_what_cannot_differ_between_examples_says_so():
    count = hml.Variable(0.0, name="count")

    @hml.function
    def assigning(x):
        if x.sum() > 0:
            count.assign_add(1.0)
        return x

    @hml.function
    def looping(x):
        while x.sum() < 10:
            x = x + 1
        return x

    with pytest.raises(hml.errors.TraceError, match=r'Variable."count".* is assigned under .*hml\.where'):
        hml.vmap(assigning)(X)
    with pytest.raises(hml.errors.TraceError, match=r"is assigned under hml\.cond"):
        hml.vmap(lambda x: hml.cond(x.sum() > 0, lambda: count.assign_add(1.0) * x, lambda: x))(X)
    with pytest.raises(hml.errors.TraceError, match=r"hml\.while_loop"):
        hml.vmap(looping)(X)
    assert float(count) == 0


def test_transformations_made_before_the_trace_convert_their_function():
    def f(x):
        if x.sum() > 0:
            return (x * x).sum()
        return x.sum()

    for x in X:
        expected = 2 * x if x.sum() > 0 else np.ones(3)
        for g in (hml.grad(f), hml.grad(hml.checkpoint(f)), lambda x: hml.vjp(f, x)[1](hml.ones(()))[0]):
            np.testing.assert_allclose(hml.function(g)(x), expected, rtol=1e-6)
