"""The language that kernels are written in: a small, typed part of Python.

A kernel's text is Python that Numba compiles. Its functions, `Device`, and the machine operations below them, `Intrinsic`, are
declared here without Numba, so that two compilers can read them: `hybridml.kernels.translate`, which writes LLVM code at once, and
`hybridml.kernels.numba_compiler`, which hands them to Numba.
"""
