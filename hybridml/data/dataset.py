"""Dataset: a chain of steps from tensors or a generator to batches."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

import hybridml as hml
from hybridml import pytree
from hybridml.data import nests, threads, views
from hybridml.data.stream import Stream
from hybridml.data.views import View


class Dataset(Stream):
    """Elements that can be gone over again and again; each method gives a new dataset and leaves this one as it is.

    An element is a tensor or a nest of tensors. In a traced function, `for x, y in dataset` is a loop of the graph where the elements
    come from tensors, and one that asks Python for each element where they come from a generator.

    >>> import hybridml as hml
    >>> data = hml.data.Dataset.from_tensors([1., 2., 3., 4., 5.], [0, 1, 0, 1, 0]).batch(2)
    >>> [(x.tolist(), y.tolist()) for x, y in data], len(data)
    ([([1.0, 2.0], [0, 1]), ([3.0, 4.0], [0, 1]), ([5.0], [0])], 3)
    """

    # where elements come from

    @staticmethod
    def from_tensors(*tensors: Any) -> Dataset:
        """The rows of tensors: an element is one row of each, a tuple where there are several tensors.

        Raises ShapeError unless the first axes are equal.
        """
        if not tensors:
            raise TypeError("from_tensors takes at least one tensor")
        return _Tensors(nests.tensors(tensors[0] if len(tensors) == 1 else tuple(tensors)))

    @staticmethod
    def from_tensor_slices(tensors: Any) -> Dataset:
        """The rows of a nest of tensors (a tensor, a tuple or a dict), each a nest alike: TensorFlow's name and argument.

        >>> import hybridml as hml
        >>> [e["a"].item() for e in hml.data.Dataset.from_tensor_slices({"a": [1, 2], "b": [3, 4]})]
        [1, 2]
        """
        return _Tensors(nests.tensors(tensors))

    @staticmethod
    def range(*args: int) -> Dataset:
        """The integers of Python's `range`."""
        return _Tensors(hml.asarray(np.arange(*args, dtype=np.int64)))

    @staticmethod
    def from_generator(generator: Callable[[], Iterable[Any]], output_signature: Any = None) -> Dataset:
        """What `generator()` yields; it is called once for each iteration.

        output_signature: a nest of TensorSpecs that elements have, None for sizes that vary; else the first element tells.
        """
        if not callable(generator):
            raise TypeError(
                f"from_generator takes a function that returns an iterable, got {type(generator).__name__}; use a lambda"
            )
        return _Generated(generator, output_signature)

    @staticmethod
    def zip(*datasets: Any) -> Dataset:
        """Elements of several datasets side by side, until the shortest ends; also a nest of datasets, as in TensorFlow.

        >>> import hybridml as hml
        >>> a, b = hml.data.Dataset.range(3), hml.data.Dataset.range(10, 20)
        >>> [(int(x), int(y)) for x, y in hml.data.Dataset.zip(a, b)]
        [(0, 10), (1, 11), (2, 12)]
        """
        return _Zipped(datasets[0] if len(datasets) == 1 else tuple(datasets))

    # steps

    def map(self, f: Callable[..., Any], num_parallel_calls: int | None = None) -> Dataset:
        """`f` of each element; a tuple is several arguments. num_parallel_calls: threads; the order stays."""
        return _Mapped(self, f, num_parallel_calls)

    def filter(self, predicate: Callable[..., Any]) -> Dataset:
        """The elements for which `predicate` is true."""
        return _Filtered(self, predicate)

    def shuffle(
        self, buffer_size: int | None = None, seed: int | None = None, reshuffle_each_iteration: bool = True
    ) -> Dataset:
        """Another order at each iteration.

        Elements that come from tensors are shuffled as a whole, whatever the buffer; those of a generator are drawn from a buffer of
        `buffer_size`. seed: the orders are those of `hml.random.Generator(seed)`, else of the default generator.
        """
        return _Shuffled(self, buffer_size, seed, reshuffle_each_iteration)

    def batch(self, batch_size: int, drop_remainder: bool = False) -> Dataset:
        """`batch_size` elements stacked; the last batch may be smaller, or is left out."""
        return _Batched(self, batch_size, drop_remainder)

    def repeat(self, count: int | None = None) -> Dataset:
        """Over and over, `count` times or without end."""
        return _Repeated(self, count)

    def take(self, count: int) -> Dataset:
        """The first `count` elements; all of them for -1."""
        return _Part(self, 0, None if count == -1 else count)

    def skip(self, count: int) -> Dataset:
        """All but the first `count` elements; none for -1."""
        return _Part(self, 0, 0) if count == -1 else _Part(self, count, None)

    def enumerate(self, start: int = 0) -> Dataset:
        """(number, element) for each element."""
        return _Enumerated(self, start)

    def prefetch(self, buffer_size: int = 2) -> Dataset:
        """Up to `buffer_size` elements ahead of their use, in a thread that ends with the iteration."""
        return _Prefetched(self, buffer_size)

    # results

    def as_numpy_iterator(self) -> Iterator[Any]:
        """The elements as NumPy arrays."""
        return (pytree.map(lambda x: x.numpy(), e) for e in self)

    def __len__(self) -> int:
        n = self._count()
        if n is None:
            raise TypeError("the length of this dataset is not known before it is iterated")
        if n == math.inf:
            raise TypeError("this dataset repeats without end and has no length; give repeat() a count")
        return int(n)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        n = self._count()
        return f"<Dataset of {'?' if n is None else n} elements {self.element_spec}>"

    # what subclasses say

    def _count(self) -> float | None:
        """The number of elements, infinity, or None where it is not known."""
        raise NotImplementedError(f"{type(self).__name__} must define _count")

    def _view(self) -> View | None:
        """Random access for one iteration, or None."""
        return None

    def _parts(self) -> list[Callable[[], View]] | None:
        """Iterations by random access, one after the other, or None. They draw their orders when they are called."""
        return [self._some_view] if self._has_view() else None

    def _has_view(self) -> bool:
        return False

    def _some_view(self) -> View:
        view = self._view()
        assert view is not None
        return view

    def _start(self) -> Iterator[Any]:
        view = self._some_view()
        return (view.get(i) for i in range(view.length))

    def __tensor_parts__(self) -> list[Callable[[], View]] | None:
        """For the loops of traced functions: (length, how many of them have one spec, element at an index), in turn."""
        return self._parts()


