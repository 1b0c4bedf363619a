"""Loops over datasets in traced functions: eager against traced, as one loop of the graph or one that asks Python at each turn."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import EndOfDataError, ShapeError, TraceError

D = hml.data.Dataset
X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
Y = np.arange(10)


def summed(data):
    total, n = hml.zeros((3,)), 0
    for x, y in data:
        total = total * 0.5 + hml.sum(x, axis=0) * hml.sum(y)
        n += 1
    return total, n


def until(data):
    """break, continue and else."""
    total, seen = 0.0, 0
    for x, y in data:
        if hml.sum(y) % 2 == 0:
            continue
        total += hml.sum(x) + 1.0
        seen += 1
        if seen == 2:
            break
    else:
        total = total - 100.0
    return total, seen


def returning(data):
    for x, y in data:
        if hml.max(y) > 3:
            return hml.sum(x)
    return hml.asarray(-1.0)


def numbered(data):
    total = hml.zeros((3,))
    for k, (x, _) in enumerate(data, 2):
        total = total + k * hml.sum(x, axis=0)
    return total


def beside(data):
    total = hml.zeros((3,))
    for (x, _), (_, y) in zip(data, data, strict=False):
        total = total + hml.sum(x, axis=0) * hml.max(y)
    return total


def nested(data):
    total = 0.0
    for _, y in data:
        for _, z in data:
            total += hml.sum(y) * hml.max(z)
    return total


def generated():
    return D.from_generator(lambda: zip(X, Y, strict=True))


SOURCES = {
    "rows": D.from_tensors(X, Y).map(lambda x, y: (x[None], y[None])),
    "even batches": D.from_tensors(X, Y).batch(5),
    "a smaller last batch": D.from_tensors(X, Y).batch(4),
    "one batch": D.from_tensors(X, Y).batch(10),
    "none": D.from_tensors(X[:0], Y[:0]).batch(4, drop_remainder=True),
    "shuffled": D.from_tensors(X, Y).shuffle(seed=3, reshuffle_each_iteration=False).batch(4),
    "repeated": D.from_tensors(X, Y).batch(4).repeat(2),
    "mapped, with control flow": D.from_tensors(X, Y).batch(5).map(lambda x, y: (x if hml.sum(x) > 0 else -x, y)),
    "repeated, then mapped": D.from_tensors(X, Y).batch(4).repeat(2).map(lambda x, y: (x + 1, y)).prefetch(1),
    "skipped, taken, prefetched": D.from_tensors(X, Y).skip(1).batch(2).take(3).prefetch(2),
    "batches of batches": D.from_tensors(X, Y).batch(2).map(lambda x, y: (x * 2, y)).batch(2).map(
        lambda x, y: (hml.reshape(x, (-1, 3)), hml.reshape(y, (-1,)))),
    "a generator": generated().batch(2, drop_remainder=True),
    "filtered": D.from_tensors(X, Y).batch(2).filter(lambda x, y: bool(y[0] != 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("f", [summed, until, returning, numbered, beside], ids=lambda f: f.__name__)
def test_traced_as_eager(f, name):
    data = SOURCES[name]
    if f is beside and name.startswith("repeated"):
        with pytest.raises(TraceError, match="drop_remainder"):
            hml.function(f)(data)
        data = D.from_tensors(X, Y).batch(5).repeat(2)
    want = f(data)
    g = hml.function(f)
    for _ in range(2):
        got = g(data)
        for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (got, want)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)
    assert g.cache_info().traces == 1


def test_loops_inside_loops():
    for name in ("even batches", "a generator"):
        assert float(hml.function(nested)(SOURCES[name])) == float(nested(SOURCES[name]))


def counts(concrete, op):
    return sum(n.op.name == op for n in concrete.graph.nodes)


def test_elements_from_tensors_are_one_loop_whatever_their_number():
    g = hml.function(summed)
    few, many = (
        g.get_concrete_function(D.from_tensors(np.zeros((n, 3), np.float32), np.arange(n)).batch(2)) for n in (8, 800)
    )  # fmt: skip
    assert counts(few, "scan") == counts(many, "scan") == 1
    assert len(few.graph.nodes) == len(many.graph.nodes)
    assert few.program.facts()["python_steps"] == 0
    assert (
        counts(g.get_concrete_function(D.from_tensors(X, Y).batch(4)), "scan") == 1
    )  # the last one is written out


def test_a_shuffled_dataset_is_in_another_order_at_each_call_and_follows_the_seed():
    data = D.from_tensors(Y).shuffle()

    @hml.function
    def order(data):
        seen = []
        for y in data:
            seen.append(y)  # noqa: PERF402  (what is traced)
        return hml.stack(seen)

    hml.random.seed(4)
    traced = [order(data).tolist() for _ in range(3)]
    hml.random.seed(4)
    eager = [[int(y) for y in data] for _ in range(3)]
    assert traced == eager and traced[0] != traced[1] and order.cache_info().traces == 1


def test_an_epoch_of_training_is_one_call():
    x = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    y = x @ np.float32([[1.0], [-2.0], [0.5]])

    def run(wrap):
        hml.random.seed(0)
        data = D.from_tensors(x, y).shuffle(seed=7).batch(10)
        model, optimizer = hml.nn.Dense(1, kernel_initializer="zeros"), hml.optim.Adam(0.05)

        @wrap
        def epoch():
            total = 0.0
            for a, b in data:
                with hml.GradientTape() as tape:
                    loss = hml.mean((model(a) - b) ** 2)
                weights = model.trainable_variables
                optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
                total += loss
            return total

        return [float(epoch()) for _ in range(12)]

    eager, traced = run(lambda f: f), run(hml.function)
    np.testing.assert_allclose(traced, eager, rtol=1e-3)
    assert traced[-1] < traced[0] / 20


def test_data_without_end_runs_until_a_break():
    @hml.function
    def f(data, limit):
        total = 0
        for y in data:
            total += y
            if total > limit:
                break
        return total

    data = D.from_tensors(Y).repeat()
    assert [int(f(data, hml.asarray(k))) for k in (10, 100)] == [15, 105]
    assert f.cache_info().traces == 1


def test_elements_of_other_shapes_are_refused_with_the_cure():
    with pytest.raises(TraceError, match=r"drop_remainder=True"):
        hml.function(summed)(generated().batch(3))
    lengths = D.from_generator(lambda: (np.zeros(n, np.float32) for n in (1, 1, 2)))

    @hml.function
    def f(data):
        n = 0.0
        for x in data:
            n += hml.sum(x)
        return n

    with pytest.raises(ShapeError, match=r"traced for float32\[1\]"):
        f(lengths)


def test_an_exception_of_the_generator_comes_out():
    def generate():
        yield X[0], Y[0]
        raise KeyError("broken file")

    with pytest.raises(KeyError, match="broken file"):
        hml.function(summed)(D.from_generator(generate).batch(1, True))


def test_a_comprehension_is_written_out():
    f = hml.function(lambda data: hml.stack([hml.sum(x) for x, _ in data]))
    np.testing.assert_allclose(
        f(SOURCES["a smaller last batch"]), [X[i : i + 4].sum() for i in (0, 4, 8)], rtol=1e-5
    )


def test_next_on_an_iterator_from_outside_pulls_at_each_call():
    numbers = iter(D.from_tensors(Y).batch(3, drop_remainder=True))
    f = hml.function(lambda: next(numbers) * 2)
    assert [f().tolist() for _ in range(3)] == [[0, 2, 4], [6, 8, 10], [12, 14, 16]]
    with pytest.raises(EndOfDataError, match="come to its end"):
        f()
    with pytest.raises(StopIteration):
        f()
    assert f.cache_info().traces == 1


def test_next_on_an_iterator_made_inside_is_python():
    def first(data):
        x, y = next(iter(data))
        return hml.sum(x) * y[0]

    data = D.from_tensors(X, Y).skip(2).batch(2)
    assert float(hml.function(first)(data)) == pytest.approx(float(first(data)), rel=1e-5)


def test_gradients_go_through_the_loop():
    w = hml.Variable(np.float32([1.0, 2.0, 3.0]))

    def loss(data):
        h = hml.zeros((3,))
        for x, _ in data:
            h = hml.tanh(h * w + hml.mean(x, axis=0))
        return hml.sum(h)

    for name in ("even batches", "a smaller last batch", "repeated"):
        data = SOURCES[name]
        found = []
        for f in (loss, hml.function(loss)):
            with hml.GradientTape() as tape:
                value = f(data)
            found.append(tape.gradient(value, w))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
