"""The scalar functions as Numba functions that LLVM inlines and vectorises.

A module of its own, importable by name: Numba's disk cache imports the modules of all functions that were
inlined in a kernel.
"""

from ..targets import execute_sources

execute_sources("cpu", globals())
