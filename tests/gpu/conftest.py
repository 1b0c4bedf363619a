"""Tests of devices other than the CPU: on a fake one everywhere, on a real one (folder `device`) where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_gpu import FakeGpu, fake_gpu

from hybridml import backends


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Without a GPU the folder of tests for one does not exist."""
    if collection_path.name == "device" and backends.current() is backends.CPU:
        return True
    return None


@pytest.fixture
def gpu() -> Iterator[FakeGpu]:
    """A fake GPU, `gpu:0`; the current device is still the CPU."""
    with fake_gpu() as device:
        yield device
