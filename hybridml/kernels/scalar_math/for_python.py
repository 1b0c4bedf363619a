"""The scalar functions as functions of NumPy scalars.

A module of its own, importable by name: Numba's disk cache imports the modules of all functions that were
inlined in a kernel.
"""

from ..targets import execute_sources

execute_sources("python", globals())