class _Tensors(Dataset):
    def __init__(self, data: Any) -> None:
        self._data, self._n = data, nests.rows(data)

    def _count(self) -> float | None:
        return self._n

    def _has_view(self) -> bool:
        return True

    def _view(self) -> View | None:
        return views.of_tensors(self._data, self._n)

    def _peek(self, short: bool = False) -> Any:
        return pytree.map(
            lambda x: hml.zeros(x.shape[1:], dtype=x.dtype) if not self._n else x[0], self._data
        )


class _Generated(Dataset):
    def __init__(self, generator: Callable[[], Iterable[Any]], signature: Any) -> None:
        self._generator, self._signature = generator, signature

    def _count(self) -> float | None:
        return None

    def _start(self) -> Iterator[Any]:
        return (nests.tensors(e) for e in self._generator())

    @property
    def element_spec(self) -> Any:
        return super().element_spec if self._signature is None else self._signature

    def _peek(self, short: bool = False) -> Any:
        if self._signature is not None:
            return pytree.map(lambda s: hml.zeros([d or 1 for d in s.shape], dtype=s.dtype), self._signature)
        for element in self._start():
            return element
        raise ValueError(
            "the generator yields nothing, so what its elements are is not known; give an output_signature"
        )


class _Step(Dataset):
    """A step over one dataset, which most of the time has as many elements, and elements alike."""

    def __init__(self, inner: Dataset) -> None:
        self._inner = inner

    def _count(self) -> float | None:
        return self._inner._count()

    def _has_view(self) -> bool:
        return self._inner._has_view()

    def _even(self) -> bool:
        return self._inner._even()

    def _peek(self, short: bool = False) -> Any:
        return self._inner._peek(short)

    @property
    def element_spec(self) -> Any:
        return self._inner.element_spec


class _Mapped(_Step):
    def __init__(self, inner: Dataset, f: Callable[..., Any], workers: int | None) -> None:
        super().__init__(inner)
        self._f, self._workers = f, workers

    def _view(self) -> View | None:
        return views.mapped(self._inner._some_view(), self._f)

    def _parts(self) -> list[Callable[[], View]] | None:
        parts = self._inner._parts()
        return (
            None
            if parts is None
            else [functools.partial(lambda part: views.mapped(part(), self._f), part) for part in parts]
        )

    def _start(self) -> Iterator[Any]:
        source = self._inner._start()
        if self._workers is not None and self._workers > 1:
            return threads.in_order(
                lambda e: nests.applied(self._f, e), source, self._workers, 2 * self._workers
            )
        return (nests.applied(self._f, e) for e in source)

    def _peek(self, short: bool = False) -> Any:
        return nests.applied(self._f, self._inner._peek(short))

    @property
    def element_spec(self) -> Any:
        return Dataset.element_spec.__get__(self)


