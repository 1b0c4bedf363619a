"""Kernels printed for CUDA, compiled and assembled for the tests; no GPU is needed."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_cases import lowerings, scratch, traced

from hybridml.kernels import emit_cuda
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import Lowered
from hybridml.kernels.ptx import compile_ptx, restated

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def kernels(graph: Any) -> list[Lowered]:
    return [low for _, lows in lowerings(graph) for low in lows]


def only_kernel(f: Any, *args: Any) -> Lowered:
    (low,) = kernels(traced(f, *args)[0])
    return low


ON_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
compiles = pytest.mark.skipif(
    not ON_LINUX, reason="NVIDIA's compilers are packaged for Linux on x86-64 and ARM64"
)


@functools.cache
def ptxas() -> Path:
    files = importlib.metadata.files("nvidia-cuda-nvcc") or []
    (found,) = [f for f in files if f.name == "ptxas"]
    return Path(str(found.locate()))


def assemble(
    low: Lowered, shape: Shape, phase: Phase, directory: Path, architectures: Any, fast: bool = False
) -> str:
    """The PTX of a kernel, whose machine code needs at most 128 registers and no memory for more."""
    name, source = emit_cuda.emit(low.spec, shape, phase, scratch(low), fast)
    _, text = compile_ptx(name, source, emit_cuda.parameters(low.spec, shape, phase), (8, 0))
    path = directory / "kernel.ptx"
    path.write_bytes(restated(text.encode()))  # of which no driver is too old
    for architecture in architectures:
        command = [str(ptxas()), "-v", "-arch", architecture, "-o", "/dev/null", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stderr}\n{source}"
        (registers,) = re.findall(r"Used (\d+) registers", done.stderr)
        assert int(registers) <= 128, source
        assert re.findall(r"(\d+) bytes (?:stack frame|spill)", done.stderr) == ["0"] * 3, source
    return text


def instructions(text: str, name: str) -> int:
    """How often an instruction stands in a kernel's PTX."""
    return len(re.findall(rf"\b{re.escape(name)}\b", text))
