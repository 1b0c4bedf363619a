"""What a call of CUDA's driver returned, or our own error with what it means."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with numba-cuda

from hybridml.errors import DeviceError, DeviceMemoryError

# After these the process's context is lost: every later call fails with the same.
_LOST = {
    "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT", "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION", "CUDA_ERROR_INVALID_PC", "CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ASSERT", "CUDA_ERROR_ECC_UNCORRECTABLE",
}  # fmt: skip


def ok(result: tuple[Any, ...], about: Any = "") -> Any:
    """What a call of the driver returned, or an error with CUDA's name of it and its meaning.

    Args:
        about: what was done, told in the error: a text, or something with a `title`.

    Raises DeviceMemoryError where memory is exhausted, else DeviceError.
    """
    if result[0]:  # CUDA_SUCCESS is 0
        raise error(result[0], about if isinstance(about, str) else about.title)
    return result[1] if len(result) == 2 else result[1:]


def error(status: Any, about: str = "") -> Exception:
    """The error for a status."""
    name, meaning = (_text(f(status)[1]) for f in (cu.cuGetErrorName, cu.cuGetErrorString))
    told = f"CUDA: {name}: {meaning}" + (f" ({about})" if about else "")
    if name == "CUDA_ERROR_OUT_OF_MEMORY":
        return DeviceMemoryError(told)
    if name in _LOST:
        told += (
            ". A kernel that was launched before this call has failed, and this process cannot use the GPU any more. "
            "With CUDA_LAUNCH_BLOCKING=1 programs wait for each kernel, and the error names it"
        )
    return DeviceError(told)


def _text(x: Any) -> str:
    return x.decode() if isinstance(x, bytes) else str(x)