class _Filtered(_Step):
    def __init__(self, inner: Dataset, predicate: Callable[..., Any]) -> None:
        super().__init__(inner)
        self._predicate = predicate

    def _count(self) -> float | None:
        return None

    def _has_view(self) -> bool:
        return False

    def _start(self) -> Iterator[Any]:
        source = self._inner._start()
        return (e for e in source if bool(nests.applied(self._predicate, e)))


class _Shuffled(_Step):
    def __init__(self, inner: Dataset, buffer: int | None, seed: int | None, again: bool) -> None:
        super().__init__(inner)
        if buffer is not None and buffer < 1:
            raise ValueError(f"buffer_size must be positive, got {buffer!r}")
        self._buffer, self._again = buffer, again
        self._seed = seed if again or seed is not None else int(hml.random.randint(2**62))
        self._generator = hml.random.default if self._seed is None else hml.random.Generator(self._seed)

    def _source(self) -> Any:
        if not self._again:
            self._generator.seed(self._seed)
        return self._generator

    def _view(self) -> View | None:
        view = self._inner._some_view()
        return views.ordered(view, self._source().permutation(view.length))

    def _has_view(self) -> bool:
        return (
            self._inner._has_view() and self._inner._even()
        )  # else a smaller last batch would stand in the middle

    def _start(self) -> Iterator[Any]:
        if self._has_view():
            return super()._start()
        if self._buffer is None:
            raise ValueError(
                "shuffle needs a buffer_size where elements do not come from tensors of equal shapes"
            )
        return self._drawn(int(self._source().randint(2**62)))

    def _drawn(self, seed: int) -> Iterator[Any]:
        draw = np.random.default_rng(seed)
        kept: list[Any] = []
        for e in self._inner._start():
            if len(kept) < (self._buffer or 1):
                kept.append(e)
                continue
            i = int(draw.integers(len(kept)))
            kept[i], e = e, kept[i]
            yield e
        for i in draw.permutation(len(kept)):
            yield kept[i]


class _Batched(_Step):
    def __init__(self, inner: Dataset, size: int, drop: bool) -> None:
        super().__init__(inner)
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"batch_size must be a positive int, got {size!r}")
        self._size, self._drop = int(size), bool(drop)

    def _count(self) -> float | None:
        n = self._inner._count()
        if n is None or n == math.inf:
            return n
        return n // self._size if self._drop else -(-n // self._size)

    def _view(self) -> View | None:
        return views.batched(self._inner._some_view(), self._size, self._drop)

    def _start(self) -> Iterator[Any]:
        if self._has_view():
            return super()._start()
        return self._stacked(self._inner._start())

    def _stacked(self, source: Iterator[Any]) -> Iterator[Any]:
        while group := list(itertools.islice(source, self._size)):
            if len(group) == self._size or not self._drop:
                yield nests.stack(group)

    def _peek(self, short: bool = False) -> Any:
        size = self._size
        if short and not self._drop:
            n = self._inner._count()
            size = 1 if n is None or n == math.inf else int(n) % size or size
        return nests.stack([self._inner._peek(short)] * size)

    def _even(self) -> bool:
        n = self._inner._count()
        whole = self._drop or n == math.inf or (n is not None and n % self._size == 0)
        return whole and self._inner._even()

    @property
    def element_spec(self) -> Any:
        first = self._size if self._even() else None
        return pytree.map(lambda s: hml.TensorSpec((first, *s.shape), s.dtype), self._inner.element_spec)


class _Repeated(_Step):
    def __init__(self, inner: Dataset, count: int | None) -> None:
        super().__init__(inner)
        self._times = None if count is None or count == -1 else count
        if self._times is not None and self._times < 0:
            raise ValueError(f"repeat takes a count that is not negative, or None, got {count!r}")

    def _count(self) -> float | None:
        n = self._inner._count()
        if self._times is None:
            return n if not n else math.inf
        return None if n is None else n * self._times if self._times else 0

    def _has_view(self) -> bool:
        return False

    def _parts(self) -> list[Callable[[], View]] | None:
        parts = self._inner._parts()
        return None if parts is None or self._times is None else parts * self._times

    def _start(self) -> Iterator[Any]:
        first = self._inner._start() if self._times != 0 else iter(())
        return self._rounds(first)

    def _rounds(self, first: Iterator[Any]) -> Iterator[Any]:
        empty = True
        for e in first:
            empty = False
            yield e
        done = 1
        while not empty and (self._times is None or done < self._times):
            yield from self._inner._start()
            done += 1


