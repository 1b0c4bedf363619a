"""Matrix products by cuBLAS, called through ctypes.

CuPy has cuBLAS too, but refuses to call it while a stream is being recorded
(https://github.com/cupy/cupy/issues/7079 asks for it; `cupy_backends/cuda/libs/cublas.pyx`, `setStream`, says why not).

cuBLAS is column-major: a row-major c = a @ b is its c' = b' @ a'. The workspace is our own, so that nothing is allocated while recording
and equal inputs give equal bits on every stream; no two graphs and no two streams share one. Products of 16-bit elements are summed in
float32, parts of a sum too, and rounded once.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_double, c_float, c_int, c_longlong, c_size_t, c_void_p
from typing import Any, NamedTuple

from hybridml.errors import DeviceError
from hybridml.kernels.cuda.commands import ProductPlan

WORKSPACE = 32 << 20  # bytes; what NVIDIA recommends for Hopper (and 4 MiB before it)
# cudaDataType_t: CUDA_R_32F, CUDA_R_64F, CUDA_R_16F, CUDA_R_16BF
_REAL = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
# cublasComputeType_t: CUBLAS_COMPUTE_32F, _32F_FAST_TF32, _32F_FAST_16BF, CUBLAS_COMPUTE_64F
_COMPUTE = {"float32": 68, "tf32": 77, "bfloat16": 75, "float64": 70}
_DEFAULT_ALGORITHM = -1
_SUMS_IN_FLOAT32 = (
    16  # cublasMath_t: CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, beside CUBLAS_DEFAULT_MATH
)
_AS_IS, _TRANSPOSED = 0, 1


class Kinds(NamedTuple):
    """What a product is computed in: numbers of cudaDataType_t and cublasComputeType_t, and what a factor is to ctypes."""

    elements: int
    compute: int
    factors: int
    factor: type[c_float | c_double]


def kinds(p: ProductPlan) -> Kinds:
    """Those of a plan. Elements of 16 bits are added up in float32."""
    if p.dtype == "float64":
        return Kinds(_REAL["float64"], _COMPUTE["float64"], _REAL["float64"], c_double)
    compute = _COMPUTE[p.precision if p.dtype == "float32" else "float32"]
    return Kinds(_REAL[p.dtype], compute, _REAL["float32"], c_float)


class CuBlas:
    """A handle of cuBLAS for one GPU. Not for two threads at once."""

    def __init__(self) -> None:
        self._handle: c_void_p | None = None

    def open(self) -> None:
        """Make the handle, if there is none yet."""
        if self._handle is not None:
            return
        library = ctypes.CDLL(library_path("cublas"))
        f = library.cublasGemmStridedBatchedEx
        matrix: list[Any] = [
            c_void_p,
            c_int,
            c_int,
            c_longlong,
        ]  # address, type, leading dimension, distance to the next
        f.argtypes = [
            c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p, *matrix, *matrix, c_void_p, *matrix, c_int, c_int, c_int,
        ]  # fmt: skip
        self._gemm = f
        self._set_stream, self._set_workspace = library.cublasSetStream_v2, library.cublasSetWorkspace_v2
        self._set_stream.argtypes = [c_void_p, c_void_p]
        self._set_workspace.argtypes = [c_void_p, c_void_p, c_size_t]
        handle = c_void_p()
        library.cublasCreate_v2.argtypes = [c_void_p]
        _check(library.cublasCreate_v2(byref(handle)), "cublasCreate")
        library.cublasSetMathMode.argtypes = [c_void_p, c_int]
        _check(library.cublasSetMathMode(handle, _SUMS_IN_FLOAT32), "cublasSetMathMode")
        self._handle = handle

    def product(self, p: ProductPlan, a: int, b: int, c: int, workspace: int, stream: int) -> None:
        """c = op(a) @ op(b), in the order of the stream; the workspace is of WORKSPACE bytes."""
        self.open()
        _check(self._set_stream(self._handle, stream), "cublasSetStream")
        _check(self._set_workspace(self._handle, workspace, WORKSPACE), "cublasSetWorkspace")
        kind, compute, _, factor = kinds(p)
        one, zero = factor(1.0), factor(0.0)
        step_a, step_b, step_c = p.strides
        _check(
            self._gemm(
                self._handle, _TRANSPOSED if p.tb else _AS_IS, _TRANSPOSED if p.ta else _AS_IS, p.n, p.m, p.k, byref(one),
                b, kind, p.ldb, step_b, a, kind, p.lda, step_a, byref(zero), c, kind, p.n, step_c, p.batch, compute,
                _DEFAULT_ALGORITHM,
            ),
            f"cublasGemmStridedBatchedEx of {p}",
        )  # fmt: skip


def _check(status: int, what: str) -> None:
    if status:
        raise DeviceError(f"cuBLAS: {what} failed with status {status}")


def library_path(name: str) -> str:
    """Where a library is that comes with CuPy's or the toolkit's wheels, or with the system's toolkit ("cublas", "cublasLt")."""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # type: ignore[import-not-found,import-untyped,unused-ignore]  # with numba-cuda

    try:
        path: str = load_nvidia_dynamic_lib(name).abs_path
    except Exception as error:  # its own error class
        raise DeviceError(
            f"{name} is not found: {error}. pip install nvidia-cublas (or nvidia-cublas-cu12 for CUDA 12)"
        ) from error
    return path
