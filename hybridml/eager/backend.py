"""Devices and the array library behind each."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybridml.errors import DeviceError


def devices() -> list[str]:
    """The devices that tensors can live on here.

    >>> "cpu:0" in devices()
    True
    """
    return ["cpu:0"]


def check_device(name: str) -> str:
    full = name if ":" in name else f"{name}:0"
    if full not in devices():
        raise DeviceError(f"no device {name!r} here; expected one of {', '.join(devices())}")
    return full


def namespace(*arrays: Any) -> Any:
    """The array library of these arrays: numpy, or cupy."""
    return np
