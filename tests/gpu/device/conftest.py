"""Tests that need a GPU; where there is none this folder is not collected (see the folder above)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hybridml as hml


@pytest.fixture(autouse=True)
def on_the_gpu() -> Iterator[None]:
    """The first GPU is the current device."""
    with hml.device("gpu:0"):
        yield
