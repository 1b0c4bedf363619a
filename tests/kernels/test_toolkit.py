"""numba-cuda and NVVM are found wherever they lie, and what is missing is told."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
from cuda_assembly import compiles

from hybridml.errors import DeviceError
from hybridml.kernels import toolkit

COMPILE = """
import sys
import numpy as np
{before}
from hybridml.kernels import ptx
from hybridml.kernels.emit_cuda import Parameter
source = '''
from numba import cuda

def k(x0, o0):
    i = cuda.grid(1)
    o0[i] = x0[i] + 1
'''
given = tuple(Parameter(n, np.dtype("f4"), True) for n in ("x0", "o0"))
_, text = ptx.compile_ptx("k", source, given, (9, 0))
assert "add.f32" in text or "add.rn.f32" in text, text
print(sys.modules["numba.cuda"].__file__)
"""


# As NumPy 2.5 is, on whatever NumPy there is.
WITHOUT = """
import numpy as np
if hasattr(np, "row_stack"):
    del np.row_stack
    np.__all__ = [n for n in np.__all__ if n != "row_stack"]
"""


@compiles
def test_numba_cuda_compiles_beside_a_numpy_without_row_stack(fresh_process):
    assert "numba_cuda" in fresh_process(COMPILE.format(before=WITHOUT))


@compiles
def test_numba_cuda_still_needs_row_stack(fresh_process):
    """Once this fails, `_complete_numpy` is not needed any more: https://github.com/NVIDIA/numba-cuda/issues/907"""
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    ask = "try:\n    import numba.cuda.np.arrayobj\nexcept AttributeError as error:\n    print(error)"
    assert "row_stack" in fresh_process(WITHOUT + quiet + ask)


@compiles
def test_numba_cuda_is_found_where_no_pth_file_is_read(fresh_process):
    """As with `pip install --target FOLDER` and PYTHONPATH=FOLDER."""
    before = "assert '_numba_cuda_redirector' not in sys.modules"
    packages = sysconfig.get_paths()["purelib"]
    inner = COMPILE.format(before=before)
    text = f"import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', {inner!r}], check=True)"
    where = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), packages])}
    assert "numba_cuda" in fresh_process(text, **where)


def folder_with_nvvm(at: Path) -> Path:
    (at / "nvvm" / "libdevice").mkdir(parents=True)
    return at


def test_a_toolkit_is_found_beside_nvcc_and_on_the_path(tmp_path, monkeypatch):
    nvcc = folder_with_nvvm(tmp_path / "cuda-13.0") / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    wheel = folder_with_nvvm(tmp_path / "site" / "nvidia" / "cu13")
    monkeypatch.setenv("PATH", str(nvcc.parent))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = toolkit.homes()
    assert found[0] == str(wheel)
    assert str(tmp_path / "cuda-13.0") in found
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with toolkit._named_home(found):
        assert os.environ["CUDA_HOME"] == str(wheel)
    assert "CUDA_HOME" not in os.environ
    monkeypatch.setenv("CUDA_HOME", "/mine")
    with toolkit._named_home(found):
        assert os.environ["CUDA_HOME"] == "/mine"


@compiles
def test_what_is_missing_is_told_with_the_cure(monkeypatch):
    from numba.cuda.cudadrv import nvvm

    def missing() -> None:
        raise RuntimeError("libnvvm.so: not found")

    monkeypatch.setattr(nvvm, "NVVM", missing)
    with pytest.raises(DeviceError, match=r"libnvvm.so: not found.*CUDA_HOME.*pip install"):
        toolkit.ready.__wrapped__()


@compiles
def test_nvvm_is_loaded_from_a_toolkit_of_another_layout(fresh_process, tmp_path):
    """As where the search of wheels, of the linker and of CUDA_HOME finds none: only a loaded library is left to be found."""
    text = """
import ctypes
from pathlib import Path
from cuda import pathfinder
from hybridml.kernels import toolkit

real = pathfinder.load_nvidia_dynamic_lib
path = real("nvvm").abs_path
home = Path(HOME)
(home / "lib").mkdir()
(home / "lib" / "libnvvm.so.4").symlink_to(path)
opened = []
pathfinder.load_nvidia_dynamic_lib = lambda name: (_ for _ in ()).throw(RuntimeError("nowhere"))
ctypes.CDLL = opened.append
toolkit._load("nvvm", [str(home)])
print(opened)
try:
    toolkit._load("nvvm", [])
except RuntimeError as error:
    print(error)
"""
    out = fresh_process(text.replace("HOME", repr(str(tmp_path))))
    assert "lib/libnvvm.so.4" in out
    assert "nowhere" in out
