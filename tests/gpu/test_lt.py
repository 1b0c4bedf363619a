"""What cuBLASLt is told of a product: numbers, descriptors and preferences, on a library that notes them and on the real one."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import pytest

from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.epilogue import Epilogue
from hybridml.kernels.cuda.lt import CuBlasLt, epilogue_number, kept_row


def test_the_numbers_of_cublaslt() -> None:
    numbers = {  # from cublasLt.h
        Epilogue(): 1, Epilogue(function="relu"): 2, Epilogue(function="relu", keeps=True): 130, Epilogue(bias=True): 4,
        Epilogue(bias=True, function="relu"): 6, Epilogue(bias=True, function="relu", keeps=True): 134, Epilogue(derivative="relu"): 136,
        Epilogue(derivative="relu", sums="rows"): 152, Epilogue(function="gelu"): 32, Epilogue(function="gelu", keeps=True): 160,
        Epilogue(bias=True, function="gelu"): 36, Epilogue(bias=True, function="gelu", keeps=True): 164, Epilogue(derivative="gelu"): 192,
        Epilogue(derivative="gelu", sums="rows"): 208, Epilogue(sums="second"): 256,
    }  # fmt: skip
    for epilogue, number in numbers.items():
        assert epilogue_number(epilogue) == number, epilogue
    assert [kept_row(Epilogue(function="relu"), n) for n in (1, 128, 129)] == [128, 128, 256]
    assert kept_row(Epilogue(derivative="gelu"), 24) == 24


class Recorded:
    """A library whose functions note their arguments and succeed."""

    def __init__(self, found: int = 1) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.found = found

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            self.calls.append((name, args))
            if name == "cublasLtMatmulAlgoGetHeuristic":
                args[-1]._obj.value = self.found
            return 0

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


def plan(epilogue: Epilogue) -> ProductPlan:
    return ProductPlan(64, 128, 32, "float32", False, True, 1, 32, 32, (0, 0, 0), "tf32", epilogue=epilogue)


def opened(library: Any) -> CuBlasLt:
    lt = CuBlasLt(lambda: "", 1 << 20)
    lt._library = library
    return lt


def test_an_algorithm_is_chosen_once_for_each_plan_and_alignment() -> None:
    library = Recorded()
    lt, p = opened(library), plan(Epilogue(bias=True))
    for _ in range(3):
        lt.product(p, [256, 512, 1024], [2048], 4096, 7)
    lt.product(p, [256 + 4, 512, 1024], [2048], 4096, 7)
    assert library.names().count("cublasLtMatmulAlgoGetHeuristic") == 2
    matmuls = [args for name, args in library.calls if name == "cublasLtMatmul"]
    assert len(matmuls) == 4
    assert [a.value for a in matmuls[0] if isinstance(a, ctypes.c_void_p) and a.value] == [
        512,
        256,
        2048,
        2048,
        4096,
        7,
    ]


def test_a_product_that_the_library_has_not_is_refused_with_its_epilogue() -> None:
    assert opened(Recorded()).refuse(plan(Epilogue(bias=True))) is None
    assert "bias, relu" in str(opened(Recorded(found=0)).refuse(plan(Epilogue(bias=True, function="relu"))))


def test_a_residual_is_the_librarys_c_and_may_be_its_d() -> None:
    library = Recorded()
    lt = opened(library)
    lt.product(plan(Epilogue(residual=True, bias=True)), [256, 512, 768, 1024], [2048], 4096, 7)
    lt.product(plan(Epilogue(bias=True)), [256, 512, 1024], [2048], 4096, 7)
    betas, cs = [], []
    for name, args in library.calls:
        if name == "cublasLtMatmul":
            betas.append(args[7]._obj.value)
            cs.append((args[8].value, args[10].value))
    assert betas == [1.0, 0.0]
    assert {type(args[7]._obj) for name, args in library.calls if name == "cublasLtMatmul"} == {
        ctypes.c_float
    }
    lt.product(replace(plan(Epilogue(residual=True)), dtype="float64"), [256, 512, 768], [2048], 4096, 7)
    assert type(library.calls[-1][1][7]._obj) is ctypes.c_double
    assert cs == [(768, 2048), (2048, 2048)]


def read_back(f: Any, descriptor: Any, attribute: int, size: int) -> int:
    value, written = ctypes.c_int64(), ctypes.c_size_t()
    status = f(descriptor, attribute, ctypes.byref(value), ctypes.c_size_t(size), ctypes.byref(written))
    assert (status, written.value) == (0, size), attribute
    return value.value


@pytest.fixture(scope="module")
def real() -> CuBlasLt:
    """The library itself: descriptors need no GPU. Algorithms do, so there are none."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        path = pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path
    except Exception as error:  # its own class
        pytest.skip(f"no cuBLASLt here: {error}")
    return opened(ctypes.CDLL(path))


