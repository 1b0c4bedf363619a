"""numba-cuda and NVIDIA's compiler libraries (NVVM, NVRTC), made ready to compile wherever they lie.

Three things stand between an installation and its first kernel, and each is mended here, once a process:

- numba-cuda takes the place of `numba.cuda` by a `.pth` file, which Python reads in site-packages only. In a folder of PYTHONPATH
  (`pip install --target`) it is not read, and Numba's own, older target would be found.
- numba-cuda names `numpy.row_stack`, which NumPy 2.5 has no more. Its authors will not mend that:
  https://github.com/NVIDIA/numba-cuda/issues/907
- NVVM comes in the wheel nvidia-nvvm or with the CUDA toolkit. Where neither CUDA_HOME nor the linker knows the toolkit, it is looked
  for where toolkits lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import importlib
import importlib.util
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from hybridml.errors import DeviceError

CURE = "pip install 'hybridml[cuda13]' nvidia-nvvm, or set CUDA_HOME to a CUDA toolkit (a folder with nvvm/libdevice)"


@functools.cache
def ready() -> None:
    """Import numba-cuda and load NVVM. Raises DeviceError where one is missing, with what was tried and the cure."""
    _redirect()
    home, named = homes(), os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "not set"
    with _named_home(home), _complete_numpy(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what NumPy deprecates in numba-cuda is not the user's to mend
        try:
            for library in ("nvvm", "nvrtc"):  # numba-cuda asks for both
                _load(library, [*_wheels(), *home])
            cuda = importlib.import_module("numba.cuda")
            if importlib.util.find_spec("numba.cuda.np.arrayobj") is not None:
                importlib.import_module(
                    "numba.cuda.np.arrayobj"
                )  # what needs the name; a compilation imports it
            nvvm = importlib.import_module("numba.cuda.cudadrv.nvvm")
            nvvm.NVVM()
            nvvm.LibDevice()
        except Exception as error:  # of the linker's, of pathfinder's own classes, or an ImportError
            tried = ", ".join(home) or "none"
            at = getattr(sys.modules.get("numba.cuda"), "__file__", "not imported")
            raise DeviceError(
                f"no kernel can be compiled for a GPU: {type(error).__name__}: {error}. numba.cuda: {at}; CUDA_HOME: {named}; "
                f"toolkits found: {tried}. {CURE}"
            ) from error
    if not hasattr(cuda, "implementation"):
        raise DeviceError(f"numba.cuda at {cuda.__file__} is Numba's own, not numba-cuda's. {CURE}")


def _redirect() -> None:
    """Let `numba.cuda` be numba-cuda's also where it was not installed into site-packages."""
    name = "_numba_cuda_redirector"
    if "numba.cuda" not in sys.modules and importlib.util.find_spec(name) is not None:
        importlib.import_module(name)


@contextlib.contextmanager
def _complete_numpy() -> Iterator[None]:
    """The name that NumPy 2.5 lacks, while numba-cuda is imported."""
    if "row_stack" in vars(np):
        yield
        return
    with mock.patch.object(np, "row_stack", np.vstack, create=True):
        yield


@contextlib.contextmanager
def _named_home(found: list[str]) -> Iterator[None]:
    """CUDA_HOME is the first toolkit, if neither it nor CUDA_PATH is set. Installed wheels go before it."""
    if not found or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        yield
        return
    with mock.patch.dict(os.environ, CUDA_HOME=found[0]):
        yield


def _load(library: str, folders: list[str]) -> None:
    """Load a library from a folder of wheels on PYTHONPATH, or a toolkit of a layout, that NVIDIA's own search does not know: it takes what
    is loaded already."""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # type: ignore[import-not-found,import-untyped,unused-ignore]  # with numba-cuda

    try:
        load_nvidia_dynamic_lib(library)
    except Exception:  # its own error classes
        places = [Path(folder, part) for folder in folders for part in ("nvvm/lib64", "lib64", "lib")]
        files = [f for place in places for f in sorted(place.glob(f"lib{library}.so*"))]
        if not files:
            raise
        ctypes.CDLL(str(files[0]))


def _wheels() -> list[str]:
    return [
        str(Path(p, "nvidia", name)) for p in sys.path if p for name in ("cu13", "cuda_nvcc", "cuda_nvrtc")
    ]


def homes() -> list[str]:
    """Folders that look like a toolkit with NVVM: those of wheels on the path, of nvcc, and in /usr/local, the newest first."""
    nvcc = shutil.which("nvcc")
    beside = [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    local = ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), key=_version, reverse=True)]
    found = [h for h in (*_wheels(), *beside, *local) if Path(h, "nvvm", "libdevice").is_dir()]
    return list(dict.fromkeys(found))


def _version(folder: str) -> tuple[int, ...]:
    return tuple([int(part) for part in folder.rpartition("-")[2].split(".") if part.isdecimal()])
