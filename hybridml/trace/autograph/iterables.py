"""What `for` goes over when a tensor is involved: rows, `range` of a tensor, and enumerate, zip and reversed of those."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hybridml import pytree
from hybridml.eager.creation import arange, asarray
from hybridml.eager.placeholder import Placeholder
from hybridml.eager.state import state
from hybridml.eager.tensor import Tensor, no_axes
from hybridml.errors import DTypeError, TraceError, located, user_line
from hybridml.ops.elementwise import floor_divide, maximum, minimum
from hybridml.ops.spec import all_equal, is_int
from hybridml.ops.view import flip
from hybridml.trace.autograph.conditions import not_mapped
from hybridml.trace.symbol import SymbolicTensor


class TensorIterable:
    """A sequence of nests of tensors that exists in the graph.

    length   how many items there are: an int, or a tensor where only the run can tell
    item(k)  the item at k, a Python int or a tensor
    stacked()  where the length is known: a nest of tensors with equal first axes, whose rows `of_row` makes items of
    """

    length: Any

    def item(self, k: Any) -> Any:
        raise NotImplementedError

    def stacked(self) -> Any:
        raise NotImplementedError

    def of_row(self, row: Any) -> Any:
        return row

    @property
    def static(self) -> bool:
        return is_int(self.length)

    def __len__(self) -> int:
        if not self.static:
            raise _unknown("its length")
        return self.length

    def __iter__(self) -> Iterator[Any]:
        if not self.static:
            raise _unknown("a Python list of its items")
        return iter([self.item(k) for k in range(self.length)])


def _unknown(what: str) -> TraceError:
    return TraceError(
        located(
            f"{what} was asked of a range whose end is a tensor: how long it is is known only when the function runs. Build the values "
            "with hml.scan(f, init, length=n) or hml.map_fn over a tensor of fixed length, or make the end a Python int",
            user_line(),
        )
    )


class Rows(TensorIterable):
    """The rows of a tensor."""

    def __init__(self, x: Tensor) -> None:
        if not x.ndim:
            raise no_axes("iteration")
        self._x, self.length = x, x.shape[0]

    def item(self, k: Any) -> Any:
        return self._x[k]  # type: ignore[index]

    def stacked(self) -> Any:
        return self._x


class Range(TensorIterable):
    """`range` with a tensor among its arguments."""

    def __init__(self, *args: Any) -> None:
        start, stop, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
        for x in (start, stop, step):
            if isinstance(x, Tensor) and (x.dtype.kind not in "iu" or x.ndim):
                raise DTypeError(
                    located(
                        f"range() takes integers without dimensions, got {x.spec}; cast with .astype(hml.int64)",
                        user_line(),
                    )
                )
        if isinstance(step, int) and step == 0:
            raise ValueError("range() arg 3 must not be zero")
        self._start, self._step = start, step
        # floor((stop - start + step - sign) / step) with the sign of the step
        if isinstance(step, int):
            span = (stop - start + (step - 1)) if step > 0 else (start - stop + (-step - 1))
            count = floor_divide(span, abs(step)) if abs(step) != 1 else span
        else:
            count = -floor_divide(start - stop, step)
        self.length = maximum(count, 0)

    def item(self, k: Any) -> Any:
        return self._start + k * self._step


class Elements(TensorIterable):
    """The elements of a dataset that has them by index: the loop goes over the index."""

    def __init__(self, length: int, get: Callable[[Any], Any]) -> None:
        self.length, self._get = length, get

    def item(self, k: Any) -> Any:
        return self._get(k)

    def stacked(self) -> Any:
        return arange(self.length)

    def of_row(self, row: Any) -> Any:
        return self._get(row)


class Enumerate(TensorIterable):
    def __init__(self, inner: TensorIterable, start: Any = 0) -> None:
        self._inner, self._start, self.length = inner, start, inner.length

    def item(self, k: Any) -> Any:
        return (k + self._start, self._inner.item(k))

    def stacked(self) -> Any:
        return (arange(self.length) + self._start, self._inner.stacked())

    def of_row(self, row: Any) -> Any:
        return (row[0], self._inner.of_row(row[1]))


class Zip(TensorIterable):
    """Ends with the shortest."""

    def __init__(self, parts: Sequence[TensorIterable]) -> None:
        self._parts = parts
        known = [p.length for p in parts if p.static]
        length: Any = min(known) if known else None
        for p in parts:
            if not p.static:
                length = p.length if length is None else minimum(length, p.length)
        self.length = length

    def item(self, k: Any) -> Any:
        return tuple([p.item(k) for p in self._parts])

    def stacked(self) -> Any:
        return tuple([pytree.map(lambda x: x[: self.length], p.stacked()) for p in self._parts])

    def of_row(self, row: Any) -> Any:
        return tuple([p.of_row(r) for p, r in zip(self._parts, row, strict=True)])


class Reversed(TensorIterable):
    def __init__(self, inner: TensorIterable) -> None:
        self._inner, self.length = inner, inner.length

    def item(self, k: Any) -> Any:
        return self._inner.item(self.length - 1 - k)

    def stacked(self) -> Any:
        return pytree.map(lambda x: flip(x, axis=0), self._inner.stacked())

    def of_row(self, row: Any) -> Any:
        return self._inner.of_row(row)


def tensor_iterable(x: Any) -> TensorIterable | None:
    """`x` as items of the graph, or None if Python goes over it."""
    if isinstance(x, TensorIterable):
        return x
    if state.now.levels:
        return None  # unrolled: each row is one of an example
    if isinstance(x, SymbolicTensor):
        return Rows(x)
    parts = parts_of(x)
    if parts is None or len(parts) != 1:
        return None
    length, uniform, get = parts[0]()
    return Elements(length, get) if length == uniform else None


def parts_of(x: Any) -> list[Callable[[], tuple[int, int, Callable[[Any], Any]]]] | None:
    """For an object that says how it is gone over in a graph (`__tensor_parts__`): stretches of elements, one after the other.

    Each is a function to be called where the stretch begins, and returns (how many elements, how many of them, from the first on, have
    one spec, the element at an index). The index is an int, or an integer tensor for those of one spec. None: it cannot, or no trace is
    written.
    """
    ask = getattr(type(x), "__tensor_parts__", None)
    return ask(x) if ask is not None and state.now.traces and not state.now.levels else None


def stream_of(x: Any) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """For an object that gives one element after the other while a graph runs (`__tensor_stream__`): is there one more, and which."""
    ask = getattr(type(x), "__tensor_stream__", None)
    return ask(x) if ask is not None and state.now.traces and not state.now.levels else None


# the built-ins


def range_(*args: Any) -> Any:
    read = [a.value() if hasattr(a, "assign") else a for a in args]
    if not any(isinstance(a, Placeholder) for a in read):
        return range(*args)
    not_mapped("a loop over a range of tensors")
    return Range(*read)


def enumerate_(iterable: Any, start: Any = 0) -> Any:
    if hasattr(type(iterable), "__tensor_parts__") and state.now.traces and not state.now.levels:
        return iterable.enumerate(start)
    inner = tensor_iterable(iterable)
    return enumerate(iterable, start) if inner is None else Enumerate(inner, start)


def zip_(*iterables: Any, strict: bool = False) -> Any:
    if len(iterables) > 1 and all([parts_of(x) is not None for x in iterables]) and not strict:
        return type(iterables[0]).zip(tuple(iterables))
    parts = [tensor_iterable(x) for x in iterables]
    if not any(parts_present := [p is not None for p in parts]):
        return zip(*iterables, strict=strict)
    if all(parts_present):
        whole = [p for p in parts if p is not None]
        if strict and all(p.static for p in whole) and not all_equal([p.length for p in whole]):
            raise ValueError(f"zip() arguments have the lengths {[p.length for p in whole]}")
        return Zip(whole)
    return zip(*iterables, strict=strict)  # Python values among them: Python goes over all, row by row


def reversed_(x: Any) -> Any:
    inner = tensor_iterable(x)
    return reversed(x) if inner is None else Reversed(inner)


def counter(k: int) -> Tensor:
    return asarray(k)
