"""What every source of elements can do: be iterated again and again, say what its elements are like, and feed a traced function."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import hybridml as hml
from hybridml import pytree
from hybridml.data import nests
from hybridml.errors import EndOfDataError, ShapeError, TraceError

OPEN = 64  # iterations that traced loops may have left half way, before the oldest is given up


class Stream:
    """The base of Dataset and DataLoader. Subclasses define `_start` and `_peek`."""

    def _start(self) -> Iterator[Any]:
        """A new iteration. Random numbers of its order are drawn now, in the thread that asks."""
        raise NotImplementedError(f"{type(self).__name__} must define _start")

    def _peek(self, short: bool = False) -> Any:
        """An element like the first one, or like the smaller one at the end."""
        raise NotImplementedError(f"{type(self).__name__} must define _peek")

    def _even(self) -> bool:
        """True if all elements have one spec, as far as this dataset can tell."""
        return True

    def __iter__(self) -> DataIterator:
        return DataIterator(self)

    @property
    def element_spec(self) -> Any:
        """What an element is like: a nest of TensorSpecs, None for a size that varies. Looks at the first element where it has to."""
        state = hml.random.default.state
        with hml.init_scope():
            before = state.numpy()
            try:
                spec = nests.specs(self._peek())
                return (
                    spec if self._even() else pytree.map(_common, spec, nests.specs(self._peek(short=True)))
                )
            finally:
                state.assign(before)

    def _static_spec(self, what: str) -> Any:
        """The spec, for a traced function, which needs whole shapes."""
        spec = self.element_spec
        if any(None in s.shape for s in pytree.leaves(spec)):
            raise TraceError(
                f"{what} in a traced function needs elements of one shape, got {spec}: use batch(n, drop_remainder=True)"
            )
        return spec

    def __tensor_stream__(self) -> tuple[Any, Any]:
        """(more, pull) for a loop of a traced function: `more()` is a bool tensor, `pull()` the next element, both at each run."""
        spec = self._static_spec("a loop over data")
        runs = _Runs(self, spec)
        run = hml.py_function(runs.open, (), hml.TensorSpec((), hml.int64))

        def more() -> Any:
            return hml.py_function(runs.more, (run,), hml.TensorSpec((), hml.bool))

        return more, lambda: hml.py_function(runs.pull, (run,), spec)


def _common(a: Any, b: Any) -> Any:
    """A spec that both are of."""
    return hml.TensorSpec(
        tuple([m if m == n else None for m, n in zip(a.shape, b.shape, strict=True)]), a.dtype
    )


class DataIterator:
    """One iteration. `next` in a traced function pulls at each call if the iterator was made outside of it.

    >>> import hybridml as hml
    >>> numbers = iter(hml.data.Dataset.range(3))
    >>> double_next = hml.function(lambda: next(numbers) * 2)
    >>> int(double_next()), int(double_next()), int(next(numbers))
    (0, 2, 2)
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._made_inside = hml.inside_function()
        self._elements = stream._start()

    def __iter__(self) -> DataIterator:
        return self

    def __next__(self) -> Any:
        if hml.inside_function() and not self._made_inside:
            spec = self._stream._static_spec("next() on data")
            return hml.py_function(lambda: _like(self._pull(), spec), (), spec)
        return next(self._elements)

    def _pull(self) -> Any:
        try:
            return next(self._elements)
        except StopIteration:
            raise EndOfDataError("next() on data that has come to its end") from None

    def close(self) -> None:
        """End the iteration, and the threads that work for it."""
        close = getattr(self._elements, "close", None)
        if close is not None:
            close()


class _Runs:
    """The iterations that loops of a traced function have under way, by number."""

    def __init__(self, stream: Stream, spec: Any) -> None:
        self._stream, self._spec = stream, spec
        self._lock = threading.Lock()
        self._last = 0
        self._open: OrderedDict[int, tuple[Iterator[Any], list[Any]]] = OrderedDict()

    def open(self) -> int:
        elements = self._stream._start()
        with self._lock:
            self._last += 1
            self._open[self._last] = (elements, [])
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
            return self._last

    def more(self, run: Any) -> bool:
        elements, ahead = self._open[int(run)]
        try:
            ahead.append(next(elements))
        except StopIteration:
            with self._lock:
                del self._open[int(run)]
            return False
        return True

    def pull(self, run: Any) -> Any:
        _, ahead = self._open[int(run)]
        return _like(ahead.pop(), self._spec)


def _like(element: Any, spec: Any) -> Any:
    """The element, or ShapeError where it is not what the trace was made for."""
    got = nests.specs(element)
    if got != spec:
        raise ShapeError(
            f"an element is {got}, and the function was traced for {spec}: elements must be of one shape, "
            "as batch(n, drop_remainder=True) makes them"
        )
    return element
