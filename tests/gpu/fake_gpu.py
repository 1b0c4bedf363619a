"""A device "gpu:0" without a GPU, for tests: arrays of `fake_cupy`, programs run by `fake_driver`."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from fake_cupy import FakeArray, FakeCupy

from hybridml import backends
from hybridml.backends import Backend

SPECIAL = "cupyx.scipy.special"


class FakeGpu(Backend):
    """The backend that `hybridml.backends.gpu.Gpu` is on a real one."""

    on_cpu = False
    name = "gpu:0"

    def __init__(self) -> None:
        super().__init__()
        self.xp: Any = FakeCupy()
        self.array_type = FakeArray
        self._driver: Any = None

    def put(self, array: np.ndarray) -> Any:
        return FakeArray(np.array(array))

    def get(self, array: Any) -> np.ndarray:
        if self._driver is not None:
            self._driver.catch_up()
        found: np.ndarray = self.xp.asnumpy(array)
        if self.unseen:
            self.look()
        return found

    def copy(self, array: Any) -> Any:
        return self.xp.array(array, order="C")

    def store(self, target: Any, values: Any) -> None:
        target[...] = values

    @property
    def driver(self) -> Any:
        if self._driver is None:
            from fake_driver import FakeDriver

            self._driver = FakeDriver()
        return self._driver


def special() -> types.ModuleType:
    """cupyx.scipy.special, as far as it is used."""
    from scipy import special

    module = types.ModuleType(SPECIAL)
    module.erf = lambda x: FakeArray(np.asarray(special.erf(x._a)))  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """The fake device is open inside; it is not the current one until asked for."""
    gpu = FakeGpu()
    with (
        mock.patch.dict(backends._open),
        mock.patch.dict(backends._of_array),
        mock.patch.object(backends, "elsewhere", True),
    ):
        backends.register(gpu)
        backends._open["gpu"] = gpu
        sys.modules[SPECIAL] = (
            special()
        )  # not by `patch.dict`, which would forget all modules that are imported meanwhile
        try:
            yield gpu
        finally:
            del sys.modules[SPECIAL]
