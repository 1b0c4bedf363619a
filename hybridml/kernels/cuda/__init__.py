"""Programs for NVIDIA GPUs: the same regions and kernels as on the CPU, as launches.

region.py      a graph's steps as commands: launches, matrix products, copies, with addresses
commands.py    what a command is, and how a launch's arguments are packed
segment.py     commands without Python between them: one CUDA graph
program.py     segments, branches, loops and Python steps, in order
executable.py  what a traced function holds: buffers, inputs, fresh outputs
driver.py      the lowest layer: everything that talks to CUDA
blas.py        matrix products by cuBLAS
"""
