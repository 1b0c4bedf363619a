"""PTX becomes machine code: the driver translates it when it is loaded.

A driver refuses a text whose PTX version is newer than itself, as a compiler of a later toolkit writes it (13.5 beside a driver of 13.0).
Our kernels use nothing that is so new, which tests hold with `ptxas`: such a text is loaded with the version that its target needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from cuda.bindings import driver as cu  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with numba-cuda

from hybridml.errors import DeviceError
from hybridml.kernels.cuda.status import error, ok
from hybridml.kernels.ptx import restated

_LOG_BYTES = 8192


def function(ptx: bytes, symbol: str, name: str) -> Any:
    """A kernel of a text, loaded into the current context; it stays there as long as the process.

    Raises DeviceError with what the driver's compiler says of the text.
    """
    module = _load(ptx, name)
    return ok(cu.cuModuleGetFunction(module, symbol.encode()), f"kernel {name}")


def _load(ptx: bytes, name: str) -> Any:
    tried = []
    for text in dict.fromkeys((ptx, restated(ptx))):
        image = np.frombuffer(text + b"\0", np.uint8)
        status, module = cu.cuModuleLoadData(image.ctypes.data)
        if status == cu.CUresult.CUDA_SUCCESS:
            return module
        stated = text.partition(b".version")[2].split(maxsplit=1)[0].decode()
        tried.append(f"as PTX {stated}: {error(status)} {_complaint(image)}".rstrip())
        if status != cu.CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
            break
    driver = ok(cu.cuDriverGetVersion())
    raise DeviceError(
        f"the driver, of CUDA {driver // 1000}.{driver % 1000 // 10}, does not load the kernel {name}: {'; '.join(tried)}"
    )


def _complaint(image: np.ndarray) -> str:
    """What the driver's compiler says of a text that it refuses."""
    log, of = bytearray(_LOG_BYTES), cu.CUjit_option
    options = {of.CU_JIT_ERROR_LOG_BUFFER: log, of.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES: _LOG_BYTES}
    cu.cuModuleLoadDataEx(image.ctypes.data, len(options), list(options), list(options.values()))
    return log.partition(b"\0")[0].decode(errors="replace").strip()
