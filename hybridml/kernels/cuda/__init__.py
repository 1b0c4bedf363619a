"""Programs for NVIDIA GPUs: the same regions and kernels as on the CPU, as launches.

convolutions.py  a pass: convolutions as products over patches (`patches.py`), or a library's
absorb.py        a pass: products take what follows them (`epilogue.py`; `patterns.py`, `uses.py` and `order.py` help)
region.py        a graph's steps as commands: launches, libraries' calls, copies, with addresses
commands.py      what a command is, and how a launch's arguments are packed
segment.py       commands without Python between them: one CUDA graph
program.py       segments and Python steps, and the branches and loops that the host decides
executable.py    what a traced function holds: buffers, inputs, fresh outputs
driver.py        the lowest layer: memory, kernels, streams; `recorder.py` builds graphs, `condition.py` is a kernel of theirs
blas.py, lt.py, cudnn.py   products by cuBLAS, with epilogues by cuBLASLt, convolutions by cuDNN
"""
