"""The tensor: an immutable array with a dtype, a shape and a device.

Operators and methods are not written here: they are attached from the registry by `hybridml.eager.methods`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml import backends, dtypes
from hybridml.eager import dlpack
from hybridml.eager.state import state
from hybridml.errors import located, user_line
from hybridml.ops.spec import TensorSpec, spec


class Operators:
    """What tensors and variables share: what an array is, and every operator and method of the registry (attached on import)."""

    __slots__ = ()
    __array_priority__ = 1000  # so that `ndarray + tensor` asks the tensor
    _array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return self._array.size

    @property
    def spec(self) -> TensorSpec:
        return spec(self._array.shape, self._array.dtype)

    def __len__(self) -> int:
        if not self.ndim:
            raise no_axes("len()")
        return self.shape[0]

    def __round__(self, digits: int | None = None) -> Any:
        """What `round(x)` and `round(x, digits)` give: a tensor, halves rounded to the even one.

        >>> from hybridml import asarray
        >>> round(asarray([2.5, 1.26]), 1).tolist(), round(asarray(2.5)).item()
        ([2.5, 1.2999999523162842], 2.0)
        """
        x: Any = self
        return (x * 10.0**digits).round() / 10.0**digits if digits else x.round()

    def __setitem__(self, place: Any, value: Any) -> None:
        """Raises TypeError: a tensor never changes, and a variable is assigned as a whole."""
        raise TypeError(
            located(
                f"elements of a {type(self).__name__} of shape {self.shape} cannot be assigned; make a new tensor, for example "
                "hml.where(hml.arange(len(x)) == i, value, x) or hml.concat([x[:i], new, x[i + 1:]]), and where it is the state of "
                "an hml.Variable, variable.assign(that)",
                user_line(),
            )
        )

    @property
    def device(self) -> str:
        """Where the elements are: "cpu:0", "gpu:0"..."""
        return backends.of(self._array).name


class Tensor(Operators):
    """An n-dimensional array that never changes.

    Make one with `hml.asarray`. Read it with `x.numpy()`, `float(x)`, `x.item()` or anything that takes `__array__` or DLPack.

    >>> import hybridml as hml
    >>> x = hml.asarray([[1., 2.]])
    >>> x.shape, x.dtype, x.device
    ((1, 2), dtype('float32'), 'cpu:0')
    """

    __slots__ = ("__weakref__", "_array", "_id")
    weak = False  # True for a traced Python number, whose dtype gives way to that of the tensors it meets
    priority = 0  # which of several operands says where an op runs: the one with the highest
    _id: int | None  # the tape's name for this tensor, given when a tape first needs one

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("make tensors with hml.asarray(...), hml.zeros(...) and the like")

    def numpy(self) -> np.ndarray:
        """The values as a read-only NumPy array, which shares memory with a tensor on the CPU."""
        if state.now.tapes:
            self._leave("handed to NumPy")
        a = self._array
        a = a.view() if type(a) is np.ndarray else _values(a)
        a.flags.writeable = False
        return a

    def item(self) -> Any:
        """The one element as a Python scalar."""
        if state.now.tapes:
            self._leave("read as a Python number")
        a = self._array
        return (a if type(a) is np.ndarray else _values(a)).item()

    def tolist(self) -> Any:
        if state.now.tapes:
            self._leave("read as Python numbers")
        a = self._array
        return (a if type(a) is np.ndarray else _values(a)).tolist()

    def _leave(self, how: str) -> None:
        """Tell the tapes that the values go where they do not follow."""
        for tape in state.now.tapes:
            tape.left(self, how)

    def to(self, device: str) -> Tensor:
        """The tensor on another device, itself if it is there; differentiable.

        Raises DeviceError for a device that is not there.
        """
        return _move(self, device)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        a = self.numpy().copy() if copy else self.numpy()
        return a if dtype is None else a.astype(dtype)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return dlpack.export(self._array, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __format__(self, form: str) -> str:
        """The one element as a Python number is formatted; without a format, as `str` is.

        >>> from hybridml import asarray
        >>> f"loss {asarray(0.12345):.3f}"
        'loss 0.123'
        """
        return format(self.item(), form) if form else str(self)

    def __index__(self) -> int:
        a = self._array
        return (a if type(a) is np.ndarray else _values(a)).__index__()

    def __bool__(self) -> bool:
        a = self._array
        if a.size != 1:
            raise ValueError(
                f"the truth of a tensor of shape {self.shape} is ambiguous; use hml.any(x), hml.all(x) or hml.where"
            )
        return bool((a if type(a) is np.ndarray else _values(a)).item())

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        a = _values(self._array)
        digits = None
        if a.dtype == dtypes.bfloat16:  # NumPy does not line up numbers of others
            a, digits = a.astype(np.float32), 4
        body = np.array2string(a, precision=digits, separator=", ", prefix="Tensor(", threshold=60)
        return f"Tensor({body}, shape={self.shape}, dtype={self.dtype.name})"

    def __copy__(self) -> Tensor:
        return self

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self


def no_axes(what: str) -> TypeError:
    """The error of asking a tensor without axes for what only an axis has."""
    return TypeError(
        located(
            f"{what} was asked of a tensor of shape (), which is one number; use it as it is, give it an axis with hml.reshape(x, (1,)), "
            "or check x.ndim first",
            user_line(),
        )
    )


def _values(array: Any) -> np.ndarray:
    """On the host. A device tells here what checks of earlier calls have found."""
    return backends.of(array).get(array)


_new = Tensor.__new__


def wrap(array: Any) -> Tensor:
    """A tensor around an array that nobody will change: no copy, no check."""
    t = _new(Tensor)
    if type(array) is np.ndarray:
        t._array = array
    else:
        t._array = (
            np.asarray(array) if isinstance(array, np.generic) or not backends.is_array(array) else array
        )
    t._id = None
    return t


def _move(x: Tensor, device: str) -> Tensor:
    from hybridml.eager.transfer import to  # it is an op, recorded by tapes

    return to(x, device)