REAL = {  # epilogue, batch: bytes of the bias's distance and of what is kept
    "single": (Epilogue(bias=True, function="relu", keeps=True), 1, 0, 128),
    "backward": (Epilogue(derivative="gelu", sums="rows"), 1, 128, 128),
    "batch": (Epilogue(residual=True, bias=True, function="gelu", keeps=True), 5, 0, 128),
    "biases": (Epilogue(bias=True, each=True, function="relu", keeps=True), 5, 128, 128),
    "batch backward": (Epilogue(derivative="relu", sums="rows"), 5, 128, 128),
    "second": (Epilogue(sums="second"), 5, 128, 0),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", REAL)
def test_the_real_library_takes_our_descriptors(name: str, dtype: str, real: CuBlasLt) -> None:
    """It is asked what it understood."""
    epilogue, batch, step, row = REAL[name]
    p = replace(plan(epilogue), dtype=dtype, batch=batch, strides=(64 * 32, 0, 64 * 128))
    found = real._descriptors(p, [256] * 6)
    product = real._library.cublasLtMatmulDescGetAttribute
    compute = {"float64": 70, "float32": 77}.get(dtype, 68)
    sizes = {0: 4, 1: 4, 3: 4, 4: 4, 7: 4, 10: 8, 12: 8, 13: 8}
    said = {a: read_back(product, found.product, a, size) for a, size in sizes.items()}
    number = epilogue_number(epilogue)
    assert said == {
        0: compute,
        1: int(dtype == "float64"),
        3: 1,
        4: 0,
        7: number,
        10: step,
        12: row,
        13: row * 64,
    }
    kind = {"float64": 1, "float32": 0, "float16": 2, "bfloat16": 14}[dtype]
    layout = real._library.cublasLtMatrixLayoutGetAttribute
    shapes = {"a": (32, 128, 32, 0), "b": (32, 64, 32, 64 * 32), "d": (128, 64, 128, 64 * 128)}
    for which, (rows, columns, ld, distance) in shapes.items():
        descriptor = getattr(found, which)
        sizes = {0: 4, 2: 8, 3: 8, 4: 8, 5: 4, 6: 8}
        said = {a: read_back(layout, descriptor, a, size) for a, size in sizes.items()}
        distance = distance if batch > 1 else 0
        assert said == {0: kind, 2: rows, 3: columns, 4: ld, 5: batch, 6: distance}, which


def test_sums_of_16_bit_products_are_added_up_in_float32(real: CuBlasLt) -> None:
    """What is asked of the heuristics, by the library's own reading."""
    preference, known = ctypes.c_void_p(), []
    f = real._library.cublasLtMatmulPreferenceSetAttribute
    for dtype in ("float32", "float16", "bfloat16"):
        library = Recorded()
        opened(library)._descriptors(replace(plan(Epilogue(bias=True)), dtype=dtype), [256] * 6)
        assert not real._library.cublasLtMatmulPreferenceCreate(ctypes.byref(preference))
        for name, args in library.calls:
            if name == "cublasLtMatmulPreferenceSetAttribute":
                assert f(preference, *args[1:]) == 0
        get = real._library.cublasLtMatmulPreferenceGetAttribute
        known.append([read_back(get, preference, a, size) for a, size in ((1, 8), (3, 4), (5, 4), (8, 4))])
    assert known == [[1 << 20, 7, 256, 256], [1 << 20, 2, 256, 256], [1 << 20, 2, 256, 256]]
