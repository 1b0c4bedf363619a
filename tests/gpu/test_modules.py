"""What the driver says is told, and a text that is too new for it is loaded with the version that its target needs."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from hybridml.errors import DeviceError, DeviceMemoryError
from hybridml.kernels.ptx import restated

cu = pytest.importorskip("cuda.bindings.driver")

PTX = b"//\n// Cuda compilation tools, release 13.5\n.version 9.5\n.target sm_90\n.address_size 64\n.visible .entry k() { ret; }"
_GOOD, _NEW, _BAD = (
    cu.CUresult.CUDA_SUCCESS, cu.CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cu.CUresult.CUDA_ERROR_INVALID_PTX,
)  # fmt: skip


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A driver of CUDA 13.0 that keeps the texts it was given, and refuses those of PTX 9.1 and later."""
    seen: dict[str, Any] = {"texts": [], "answer": None}

    def load(address: int) -> tuple[Any, Any]:
        text = ctypes.string_at(address)
        seen["texts"].append(text)
        if seen["answer"] is not None:
            return seen["answer"], None
        return (_NEW, None) if b".version 9.5" in text else (_GOOD, "module")

    def explain(address: int, n: int, options: list[Any], values: list[Any]) -> tuple[Any, Any]:
        assert len(options) == len(values) == n
        values[0][:8] = b"line 4: "
        return _BAD, None

    for name, f in {
        "cuModuleLoadData": load,
        "cuModuleLoadDataEx": explain,
        "cuModuleGetFunction": lambda module, symbol: (_GOOD, (module, symbol)),
        "cuDriverGetVersion": lambda: (_GOOD, 13000),
        "cuGetErrorName": lambda status: (_GOOD, status.name.encode()),
        "cuGetErrorString": lambda status: (_GOOD, b"meaning"),
    }.items():
        monkeypatch.setattr(cu, name, f)
    return seen


def test_a_text_that_is_too_new_is_loaded_as_an_older_one(driver: dict[str, Any]) -> None:
    from hybridml.kernels.cuda.modules import function

    assert function(PTX, "k", "my_kernel") == ("module", b"k")
    assert driver["texts"] == [PTX, PTX.replace(b"9.5", b"7.8")]


def test_a_refused_kernel_is_named_with_what_was_tried(driver: dict[str, Any]) -> None:
    from hybridml.kernels.cuda.modules import function

    driver["answer"] = _BAD
    with pytest.raises(DeviceError, match=r"CUDA 13\.0.*my_kernel.*PTX 9\.5.*INVALID_PTX.*line 4:"):
        function(PTX, "k", "my_kernel")
    assert len(driver["texts"]) == 1, "another version does not mend it"
    driver["answer"] = _NEW
    with pytest.raises(DeviceError, match=r"PTX 9\.5.*UNSUPPORTED_PTX_VERSION.*PTX 7\.8.*UNSUPPORTED"):
        function(PTX, "k", "my_kernel")


@pytest.mark.parametrize(
    ("stated", "target", "found"), [("9.5", "90", "7.8"), ("9.5", "100", "8.8"), ("7.0", "80", "7.0")]
)
def test_versions(stated: str, target: str, found: str) -> None:
    text = f"//\n.version {stated}\n.target sm_{target}\n.version 9.5 in a comment"
    assert restated(text.encode()).decode() == text.replace(stated, found, 1)


def test_what_a_status_means(driver: dict[str, Any]) -> None:
    from hybridml.kernels.cuda.status import ok

    assert ok((_GOOD, 3)) == 3
    with pytest.raises(DeviceMemoryError, match="a recorded graph"):
        ok((cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY,), "a recorded graph")
    with pytest.raises(DeviceError, match=r"LAUNCH_OUT_OF_RESOURCES: meaning \(k\)$"):
        ok((cu.CUresult.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,), "k")
    with pytest.raises(DeviceError, match="CUDA_LAUNCH_BLOCKING=1"):
        ok((cu.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,))
