"""ptxas of the wheel that the tests of kernels use; it needs no GPU."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

import pytest


def assemble(ptx: bytes, architecture: str, directory: Path, *flags: str) -> str:
    """What ptxas says of a kernel. Skips the test where it is not installed."""
    try:
        files = importlib.metadata.files("nvidia-cuda-nvcc") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("no ptxas here: pip install nvidia-cuda-nvcc")
    (ptxas,) = [f for f in files if f.name == "ptxas"]
    path = directory / "kernel.ptx"
    path.write_bytes(ptx)
    command = [
        str(ptxas.locate()),
        "-v",
        *flags,
        "-arch",
        architecture,
        "-o",
        str(directory / "out"),
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr
