"""Run a notebook from top to bottom and write it with its outputs: `python notebooks/run.py IN.ipynb OUT.ipynb`.

Plots go beside the result. Ends with an error if a cell fails.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def run(source: Path, result: Path, timeout: int = 600) -> nbformat.NotebookNode:
    """The executed notebook, also written to `result`."""
    result.parent.mkdir(parents=True, exist_ok=True)
    os.environ["HYBRIDML_NOTEBOOK_OUT"] = str(result.parent.resolve())
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": "."}}
    )
    client.execute()
    nbformat.write(notebook, result)
    return notebook


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    run(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"written: {sys.argv[2]}")
