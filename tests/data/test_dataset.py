"""Dataset against plain Python lists: the elements of every step and chain of steps, lengths, specs, order, threads."""

import gc
import threading
import time

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.errors import ShapeError

D = hml.data.Dataset
X, Y = np.arange(20, dtype=np.float32).reshape(10, 2), np.arange(10)


def plain(element):
    """An element as nested lists, so that == compares."""
    if isinstance(element, tuple):
        return tuple([plain(e) for e in element])
    if isinstance(element, dict):
        return {k: plain(e) for k, e in element.items()}
    return np.asarray(element).tolist()


def listed(data):
    return [plain(e) for e in data]


def source(kind):
    """The same ten numbers by random access and one after the other."""
    return {"tensors": D.range(10), "generator": D.from_generator(lambda: iter(range(10)))}[kind]


def batches(items, n, drop=False):
    groups = [items[i : i + n] for i in range(0, len(items), n)]
    return [g for g in groups if len(g) == n or not drop]


TEN = list(range(10))
STEPS = {
    "itself": (lambda d: d, TEN),
    "map": (lambda d: d.map(lambda x: x * 2), [2 * k for k in TEN]),
    "map by threads": (lambda d: d.map(lambda x: x * 2, num_parallel_calls=3), [2 * k for k in TEN]),
    "filter": (lambda d: d.filter(lambda x: x % 2 == 0), TEN[::2]),
    "batch": (lambda d: d.batch(4), batches(TEN, 4)),
    "batch, rest dropped": (lambda d: d.batch(4, drop_remainder=True), batches(TEN, 4, True)),
    "batch of batches": (lambda d: d.batch(2).batch(2), batches(batches(TEN, 2), 2)),
    "batch larger than all": (lambda d: d.batch(99), [TEN]),
    "take": (lambda d: d.take(3), TEN[:3]),
    "take more than there are": (lambda d: d.take(30), TEN),
    "take all": (lambda d: d.take(-1), TEN),
    "skip": (lambda d: d.skip(7), TEN[7:]),
    "skip more than there are": (lambda d: d.skip(70), []),
    "skip all": (lambda d: d.skip(-1), []),
    "repeat": (lambda d: d.repeat(3), TEN * 3),
    "repeat not at all": (lambda d: d.repeat(0), []),
    "repeat without end": (lambda d: d.repeat().take(25), (TEN * 3)[:25]),
    "enumerate": (lambda d: d.enumerate(5), [(k + 5, k) for k in TEN]),
    "zip": (lambda d: D.zip(d, d.skip(2)), [(k, k + 2) for k in TEN[:8]]),
    "zip of a nest": (lambda d: D.zip({"a": d, "b": (d,)}), [{"a": k, "b": (k,)} for k in TEN]),
    "prefetch": (lambda d: d.prefetch(2), TEN),
    "map of pairs": (lambda d: D.zip(d, d).map(lambda a, b: a + b), [2 * k for k in TEN]),
    "map, then batch": (lambda d: d.map(lambda x: {"a": x, "b": (x, x)}).batch(5),
                        [{"a": g, "b": (g, g)} for g in batches(TEN, 5)]),
    "batch, map, batch": (lambda d: d.batch(2).map(lambda x: x + 1).batch(2),
                          batches([[a + 1 for a in g] for g in batches(TEN, 2)], 2)),
    "skip, batch, take": (lambda d: d.skip(1).batch(3).take(2), [[1, 2, 3], [4, 5, 6]]),
    "everything": (lambda d: d.skip(1).map(lambda x: x * x).repeat(2).enumerate().batch(4).prefetch(1).take(2),
                   [([0, 1, 2, 3], [1, 4, 9, 16]), ([4, 5, 6, 7], [25, 36, 49, 64])]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["tensors", "generator"])
@pytest.mark.parametrize("case", STEPS)
def test_elements_are_those_of_plain_python_each_time(case, kind):
    step, expected = STEPS[case]
    data = step(source(kind))
    assert listed(data) == expected
    assert listed(data) == expected
    if kind == "tensors" and case != "filter":
        assert len(data) == len(expected)
    for e, numpy in zip(data, data.as_numpy_iterator(), strict=True):
        specs = pytree.leaves(data.element_spec)
        for t, s, a in zip(pytree.leaves(e), specs, pytree.leaves(numpy), strict=True):
            assert t.dtype == s.dtype and isinstance(a, np.ndarray)
            assert all(want in (None, got) for got, want in zip(t.shape, s.shape, strict=True))


def test_from_tensors_takes_rows_of_one_or_several_nested_or_not():
    assert listed(D.from_tensors([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert listed(D.from_tensors(X[:2], Y[:2])) == [([0.0, 1.0], 0), ([2.0, 3.0], 1)]
    assert listed(D.from_tensor_slices(({"x": X[:2]}, Y[:2]))) == [({"x": [0, 1]}, 0), ({"x": [2, 3]}, 1)]
    assert listed(D.range(2, 8, 3)) == [2, 5]
    assert listed(D.from_tensors(np.zeros((0, 3)))) == [] and len(D.from_tensors(np.zeros((0, 3)))) == 0
    (pair,) = D.from_tensors(X, Y).batch(10)
    assert isinstance(pair[0], hml.Tensor) and pair[0].dtype == np.float32


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: D.from_tensors(X, Y[:3]), ShapeError, r"equal first axes.*\(10, 2\), \(3,\)"),
        (lambda: D.from_tensors(3.0), ShapeError, "equal first axes"),
        (lambda: D.from_tensors(), TypeError, "at least one tensor"),
        (lambda: D.range(3).batch(0), ValueError, "batch_size must be a positive int, got 0"),
        (lambda: D.range(3).take(-2), ValueError, "must not be negative"),
        (lambda: D.range(3).repeat(-2), ValueError, "not negative"),
        (lambda: D.range(3).prefetch(0), ValueError, "buffer_size must be positive"),
        (lambda: D.range(3).shuffle(0), ValueError, "buffer_size must be positive"),
        (lambda: D.zip(D.range(3), [1]), TypeError, "zip takes datasets, got int"),
        (lambda: D.from_generator([1, 2]), TypeError, "function that returns an iterable"),
        (lambda: len(D.range(3).repeat()), TypeError, "without end"),
        (lambda: len(D.from_generator(lambda: [1])), TypeError, "not known"),
        (lambda: iter(D.from_generator(lambda: [1]).shuffle()), ValueError, "shuffle needs a buffer_size"),
        (lambda: D.from_generator(lambda: []).element_spec, ValueError, "give an output_signature"),
        (lambda: list(D.from_generator(lambda: [1, (1, 2)]).batch(2)), ShapeError, "nested alike"),
        (lambda: list(D.from_generator(lambda: iter([X[0], X])).batch(2)), ShapeError, "stack"),
    ],
)
def test_mistakes_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_empty_or_unbounded_dataset_is_true():
    assert D.range(0) and D.range(3).repeat() and D.from_generator(lambda: [])


def test_specs_say_what_varies():
    spec = hml.TensorSpec
    data = D.from_tensors(X, Y)
    assert data.element_spec == (spec((2,), hml.float32), spec((), hml.int64))
    assert data.batch(5).element_spec[0] == spec((5, 2), hml.float32)
    assert data.batch(3).element_spec[0] == spec((None, 2), hml.float32)
    assert data.batch(3, True).map(lambda x, y: x.sum()).element_spec == spec((), hml.float32)
    halved = data.batch(4).map(lambda x, y: {"x": x.T, "n": hml.ones(3)})
    assert halved.element_spec == {"x": spec((2, None), hml.float32), "n": spec((3,), hml.float32)}
    given = spec((None,), hml.int64)
    assert D.from_generator(lambda: [[1], [1, 2]], given).element_spec == given
    assert "float32[?, 2]" in repr(data.batch(3)) and "4 elements" in repr(data.batch(3))


def test_asking_for_a_spec_moves_no_random_numbers():
    data = D.range(10).shuffle().map(lambda x: x + hml.random.uniform(()))
    hml.random.seed(3)
    first = hml.random.uniform((2,)).tolist()
    hml.random.seed(3)
    _ = data.element_spec
    assert hml.random.uniform((2,)).tolist() == first


# shuffling


@pytest.mark.parametrize("kind", ["tensors", "generator"])
def test_shuffle(kind):
    data = source(kind).shuffle(10, seed=1)
    first, second = listed(data), listed(data)
    assert sorted(first) == sorted(second) == TEN
    assert first != TEN and first != second
    again = source(kind).shuffle(10, seed=1)
    assert [listed(again), listed(again)] == [first, second]
    same = source(kind).shuffle(10, seed=1, reshuffle_each_iteration=False)
    assert listed(same) == listed(same) != TEN
    hml.random.seed(5)
    one = listed(source(kind).shuffle(10))
    hml.random.seed(5)
    assert listed(source(kind).shuffle(10)) == one
    repeated = listed(source(kind).shuffle(10, seed=2).repeat(2))
    assert sorted(repeated[:10]) == sorted(repeated[10:]) == TEN and repeated[:10] != repeated[10:]


def test_a_small_buffer_keeps_early_elements_early():
    order = listed(source("generator").shuffle(2, seed=0))
    assert sorted(order) == TEN and all(k <= place + 1 or place >= k - 1 for place, k in enumerate(order))
    assert order[0] in (0, 1) and order != TEN


def test_rows_stay_together_and_ragged_batches_are_shuffled_through_the_buffer():
    for x, y in D.from_tensors(X, Y).shuffle(seed=0).batch(3):
        np.testing.assert_array_equal(x, X[np.asarray(y)])
    ragged = listed(D.range(10).batch(4).shuffle(5, seed=3))
    assert sorted(ragged) == batches(TEN, 4)
    even = listed(D.range(10).batch(5).shuffle(seed=3))
    assert sorted(even) == batches(TEN, 5)


# threads


def workers():
    return [t for t in threading.enumerate() if t.name.startswith(("hybridml-data", "hybridml-prefetch"))]


def test_prefetch_works_ahead_and_no_further():
    made = []

    def generate():
        for k in range(10):
            made.append(k)
            yield k

    iterator = iter(D.from_generator(generate).prefetch(3))
    assert int(next(iterator)) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) == 5  # one used, three waiting, one in hand
    iterator.close()
    assert len(made) == 5


