"""Matrix products with epilogues by cuBLASLt, called through ctypes.

Not nvmath-python: its bindings are the same calls, and the library comes in the wheel (or toolkit) that has cuBLAS, which is needed
anyway; its `Matmul` objects hold operands and ask the memory pool while running, which a recorded stream forbids. Numbers are those
of cublasLt.h 13.

The algorithm is chosen by the library's heuristics, once for each plan and alignment. As for cuBLAS, a row-major d = a @ b is the
column-major d' = b' @ a', so our columns are its rows: a bias over our last axis is its bias, our b is its matrix A. A residual is its
matrix C, which may be D itself. Products of 16-bit elements leave out algorithms that add up parts of a sum in 16 bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from dataclasses import dataclass
from typing import Any

from hybridml.errors import DeviceError
from hybridml.kernels.cuda.blas import kinds
from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.epilogue import SIGNS_IN_A_ROW, Epilogue

# cublasLtMatmulDescAttributes_t
_TRANSA, _TRANSB, _EPILOGUE, _BIAS_POINTER, _BIAS_STEP = 3, 4, 7, 8, 10
_AUX_POINTER, _AUX_LD, _AUX_STEP = 11, 12, 13
_BATCH, _STEP = 5, 6  # cublasLtMatrixLayoutAttribute_t
_MOST_WORKSPACE = 1  # cublasLtMatmulPreferenceAttributes_t
_REDUCTION = 3
_ALIGNMENTS = (5, 6, 7, 8)  # the least of A, B, C and D
_IN_COMPUTE_TYPE = 2  # cublasLtReductionScheme_t: how parts of a sum are added
_TRANSPOSED = 1  # cublasOperation_t
ALIGNED = 16  # bytes: where every buffer of a call begins at least
_BIAS, _RELU, _DRELU, _SUMS, _GELU, _DGELU, _KEEPS, _SECOND, _NOTHING = (
    4,
    2,
    8 | 128,
    16,
    32,
    64 | 128,
    128,
    256,
    1,
)


class _Algorithm(ctypes.Structure):
    _fields_ = [("data", c_uint64 * 8)]


class _Choice(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", _Algorithm), ("workspace", c_size_t), ("state", c_int), ("waves", c_float), ("reserved", c_int * 4),
    ]  # fmt: skip


def epilogue_number(e: Epilogue) -> int:
    """cublasLtEpilogue_t."""
    if e.sums == "second":
        return _SECOND
    number = _BIAS * e.bias + {"": 0, "relu": _RELU, "gelu": _GELU}[e.function] + _KEEPS * e.keeps
    return (
        number + {"": 0, "relu": _DRELU, "gelu": _DGELU}[e.derivative] + _SUMS * (e.sums == "rows")
    ) or _NOTHING


def kept_row(e: Epilogue, columns: int) -> int:
    """Elements from one row of what is kept to the next: bits, or numbers."""
    relu = "relu" in (e.function, e.derivative)
    return -(-columns // SIGNS_IN_A_ROW) * SIGNS_IN_A_ROW if relu else columns


@dataclass
class _Descriptors:
    product: c_void_p
    a: c_void_p
    b: c_void_p
    d: c_void_p
    choice: _Choice | None  # None: the library has no such product


class CuBlasLt:
    """cuBLASLt for one GPU; `path` finds the library. Not for two threads at once."""

    def __init__(self, path: Any, workspace: int) -> None:
        self._path, self._workspace = path, workspace
        self._library: Any = None
        self._handle = c_void_p()
        self._known: dict[tuple[ProductPlan, tuple[int, ...]], _Descriptors] = {}

    def refuse(self, p: ProductPlan, aligned: int = ALIGNED) -> str | None:
        """Why there is no such product of buffers that begin at multiples of so many bytes, or None."""
        try:
            own = "relu" in (p.epilogue.function, p.epilogue.derivative)  # signs lie in a buffer of their own
            found = self._descriptors(p, [*[aligned] * 5, ALIGNED if own else aligned])
        except DeviceError as error:  # the library is missing
            return str(error)
        return (
            None
            if found.choice is not None
            else f"cuBLASLt has no product with the epilogue `{p.epilogue}` for these sizes"
        )

    def product(
        self, p: ProductPlan, reads: Sequence[int], writes: Sequence[int], workspace: int, stream: int
    ) -> None:
        """The product of `reads` (a, b, then the residual, the bias, what a derivative reads) into `writes` (result, kept, sums)."""
        a, b, *more = reads
        d, *also = writes
        c = more.pop(0) if p.epilogue.residual else d
        bias = more.pop(0) if p.epilogue.bias else also[-1] if p.epilogue.sums else 0
        kept = also[0] if p.epilogue.keeps else more[0] if p.epilogue.derivative else 0
        found = self._descriptors(p, [b, a, c, d, bias, kept])
        if found.choice is None:
            raise DeviceError(
                f"cuBLASLt: no product {p} for buffers at {[hex(x) for x in (*reads, *writes)]}"
            )
        self._set(found.product, _BIAS_POINTER, c_void_p(bias))
        self._set(found.product, _AUX_POINTER, c_void_p(kept))
        factor = kinds(p).factor
        one, beta = factor(1), factor(p.epilogue.residual)
        self._call(
            "cublasLtMatmul", self._handle, found.product, byref(one), c_void_p(b), found.a, c_void_p(a), found.b, byref(beta),
            c_void_p(c), found.d, c_void_p(d), found.d, byref(found.choice.algorithm), c_void_p(workspace),
            c_size_t(self._workspace), c_void_p(stream),
        )  # fmt: skip

    def _descriptors(self, p: ProductPlan, addresses: Sequence[int]) -> _Descriptors:
        """What the library is told of a product, and what it chose, once for each alignment."""
        alignments = tuple([min(256, x & -x) if x else 256 for x in addresses])
        key = p, alignments
        if key not in self._known:
            self._known[key] = self._describe(p, addresses, alignments)
        return self._known[key]

    def _describe(
        self, p: ProductPlan, addresses: Sequence[int], alignments: tuple[int, ...]
    ) -> _Descriptors:
        self._open()
        product, e = c_void_p(), p.epilogue
        _, compute, factors, _ = kinds(p)
        self._call("cublasLtMatmulDescCreate", byref(product), c_int(compute), c_int(factors))
        self._set(product, _TRANSA, c_int32(_TRANSPOSED * p.tb))
        self._set(product, _TRANSB, c_int32(_TRANSPOSED * p.ta))
        self._set(product, _EPILOGUE, c_uint32(epilogue_number(e)))
        self._set(product, _BIAS_POINTER, c_void_p(addresses[4]))
        if e.each or e.sums:
            self._set(product, _BIAS_STEP, c_int64(p.n))
        if e.keeps or e.derivative:
            row = kept_row(e, p.n)
            self._set(product, _AUX_POINTER, c_void_p(addresses[5]))
            self._set(product, _AUX_LD, c_int64(row))
            self._set(product, _AUX_STEP, c_int64(row * p.m))
        step_a, step_b, step_d = p.strides
        a = self._layout(p, *((p.k, p.n) if p.tb else (p.n, p.k)), p.ldb, step_b)
        b = self._layout(p, *((p.m, p.k) if p.ta else (p.k, p.m)), p.lda, step_a)
        d = self._layout(p, p.n, p.m, p.n, step_d)
        choice = self._choice(p, alignments, product, a, b, d)
        return _Descriptors(product, a, b, d, choice)

    def _choice(
        self, p: ProductPlan, alignments: tuple[int, ...], product: c_void_p, a: c_void_p, b: c_void_p, d: c_void_p
    ) -> _Choice | None:  # fmt: skip
        """What the heuristics put first."""
        preference, choice, count = c_void_p(), _Choice(), c_int()
        self._call("cublasLtMatmulPreferenceCreate", byref(preference))
        wanted: list[tuple[int, Any]] = [(_MOST_WORKSPACE, c_size_t(self._workspace))]
        wanted += [(name, c_uint32(n)) for name, n in zip(_ALIGNMENTS, alignments[:4], strict=True)]
        wanted += [(_REDUCTION, c_uint32(_IN_COMPUTE_TYPE))] if p.dtype in ("float16", "bfloat16") else []
        for name, value in wanted:
            self._call(
                "cublasLtMatmulPreferenceSetAttribute",
                preference,
                c_int(name),
                byref(value),
                c_size_t(sizeof(value)),
            )
        status = self._library.cublasLtMatmulAlgoGetHeuristic(
            self._handle, product, a, b, d, d, preference, c_int(1), byref(choice), byref(count)
        )
        self._call("cublasLtMatmulPreferenceDestroy", preference)
        return choice if status == 0 and count.value > 0 and choice.state == 0 else None

    def _layout(self, p: ProductPlan, rows: int, columns: int, ld: int, step: int) -> c_void_p:
        found = c_void_p()
        sizes = (c_uint64(rows), c_uint64(columns), c_int64(ld))
        self._call("cublasLtMatrixLayoutCreate", byref(found), c_int(kinds(p).elements), *sizes)
        for attribute, value in ((_BATCH, c_int32(p.batch)), (_STEP, c_int64(step))) if p.batch > 1 else ():
            self._call(
                "cublasLtMatrixLayoutSetAttribute",
                found,
                c_int(attribute),
                byref(value),
                c_size_t(sizeof(value)),
            )
        return found

    def _set(self, product: c_void_p, attribute: int, value: Any) -> None:
        self._call(
            "cublasLtMatmulDescSetAttribute", product, c_int(attribute), byref(value), c_size_t(sizeof(value))
        )

    def _open(self) -> None:
        if self._library is None:
            self._library = ctypes.CDLL(self._path())
            self._call("cublasLtCreate", byref(self._handle))

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._library, name)(*args)
        if status:
            raise DeviceError(f"cuBLASLt: {name} failed with status {status}")


__all__ = ["CuBlasLt", "epilogue_number", "kept_row"]
