"""hml.checkpoint: the same values and gradients, and less that is kept."""

import numpy as np
import pytest

import hybridml as hml

rng = np.random.default_rng(1)
X = hml.asarray(rng.normal(size=(8, 4)).astype(np.float32))
W = hml.Variable(rng.normal(size=(4, 4)).astype(np.float32) / 2, name="w")
PLAIN = {"plain": lambda f: f, "checkpointed": hml.checkpoint}


def layer(h):
    return hml.tanh(hml.tanh(h @ W) @ W)


def loss_of(wrap, depth=4):
    def loss(x):
        for _ in range(depth):
            x = wrap(layer)(x)
        return (x * x).sum()

    return loss


def gradients(loss, x):
    with hml.GradientTape() as tape:
        tape.watch(x)
        value = loss(x)
    return tape.gradient(value, [x, W])


HOW = {
    "eager": lambda loss: lambda x: gradients(loss, x),
    "traced": lambda loss: hml.function(lambda x: gradients(loss, x)),
    "tape around a traced function": lambda loss: lambda x: gradients(hml.function(loss), x),
    "second order": lambda loss: lambda x: hml.hessian(loss)(x[:2]),
    "second order, traced": lambda loss: hml.function(lambda x: hml.hessian(loss)(x[:2])),
    "second order around a traced function": lambda loss: lambda x: hml.hessian(hml.function(loss))(x[:2]),
}


@pytest.mark.parametrize("how", HOW)
def test_gradients_are_equal(how):
    plain, again = (hml.pytree.leaves(HOW[how](loss_of(wrap, 2))(X)) for wrap in PLAIN.values())
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def held_bytes(tape):
    """Bytes of all arrays that a tape's entries reach."""
    import gc

    seen, found, todo = set(), {}, [tape._entries]
    while todo:
        x = todo.pop()
        if (
            id(x) in seen
            or isinstance(x, (type, type(gc)))
            or (callable(x) and getattr(x, "__closure__", None) is None)
        ):
            continue
        seen.add(id(x))
        array = getattr(x, "_array", x)
        if isinstance(array, np.ndarray):
            found[id(array)] = array.nbytes
            continue
        inner = [c.cell_contents for c in getattr(x, "__closure__", None) or ()]
        todo += (
            inner if inner else [r for r in gc.get_referents(x) if not isinstance(r, dict) or len(r) < 100]
        )
    return sum(found.values())


def test_the_tape_holds_less():
    held, entries = {}, {}
    for name, wrap in PLAIN.items():
        with hml.GradientTape() as tape:
            tape.watch(X)
            loss_of(wrap)(X)
        held[name], entries[name] = held_bytes(tape), len(tape._entries)
    assert entries == {
        "plain": 18,
        "checkpointed": 6,
    }  # two products and two tanh a layer; then square and sum
    assert held["checkpointed"] < 0.6 * held["plain"]


def test_a_traced_step_needs_a_smaller_arena_and_keeps_fewer_residuals():
    spec = hml.TensorSpec((512, 4), hml.float32)
    arena, residuals = {}, {}
    for name, wrap in PLAIN.items():
        arena[name] = (
            hml.function(lambda x, w=wrap: gradients(loss_of(w, 6), x))
            .get_concrete_function(spec)
            .stats.arena_bytes
        )
        split = hml.function(loss_of(wrap, 6)).get_concrete_function(spec)._pure._split
        residuals[name] = sum(v.spec.nbytes for v in split.forward.outputs[1:])
    assert arena["checkpointed"] < 0.75 * arena["plain"]
    assert residuals["checkpointed"] < 0.5 * residuals["plain"]


@pytest.mark.parametrize("how", ["eager", "traced"])
def test_random_numbers_of_the_second_run_are_those_of_the_first(how):
    generator = hml.random.Generator(5)

    def dropout(x):
        return x * (generator.uniform(x.shape) < 0.5)

    def run(x):
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = hml.checkpoint(dropout)(x)
            loss = (y * y).sum()
        return y, tape.gradient(loss, x)

    y, g = (hml.function(run) if how == "traced" else run)(X)
    np.testing.assert_allclose(g, 2 * y.numpy(), rtol=1e-6)
    assert generator.state.numpy()[1] == 8  # 32 numbers, drawn once as far as the generator knows


@pytest.mark.parametrize("how", ["eager", "traced"])
def test_assignments_happen_once_and_the_second_run_sees_the_first_ones_variables(how):
    count, scale = hml.Variable(0), hml.Variable(3.0)

    def inner(x):
        count.assign_add(1)
        return x * scale * scale

    def run(x):
        with hml.GradientTape() as tape:
            tape.watch(x)
            y = hml.checkpoint(inner)(x).sum()
            scale.assign(100.0)
        return tape.gradient(y, x)

    g = (hml.function(run) if how == "traced" else run)(X)
    np.testing.assert_array_equal(g, np.full(X.shape, 9, np.float32))
    assert int(count) == 1 and float(scale) == 100.0


@pytest.mark.parametrize("how", ["eager", "traced"])
def test_closures_structures_and_what_is_handed_through(how):
    def run(x, y):
        with hml.GradientTape() as tape:
            tape.watch([x, y])
            z = y * 2
            out = hml.checkpoint(lambda a, *, k: {"sum": a + z, "same": a, "k": k})(x, k=3)
            loss = (out["sum"] * out["same"]).sum() * out["k"]
        return tape.gradient(loss, [x, y])

    gx, gy = (hml.function(run) if how == "traced" else run)(X, X * 0.5)
    np.testing.assert_allclose(gx, 9 * X.numpy(), rtol=1e-6)
    np.testing.assert_allclose(gy, 6 * X.numpy(), rtol=1e-6)


def test_without_a_tape_nothing_is_different():
    np.testing.assert_array_equal(hml.checkpoint(layer)(X), layer(X))
    graph = hml.function(hml.checkpoint(layer)).get_concrete_function(X)
    assert all(n.op.name != "checkpoint" for n in graph.optimized.nodes)
