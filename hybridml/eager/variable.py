"""A variable: state that outlives a call, changed by assignment.

Reading hands out a tensor that shares the variable's memory. Assignment is in place as long as nobody holds such a tensor; when
somebody does, the variable moves to a fresh array and the old value stays what it was (copy on write, by reference count).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridml import backends, dtypes
from hybridml.eager.creation import asarray, beside
from hybridml.eager.state import state
from hybridml.eager.tensor import Operators, Tensor, wrap
from hybridml.errors import DeviceError, ShapeError
from hybridml.ops.spec import TensorSpec, spec

_moves = [0]


def moves() -> int:
    """How often a variable has moved to another device: programs look again where theirs are once this changes."""
    return _moves[0]


next_id: Callable[[], int] = itertools.count(
    1
).__next__  # a number that no other tensor or variable of this process has


class Variable(Operators):
    """State with a fixed shape and dtype.

    `trainable` variables are watched by every gradient tape that sees them read.

    >>> w = Variable([1., 2.], name="w")
    >>> old = w.value()
    >>> w.assign_add([1., 1.])
    Variable("w", shape=(2,), dtype=float32)
    >>> old.tolist(), w.numpy().tolist()
    ([1.0, 2.0], [2.0, 3.0])
    """

    __slots__ = ("__weakref__", "_array", "_id", "name", "trainable")

    def __new__(cls, *args: Any, **kwargs: Any) -> Variable:
        self = super().__new__(cls)
        if state.now.traces:
            return state.now.traces[-1].create_variable(
                lambda: self._initialize(*args, **kwargs), lambda: _spec_of_initial(*args, **kwargs)
            )
        return self._initialize(*args, **kwargs)

    def _initialize(
        self, initial: Any, *, trainable: bool = True, name: str | None = None, dtype: Any = None
    ) -> Variable:
        if isinstance(initial, Callable):  # type: ignore[arg-type]
            initial = initial()
        value = asarray(initial, dtype=dtype)
        self._array: Any = backends.of(value._array).copy(value._array)
        self.trainable = bool(trainable) and dtypes.is_float(value.dtype)
        self._id = next_id()
        self.name = name if name is not None else "variable"
        return self

    def value(self) -> Tensor:
        """The value now. Later assignments do not change it."""
        t = state.now.traces[-1].read(self) if state.now.traces else wrap(self._array)
        for tape in state.now.tapes:
            tape.accessed(self)
        t._id = self._id
        return t

    def numpy(self) -> np.ndarray:
        """A copy of the value as a NumPy array."""
        return self.value().numpy().copy()

    def to(self, device: str) -> Variable:
        """Move the variable to another device, where it stays; returns it.

        Inside `@hml.function` a variable cannot move. Raises DeviceError for a device that is not there.
        """
        target = backends.named(device)
        if state.now.traces:
            raise DeviceError(f"{self!r} cannot move inside @hml.function; move it before the call")
        if backends.of(self._array) is not target:
            self._array = target.put(np.array(backends.of(self._array).get(self._array), order="C"))
            _moves[0] += 1
        return self

    def assign(self, value: Any) -> Variable:
        """Set the value; the shape must be the variable's. Returns the variable."""
        value = _operand(value, self)
        if value.shape != self.shape:
            raise ShapeError(
                f"cannot assign a value of shape {value.shape} to {self!r}: the shapes must be equal"
            )
        if value.dtype is not self.dtype:
            value = value.astype(self.dtype)  # type: ignore[attr-defined]
        for tape in state.now.tapes:
            tape.assigned(self, value)
        if state.now.traces:
            state.now.traces[-1].assign(self, value)
        else:
            self._store(value._array)
        return self

    def assign_add(self, value: Any) -> Variable:
        """Add to the value."""
        return self.assign(_unrecorded(self) + value)

    def assign_sub(self, value: Any) -> Variable:
        """Subtract from the value."""
        return self.assign(_unrecorded(self) - value)

    def is_held(self) -> bool:
        """True if a tensor (or a view of one) still shares this variable's memory."""
        return sys.getrefcount(self._array) > 2

    def _store(self, array: np.ndarray) -> None:
        if type(array) is not type(self._array):
            raise backends.mixed(backends.of(self._array), backends.of(array))
        if type(array) is not np.ndarray:
            backends.of(array).settle()
        if sys.getrefcount(self._array) > 2:
            self._array = backends.of(array).copy(array)
        elif type(array) is np.ndarray:
            np.copyto(self._array, array)
        else:
            backends.of(array).store(self._array, array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        a = self.numpy()
        return a if dtype is None else a.astype(dtype)

    def __float__(self) -> float:
        return float(self.value())

    def __int__(self) -> int:
        return int(self.value())

    def __bool__(self) -> bool:
        return bool(self.value())

    def __len__(self) -> int:
        return len(self.value())

    def __hash__(self) -> int:
        if state.now.traces:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if not caller.startswith(("hybridml.trace", "hybridml.eager")):  # they keep tables of their own
                state.now.traces[-1].named(self)
        return id(self)

    def __reduce__(self) -> Any:
        """Copies and pickles are variables of their own, with the value of now. A pickle knows no device."""
        return _rebuilt, (self.numpy(), self.trainable, self.name)

    def __deepcopy__(self, memo: Any) -> Variable:
        return _rebuilt(self.numpy(), self.trainable, self.name).to(self.device)

    def __repr__(self) -> str:
        return f'Variable("{self.name}", shape={self.shape}, dtype={self.dtype.name})'


def _rebuilt(value: np.ndarray, trainable: bool, name: str) -> Variable:
    return Variable(value, trainable=trainable, name=name)


def _spec_of_initial(initial: Any, *, dtype: Any = None, **_: Any) -> TensorSpec | None:
    """What a variable of this initial value would be; None for a function, which is not called to find out."""
    if callable(initial):
        return None
    found = initial.spec if isinstance(initial, (Tensor, Variable)) else asarray(initial, dtype=dtype).spec
    return found if dtype is None else spec(found.shape, dtypes.as_dtype(dtype))


def _unrecorded(variable: Variable) -> Tensor:
    return state.now.traces[-1].read(variable) if state.now.traces else wrap(variable._array)


def _operand(x: Any, variable: Variable) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if isinstance(x, Variable):
        return x.value()
    with beside(variable):
        return asarray(x)
