"""DataLoader over anything with a length and items."""

import threading

import numpy as np
import pytest

import hybridml as hml

Loader = hml.data.DataLoader


class Squares:
    """As a user's dataset of files: items are made when asked for."""

    def __init__(self, n=10, bad=None):
        self.n, self.bad, self.asked = n, bad, []

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert type(i) is int
        self.asked.append(threading.current_thread().name)
        if i == self.bad:
            raise OSError(f"file {i}")
        return {"x": np.full((2,), i, np.float32), "y": i * i}


def numbers(loader):
    return [b["y"].tolist() for b in loader]


@pytest.mark.parametrize("num_workers", [0, 3])
def test_batches_in_order(num_workers):
    loader = Loader(Squares(), batch_size=4, num_workers=num_workers)
    expected = [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]
    assert numbers(loader) == numbers(loader) == expected and len(loader) == 3
    assert [b["x"].shape for b in loader] == [(4, 2), (4, 2), (2, 2)]
    dropped = Loader(Squares(), batch_size=4, drop_last=True, num_workers=num_workers)
    assert numbers(dropped) == expected[:2] and len(dropped) == 2


def test_workers_are_threads_and_shuffling_follows_the_seed():
    data = Squares(40)
    loader = Loader(data, batch_size=8, shuffle=True, num_workers=2, seed=1)
    first, second = numbers(loader), numbers(loader)
    assert first != second
    flat = sorted(k for b in first for k in b)
    assert flat == sorted(k for b in second for k in b) == [k * k for k in range(40)]
    assert numbers(Loader(data, batch_size=8, shuffle=True, seed=1)) == first
    assert any(name.startswith("hybridml-data") for name in data.asked)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_exceptions_and_early_ends(num_workers):
    with pytest.raises(OSError, match="file 7"):
        list(Loader(Squares(bad=7), batch_size=2, num_workers=num_workers))
    iterator = iter(Loader(Squares(), num_workers=num_workers))
    next(iterator)
    iterator.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("hybridml-data")]


def test_collate_lists_and_mistakes():
    loader = Loader([1.0, 2.0, 3.0], batch_size=2, collate_fn=lambda items: hml.asarray(sum(items)))
    assert [float(b) for b in loader] == [3.0, 3.0]
    assert [b.tolist() for b in Loader(np.arange(3), batch_size=2)] == [[0, 1], [2]]
    with pytest.raises(TypeError, match=r"Dataset\.from_generator"):
        Loader(iter([1]))
    for wrong in ({"batch_size": 0}, {"num_workers": -1}, {"prefetch_factor": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Loader([1], **wrong)


def test_specs_and_traced_loops():
    spec = hml.TensorSpec
    assert Loader(Squares(), 4).element_spec["x"] == spec((None, 2), hml.float32)
    loader = Loader(Squares(), 5, num_workers=2)
    assert loader.element_spec == {"x": spec((5, 2), hml.float32), "y": spec((5,), hml.int64)}

    @hml.function
    def total(data):
        s = 0.0
        for batch in data:
            s += hml.sum(batch["x"])
        return s

    assert float(total(loader)) == float(total(loader)) == 90.0
    assert total.cache_info().traces == 1