class _Part(_Step):
    def __init__(self, inner: Dataset, first: int, count: int | None) -> None:
        super().__init__(inner)
        if first < 0 or (count is not None and count < 0):
            raise ValueError(
                f"a number of elements must not be negative (-1 is all), got {min(first, count or 0)}"
            )
        self._first, self._limit = first, count

    def _count(self) -> float | None:
        n = self._inner._count()
        if n is None:
            return 0 if self._limit == 0 else None
        rest = max(0, n - self._first)
        return rest if self._limit is None else min(rest, self._limit)

    def _view(self) -> View | None:
        view = self._inner._some_view()
        rest = max(0, view.length - self._first)
        return views.shifted(view, self._first, rest if self._limit is None else min(rest, self._limit))

    def _start(self) -> Iterator[Any]:
        if self._has_view():
            return super()._start()
        stop = None if self._limit is None else self._first + self._limit
        return itertools.islice(self._inner._start(), self._first, stop)


class _Zipped(Dataset):
    def __init__(self, datasets: Any) -> None:
        self._all, self._form = pytree.flatten(datasets)
        for d in self._all:
            if not isinstance(d, Dataset):
                raise TypeError(
                    f"zip takes datasets, got {type(d).__name__}; make one with Dataset.from_tensors"
                )

    def _count(self) -> float | None:
        counts = [d._count() for d in self._all]
        return None if None in counts else min(c for c in counts if c is not None)

    def _has_view(self) -> bool:
        return all(d._has_view() for d in self._all)

    def _even(self) -> bool:
        return all(d._even() for d in self._all)

    def _view(self) -> View | None:
        return views.zipped(self._form, [d._some_view() for d in self._all])

    def _start(self) -> Iterator[Any]:
        sources = [d._start() for d in self._all]
        return (pytree.unflatten(self._form, group) for group in zip(*sources, strict=False))

    def _peek(self, short: bool = False) -> Any:
        return pytree.unflatten(self._form, [d._peek(short) for d in self._all])

    @property
    def element_spec(self) -> Any:
        return pytree.unflatten(self._form, [d.element_spec for d in self._all])


class _Enumerated(_Step):
    def __init__(self, inner: Dataset, start: int) -> None:
        super().__init__(inner)
        self._first = start

    def _view(self) -> View | None:
        return self._numbered(self._inner._some_view(), self._first)

    @staticmethod
    def _numbered(view: View, first: int) -> View:
        return views.zipped(pytree.flatten((0, 0))[1], [views.counting(view.length, first), view])

    def _parts(self) -> list[Callable[[], View]] | None:
        parts = self._inner._parts()
        before = [self._first]  # the number of elements of the parts that have begun

        def numbered(part: Callable[[], View]) -> View:
            view, first = part(), before[0]
            before[0] += view.length
            return self._numbered(view, first)

        return None if parts is None else [functools.partial(numbered, part) for part in parts]

    def _start(self) -> Iterator[Any]:
        source = self._inner._start()
        return ((hml.asarray(k), e) for k, e in enumerate(source, self._first))

    def _peek(self, short: bool = False) -> Any:
        return hml.asarray(self._first), self._inner._peek(short)

    @property
    def element_spec(self) -> Any:
        return hml.TensorSpec((), hml.int64), self._inner.element_spec


class _Prefetched(_Step):
    def __init__(self, inner: Dataset, size: int) -> None:
        super().__init__(inner)
        if size == -1:  # TensorFlow's AUTOTUNE
            size = 2
        if size < 1:
            raise ValueError(f"buffer_size must be positive, got {size!r}")
        self._size = size

    def _view(self) -> View | None:
        return self._inner._view()

    def _parts(self) -> list[Callable[[], View]] | None:
        return self._inner._parts()

    def _start(self) -> Iterator[Any]:
        if hml.inside_function():  # written out in a trace, which is this thread's
            return self._inner._start()
        return threads.ahead(self._inner._start(), self._size)
