"""A pytest plugin: for each graph that a run compiles for the CPU, the CUDA kernels that a GPU would get are written to a folder.

`pytest -p gather` with this folder on PYTHONPATH, and the folder for the kernels in HYBRIDML_GATHER. `sweep.py` assembles them.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from hybridml.kernels import executable
from hybridml.kernels.cuda.commands import Kernel
from hybridml.kernels.cuda.region import CudaRegion
from hybridml.kernels.region import Meter
from hybridml.trace.graph import Graph

FOLDER = Path(os.environ["HYBRIDML_GATHER"])


class Gathering:
    """The driver of a GPU like an H200, which keeps the text of each kernel that it is asked for. `fuses` says that libraries have every
    epilogue and convolution that they are asked for."""

    capability = (9, 0)
    multiprocessors = 132
    shared_bytes = 227 << 10
    conditionals = True

    def __init__(self, fuses: bool) -> None:
        self.fuses = fuses

    def refuse(self, plan: Any, aligned: int = 16) -> str | None:
        return None if self.fuses else "it is asked what else there would be"

    def kernel(self, name: str, source: str, parameters: Any, shared: bool = False) -> Kernel:
        given = [(p.name, p.dtype.str, p.pointer) for p in parameters]
        text = json.dumps({"name": name, "parameters": given, "source": source})
        path = FOLDER / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.kernel"
        if not path.exists():
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_text(text)
            beside.replace(path)
        return Kernel(name, source, parameters, None, "memory", 0.0)


_compiled: list[Graph] = []
_known: set[str] = set()


def pytest_configure(config: Any) -> None:
    """From now on it is noted what is compiled for the CPU."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    init = executable.Executable.__init__

    @wraps(init)
    def noted(self: Any, graph: Graph, known: Any = None) -> None:
        init(self, graph, known)
        _compiled.append(graph)

    executable.Executable.__init__ = noted  # type: ignore[method-assign]  # for the whole run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: Any) -> Any:
    """After a test, so that it does not see it, what it has compiled is planned for a GPU, too."""
    yield
    while _compiled:
        graph = _compiled.pop()
        if graph.key() not in _known:
            _known.add(graph.key())
            for fuses in (True, False):
                CudaRegion(graph, Gathering(fuses), Meter())
