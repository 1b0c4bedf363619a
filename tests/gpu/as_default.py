"""A pytest plugin: the fake GPU is the default device of the whole run. `pytest -p as_default` with this folder on PYTHONPATH.

A test that runs longer than `LIMIT` seconds is ended: kernels read as Python are slow on large tensors, which says nothing.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any

import pytest
from fake_gpu import fake_gpu

from hybridml import config as settings

LIMIT = 10
_open = fake_gpu()


def pytest_configure(config: Any) -> None:
    """Before tests are collected: they make tensors then."""
    _open.__enter__()
    chosen = replace(settings.from_environment(), device="gpu:0")
    settings._process_wide = lambda: chosen  # type: ignore[assignment]  # for the whole process


class TooSlow(BaseException):
    """The test took too long on the fake device."""


def _stop(*_: Any) -> None:
    raise TooSlow


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Any:
    """End tests that take too long."""
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(LIMIT)
    try:
        return (yield)
    except TooSlow:
        pytest.fail(f"too slow: more than {LIMIT} s", pytrace=False)
    finally:
        signal.alarm(0)
