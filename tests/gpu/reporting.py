"""A pytest plugin for `run.py`: runs one share of the tests, and writes what happens to each down at once, one JSON line an event.

Where the process has lost its GPU (after an illegal access, say) every later test would fail with the same error: it ends there, and
`run.py` runs the rest in another one.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

LOST = 17  # exit code


def pytest_addoption(parser: Any) -> None:
    """What `run.py` says."""
    parser.addoption("--events", help="the file that events are added to")
    parser.addoption("--done", default="", help="a file with the names of tests that have run")
    parser.addoption(
        "--mixed", action="store_true", help="in an order that is no file's, but always the same"
    )
    parser.addoption("--share", default="0/1", help="K/N: every Nth test, from the Kth")


def pytest_configure(config: Any) -> None:
    """Remember where to write."""
    global _events
    _events = config.getoption("--events")


def _write(**event: Any) -> None:
    with open(_events, "a") as file:
        file.write(json.dumps({**event, "time": time.time()}) + "\n")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep this process's share of what has not run yet."""
    k, n = map(int, config.getoption("--share").split("/"))
    file = config.getoption("--done")
    done = set(Path(file).read_text().splitlines()) if file else set()
    if config.getoption("--mixed"):  # so that all files have their turn where the time is short
        random.Random(0).shuffle(items)
    items[:] = [item for item in items[k::n] if item.nodeid not in done]
    _write(event="collected", tests=len(items))


def pytest_collectreport(report: Any) -> None:
    """A file that cannot be imported."""
    if report.failed:
        _write(event="end", test=report.nodeid, outcome="error", seconds=0, text=report.longreprtext)


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test begins."""
    _write(event="begin", test=nodeid)


_outcomes: dict[str, Any] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """What became of a test, with its traceback: the worst of its three phases."""
    found = _outcomes.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "text": ""})
    found["seconds"] += report.duration
    if report.failed and found["outcome"] != "failed":
        sections = "\n".join(
            f"{title}:\n{text[-2000:]}" for title, text in report.sections if "Captured" in title
        )
        found.update(outcome="failed", text=f"{report.longreprtext}\n{sections}".rstrip())
    elif report.skipped and found["outcome"] == "passed":
        found.update(outcome="skipped", text=str(report.longrepr))
    if report.when == "teardown":
        _write(event="end", test=report.nodeid, **_outcomes.pop(report.nodeid))
        if found["outcome"] == "failed" and _gpu_is_lost():
            _write(event="lost", test=report.nodeid)
            os._exit(LOST)


def _gpu_is_lost() -> bool:
    from hybridml import backends

    gpu: Any = backends._open.get("gpu:0")
    if gpu is None or not hasattr(gpu.xp, "cuda"):
        return False
    try:
        gpu.xp.cuda.runtime.deviceSynchronize()
    except Exception:
        return True
    return False


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """All of the share has run."""
    _write(event="finished")
