"""What cuBLAS is told of a product, by a library that notes it, and by the real one where it is installed."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from hybridml.errors import DeviceError
from hybridml.kernels.cuda import blas
from hybridml.kernels.cuda.blas import WORKSPACE, CuBlas
from hybridml.kernels.cuda.commands import ProductPlan

STEPS = (64 * 32, 0, 64 * 128)


class Noted:
    """A function of the library: its arguments, and 0, or the status that it is given."""

    def __init__(self, name: str, calls: list[tuple[str, tuple[Any, ...]]], status: int) -> None:
        self.name, self.calls, self.status = name, calls, status
        self.argtypes: list[Any] | None = None

    def __call__(self, *args: Any) -> int:
        assert self.argtypes is not None
        assert len(args) == len(self.argtypes), self.name
        for kind, x in zip(self.argtypes, args, strict=True):
            kind.from_param(x)
        self.calls.append((self.name, args))
        return self.status


class Library:
    """cuBLAS, that does nothing."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._failing, self._functions = failing, {}  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Noted:
        status = 7 if name == self._failing else 0
        return self._functions.setdefault(name, Noted(name, self.calls, status))


def opened(monkeypatch: pytest.MonkeyPatch, library: Any) -> CuBlas:
    monkeypatch.setattr(blas, "library_path", lambda name: name)
    monkeypatch.setattr(blas.ctypes, "CDLL", lambda path: library)
    return CuBlas()


def plan(dtype: str, precision: str = "float32") -> ProductPlan:
    return ProductPlan(64, 128, 32, dtype, False, True, 3, 32, 33, STEPS, precision)


@pytest.mark.parametrize(
    ("dtype", "precision", "kind", "compute", "number"),
    [
        ("float32", "float32", 0, 68, ctypes.c_float), ("float32", "tf32", 0, 77, ctypes.c_float),
        ("float32", "bfloat16", 0, 75, ctypes.c_float), ("float64", "tf32", 1, 70, ctypes.c_double),
        ("float16", "tf32", 2, 68, ctypes.c_float), ("bfloat16", "float32", 14, 68, ctypes.c_float),
    ],
)  # fmt: skip
def test_a_product_is_that_of_the_transposed(
    dtype: str, precision: str, kind: int, compute: int, number: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library()
    cublas = opened(monkeypatch, library)
    for _ in range(2):
        cublas.product(plan(dtype, precision), 256, 512, 1024, 4096, 7)
    names = [name for name, _ in library.calls]
    each = ["cublasSetStream_v2", "cublasSetWorkspace_v2", "cublasGemmStridedBatchedEx"]
    assert names == ["cublasCreate_v2", "cublasSetMathMode", *each, *each]
    said = dict(library.calls)
    assert said["cublasSetMathMode"][1] == 16  # parts of a sum are not added up in 16 bits
    assert said["cublasSetWorkspace_v2"][1:] == (4096, WORKSPACE)
    args = list(said["cublasGemmStridedBatchedEx"][1:])
    assert [type(args[k]._obj) for k in (5, 14)] == [number, number]
    assert [args.pop(k)._obj.value for k in (14, 5)] == [0, 1]
    assert args == [
        1, 0, 128, 64, 32, 512, kind, 33, 0, 256, kind, 32, 64 * 32, 1024, kind, 128, 64 * 128, 3, compute, -1
    ]  # fmt: skip


def test_a_failure_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    cublas = opened(monkeypatch, Library("cublasGemmStridedBatchedEx"))
    with pytest.raises(DeviceError, match=r"cublasGemmStridedBatchedEx of ProductPlan.*status 7"):
        cublas.product(plan("float32"), 256, 512, 1024, 4096, 7)


def test_the_real_library_has_what_we_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and numbers of arguments cannot be asked of a library; that there are such functions, and no handle without a GPU, can."""
    pytest.importorskip("cuda.pathfinder")
    try:
        path = blas.library_path("cublas")
    except DeviceError as error:
        pytest.skip(str(error))
    library = ctypes.CDLL(path)
    noted = Library()
    opened(monkeypatch, noted).product(plan("float32"), 256, 512, 1024, 4096, 7)
    for name, _ in noted.calls:
        assert hasattr(library, name)
