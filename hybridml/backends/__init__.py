"""Where arrays live: one `Backend` for the CPU, one for each GPU, found by name or by an array.

Nothing of CUDA is imported before a GPU is asked for: by name, or by using the default device on a machine that has a GPU and CuPy.

This package knows no tensors. A GPU's own module (`gpu`) is imported when one is opened.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hybridml import buffers, config
from hybridml.errors import DeviceError, located, user_line

_CUDA = (2, 13)  # DLPack's numbers for memory of a GPU: device and managed


class Backend:
    """A device: its name, its array library `xp`, and the class of its arrays.

    `on_cpu` is asked on hot paths, where it is cheaper than comparing names.
    """

    name = "cpu:0"
    xp: Any = np
    array_type: type = np.ndarray
    on_cpu = True

    def __init__(self) -> None:
        # Programs whose checks nobody has looked at: those of a GPU do not wait for theirs.
        self.unseen: set[Any] = set()

    def put(self, array: np.ndarray) -> Any:
        """A NumPy array's values on this device; the array itself on the CPU."""
        return array

    def get(self, array: Any) -> np.ndarray:
        """The values as a NumPy array, which may share the memory of `array`. Waits for the device."""
        return np.asarray(array)

    def copy(self, array: Any) -> Any:
        """A C-contiguous copy on this device."""
        return buffers.copy(array)

    def store(self, target: Any, values: Any) -> None:
        """Overwrite an array of this device in place."""
        np.copyto(target, values)

    def look(self) -> None:
        """Raise what checks of earlier calls have found by now: programs of a GPU do not wait for theirs."""
        for program in list(self.unseen):
            program.look()

    def settle(self, but: Any = None) -> None:
        """Wait for the checks that nobody has looked at (`but` those of one program) before a variable takes a value, and raise what they
        have found."""
        for program in list(self.unseen):
            if program is not but:
                program.look(wait=True)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """The array library's own idea of the current device, while ops of this one run."""
        return contextlib.nullcontext()

    def __repr__(self) -> str:
        return f"<backend {self.name}>"


CPU = Backend()
_lock = threading.RLock()
_open: dict[str, Backend] = {"cpu": CPU, "cpu:0": CPU}
_of_array: dict[type, Callable[[Any], Backend]] = {np.ndarray: lambda array: CPU}
elsewhere = False  # True once a device other than the CPU is open


def register(backend: Backend, of: Callable[[Any], Backend] | None = None) -> Backend:
    """Make an opened device known; `of` tells which device of its kind holds an array."""
    global elsewhere
    with _lock:
        _open[backend.name] = backend
        _of_array[backend.array_type] = of or (lambda array: backend)
        elsewhere = elsewhere or not backend.on_cpu
    return backend


def named(name: str) -> Backend:
    """The device of this name, opened if it was not.

    Raises DeviceError, with what there is and what is missing, for a device that is not there.
    """
    found = _open.get(name)
    if found is not None:
        return found
    kind, _, number = name.partition(":")
    if kind == "gpu" and (number.isdecimal() or not number):
        full = f"gpu:{int(number or 0)}"
        with _lock:
            return _open[full] if full in _open else _open_gpu(full)
    raise DeviceError(
        located(f"no device {name!r}; expected cpu, gpu or gpu:N with N a device number", user_line())
    )


def _open_gpu(name: str) -> Backend:
    from hybridml.backends import gpu

    return gpu.open(int(name.partition(":")[2]))


def current() -> Backend:
    """The device that new arrays are made on: the innermost `hml.device(...)`, else `HYBRIDML_DEVICE`, else the first GPU if there
    is one, else the CPU."""
    name = config.get().device
    return (_open.get(name) or named(name)) if name else default()


@functools.cache
def default() -> Backend:
    """The first GPU where a driver and CuPy are found and it can be opened, else the CPU."""
    if not has_driver() or importlib.util.find_spec("cupy") is None:
        return CPU
    try:
        return named("gpu:0")
    except DeviceError:  # a driver without a usable GPU; `hybridml doctor` says why
        return CPU


def has_driver() -> bool:
    """True where NVIDIA's driver shows a GPU that this process may see. Looks at the file system only."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return bool(glob.glob("/dev/nvidia[0-9]*")) or os.path.exists("/dev/dxg")


def of(array: Any) -> Backend:
    """The device that holds an array."""
    return _of_array[type(array)](array)


def is_array(x: Any) -> bool:
    """True for an array of any open device."""
    return type(x) in _of_array


def common(arrays: Any) -> Backend:
    """The one device of these arrays, which may have Python scalars among them; without any, the current one.

    Raises DeviceError if there are two.
    """
    if not elsewhere:
        return CPU
    found: Backend | None = None
    for a in arrays:
        of_type = _of_array.get(type(a))
        if of_type is None:
            continue
        backend = of_type(a)
        if found is None:
            found = backend
        elif backend is not found:
            raise mixed(found, backend)
    return current() if found is None else found


def contiguous(array: Any) -> Any:
    """The array, or a copy of it, with its elements in row-major order without gaps."""
    return array if array.flags.c_contiguous else of(array).xp.ascontiguousarray(array)


def mixed(a: Backend, b: Backend) -> DeviceError:
    """The error about arrays of two devices."""
    return DeviceError(
        f"tensors of two devices, {a.name} and {b.name}, cannot meet in one operation; move one of them with "
        f'x.to("{a.name if b.on_cpu else b.name}"), or make all tensors inside `with hml.device("{a.name if b.on_cpu else b.name}"):`'
    )


def holding(obj: Any) -> Backend:
    """The device of anything that exports its memory by DLPack (a CuPy, PyTorch or JAX array); the CPU for all else."""
    where = getattr(obj, "__dlpack_device__", None)
    if where is None:
        return CPU
    kind, number = where()
    return named(f"gpu:{int(number)}") if int(kind) in _CUDA else CPU


def devices() -> list[str]:
    """The devices that tensors can live on here.

    >>> import hybridml as hml
    >>> "cpu:0" in hml.devices()
    True
    """
    if default() is not CPU:
        count = getattr(default(), "count", lambda: 1)()
        for i in range(count):
            named(f"gpu:{i}")
    return sorted({b.name for b in _open.values()})


@contextlib.contextmanager
def device(name: str) -> Iterator[str]:
    """New tensors live on this device inside the `with` block, for this thread or task.

    name: "cpu", "gpu", "gpu:1"... Raises DeviceError for a device that is not there, with the cure.

    >>> import hybridml as hml
    >>> with hml.device("cpu:0"):
    ...     hml.zeros(3).device
    'cpu:0'
    """
    backend = named(name)
    with config.scope(device=backend.name), backend.scope():
        yield backend.name
