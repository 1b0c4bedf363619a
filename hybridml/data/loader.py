"""DataLoader: batches of anything that has a length and items, loaded by threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import hybridml as hml
from hybridml.data import nests, threads
from hybridml.data.stream import Stream


class DataLoader(Stream):
    """Batches of a dataset with `__len__` and `__getitem__` (a list, an array, a PyTorch dataset), in order or shuffled.

    shuffle: another order at each iteration, of `hml.random.Generator(seed)` or the default generator. num_workers: threads that call
    `__getitem__` ahead of use; what they raise is raised here. drop_last: leave out a smaller last batch. collate_fn: makes a batch of a
    list of items; by default tensors are stacked in the items' nest.

    >>> import hybridml as hml
    >>> items = [(float(i), i % 2) for i in range(5)]
    >>> [(x.tolist(), y.tolist()) for x, y in hml.data.DataLoader(items, batch_size=2, num_workers=2)]
    [([0.0, 1.0], [0, 1]), ([2.0, 3.0], [0, 1]), ([4.0], [0])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        seed: int | None = None,
        prefetch_factor: int = 2,
    ) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"DataLoader takes an object with __len__ and __getitem__, got {type(dataset).__name__}; "
                "for an iterable use hml.data.Dataset.from_generator"
            )
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
        ):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {value!r}")
        self.dataset, self.batch_size, self.shuffle = dataset, int(batch_size), shuffle
        self.num_workers, self.drop_last, self.prefetch_factor = num_workers, drop_last, prefetch_factor
        self._collate = collate_fn if collate_fn is not None else collate
        self._generator = hml.random.default if seed is None else hml.random.Generator(seed)

    def __len__(self) -> int:
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __bool__(self) -> bool:
        return True

    def _start(self) -> Iterator[Any]:
        n = len(self.dataset)
        order = self._generator.permutation(n).numpy() if self.shuffle else np.arange(n)
        groups = (order[k * self.batch_size : (k + 1) * self.batch_size] for k in range(len(self)))
        if not self.num_workers:
            return (self._load(g) for g in groups)
        return threads.in_order(self._load, groups, self.num_workers, self.num_workers * self.prefetch_factor)

    def _load(self, indices: Any) -> Any:
        return self._collate([self.dataset[int(i)] for i in indices])

    def _even(self) -> bool:
        return self.drop_last or len(self.dataset) % self.batch_size == 0

    def _peek(self, short: bool = False) -> Any:
        n = len(self.dataset)
        if not n:
            raise ValueError("the dataset is empty, so what its elements are is not known")
        return self._load(range(n % self.batch_size if short else min(self.batch_size, n)))


def collate(items: list[Any]) -> Any:
    """Items stacked: numbers, arrays and tensors at the ends of equal nests."""
    return nests.stack(items)
