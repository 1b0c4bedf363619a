"""The notebook runs from top to bottom, as a reader would run it, in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "eager_vs_function.ipynb"


def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the notebook trains on scikit-learn's digits")
    # In a process of its own: the notebook client runs an event loop whose warnings are not ours to fail on.
    env = os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython"), "MPLBACKEND": "agg"}
    command = [
        sys.executable,
        str(ROOT / "notebooks" / "run.py"),
        str(NOTEBOOK),
        str(tmp_path / "done.ipynb"),
    ]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    cells = [c for c in nbformat.read(tmp_path / "done.ipynb", as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    printed = "".join(o.get("text", "") for c in cells for o in c.outputs)
    assert printed.count("tracing with") == 2, "two signatures, two traces"
    kinds = {kind for c in cells for o in c.outputs for kind in o.get("data", {})}
    assert {"image/svg+xml", "text/html"} <= kinds


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
