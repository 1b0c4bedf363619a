"""NVIDIA GPUs through CuPy. Imported when one is opened."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from typing import Any

import numpy as np

from hybridml import backends
from hybridml.backends import Backend
from hybridml.errors import DeviceError

INSTALL = "pip install 'hybridml[cuda13]' (or [cuda12], whichever `nvidia-smi` shows)"


class Gpu(Backend):
    """One GPU. Its arrays are CuPy's, its memory is CuPy's pool, its work goes to CuPy's current stream."""

    on_cpu = False

    def __init__(self, cupy: Any, number: int, count: int) -> None:
        super().__init__()
        self._only = contextlib.nullcontext() if count == 1 else None
        self.xp = cupy
        self.array_type = cupy.ndarray
        self.number = number
        self.name = f"gpu:{number}"

    def put(self, array: np.ndarray) -> Any:
        with self.scope():
            return self.xp.asarray(array)

    def get(self, array: Any) -> np.ndarray:
        found: np.ndarray = self.xp.asnumpy(array)
        if self.unseen:
            self.look()
        return found

    def copy(self, array: Any) -> Any:
        return self.xp.array(array, order="C")

    def store(self, target: Any, values: Any) -> None:
        target[...] = values

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        if self._only is not None:  # whatever is current is this one
            return self._only
        device: contextlib.AbstractContextManager[Any] = self.xp.cuda.Device(self.number)
        return device

    def count(self) -> int:
        """GPUs of this machine."""
        return int(self.xp.cuda.runtime.getDeviceCount())


def open(number: int) -> Gpu:
    """The GPU of this number.

    Raises DeviceError where CuPy, the driver or the GPU is missing, with the cure.
    """
    cupy = _cupy()
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # CuPy's own error class; a missing driver and a driver that is too old are told apart by its text
        raise DeviceError(
            f"no GPU here: {error}. Run: hybridml doctor. To stay on the CPU, unset HYBRIDML_DEVICE"
        ) from None
    if number >= count:
        names = ", ".join(["cpu:0", *[f"gpu:{i}" for i in range(count)]])
        raise DeviceError(f"no device 'gpu:{number}' here; there are {names}")
    gpu = Gpu(cupy, number, count)
    backends.register(gpu, lambda array: backends.named(f"gpu:{array.device.id}"))
    return gpu


def _cupy() -> Any:
    if importlib.util.find_spec("cupy") is None:
        driver = "" if backends.has_driver() else "; nor is an NVIDIA driver found on this machine"
        raise DeviceError(
            f"a GPU needs CuPy, which is not installed{driver}: {INSTALL}. Run: hybridml doctor"
        )
    try:
        return importlib.import_module("cupy")
    except Exception as error:  # a broken installation can raise anything
        raise DeviceError(
            f"a GPU needs CuPy, whose import fails: {error}. Reinstall it: {INSTALL}"
        ) from error
