"""An optimised graph as a program for a device."""

from __future__ import annotations

from hybridml.backends import Backend
from hybridml.kernels.executable import Executable
from hybridml.kernels.fuser import Fusions
from hybridml.trace.graph import Graph


def executable(graph: Graph, backend: Backend, known: Fusions | None = None) -> Executable:
    """The program of a graph for one device. What CUDA needs is imported for a GPU only."""
    if backend.on_cpu:
        return Executable(graph, known)
    from hybridml.kernels.cuda.executable import CudaExecutable

    return CudaExecutable(graph, backend, known)