@pytest.mark.parametrize(
    "step", [lambda d: d.prefetch(1), lambda d: d.map(lambda x: x, num_parallel_calls=2)], ids=["prefetch", "map"]
)  # fmt: skip
def test_exceptions_come_where_the_element_would_have_and_threads_end(step):
    def generate():
        yield from range(3)
        raise KeyError("broken file")

    got = []
    with pytest.raises(KeyError, match="broken file"):
        for e in step(D.from_generator(generate)):
            got.append(int(e))  # noqa: PERF401  (what came before the error counts)
    assert got[:1] == [0] and len(got) in (0, 1, 2, 3)
    assert workers() == []


def test_an_exception_in_map_is_the_users():
    def fail(x):
        if int(x) == 2:
            raise RuntimeError("element two")
        return x

    for workers_ in (None, 3):
        with pytest.raises(RuntimeError, match="element two"):
            list(D.range(5).map(fail, num_parallel_calls=workers_))


def test_threads_end_when_the_iteration_does():
    data = D.range(1000).map(lambda x: x, num_parallel_calls=2).prefetch(2)
    for e in data:
        if int(e) == 3:
            break
    del e
    gc.collect()
    iterator = iter(data)
    next(iterator)
    iterator.close()
    del iterator
    gc.collect()
    assert workers() == []


def test_a_tape_around_sees_nothing_of_the_threads():
    w = hml.Variable(2.0)
    with hml.GradientTape() as tape:
        loss = hml.asarray(0.0)
        for x in D.from_tensors([1.0, 2.0]).map(lambda x: x * 3, num_parallel_calls=2).prefetch():
            loss = loss + w * x
    assert float(tape.gradient(loss, w)) == 9.0
