"""How scalar functions are compiled: vector code, the simulator, one module per target."""

from __future__ import annotations

import inspect
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llvmlite import binding

from hybridml.kernels.targets import TARGETS, scalar_functions, source_files, source_hash
from hybridml.testing import kernels as written

# Their float64 forms call the C library's fmod; the random functions take no floats.
NO_VECTOR_CODE = {
    "m_remainder_f64",
    "m_floor_divide_f64",
    "m_uniform_f32",
    "m_uniform_f64",
    "m_normal_f32",
    "m_normal_f64",
}
PYTHON = vars(scalar_functions("python"))
VECTOR_CODE = sorted(
    name for name in PYTHON if re.fullmatch(r"m_\w+_f(32|64)", name) and name not in NO_VECTOR_CODE
)


X86_FMA = platform.machine() in ("x86_64", "AMD64") and binding.get_host_cpu_features().get("fma", False)
PACKED = re.compile(r"^\s+v(?!mov|broadcast)\w+p[sd]\s", re.MULTILINE)
SCALAR_CALLS = re.compile(r"^\s+callq?\s", re.MULTILINE)


def kernel_assembly(name: str) -> str:
    """Machine code of `for i in range(begin, end)` over raw pointers, as the kernel emitter writes it."""
    arguments = len(inspect.signature(PYTHON[name]).parameters)
    dtype = "float32" if name.endswith("_f32") else "float64"
    operands = ", ".join(f"x{k}" for k in range(arguments))
    return written.assembly(f"m.{name}({operands})", [dtype] * arguments, dtype)


@pytest.mark.skipif(not X86_FMA, reason="looks for x86 vector instructions")
@pytest.mark.parametrize("name", VECTOR_CODE)
def test_loops_are_vector_code(name: str) -> None:
    assembly = kernel_assembly(name)
    assert PACKED.search(assembly), "no packed arithmetic"
    assert not SCALAR_CALLS.search(assembly), "the loop calls a function"


def test_the_vector_code_check_sees_a_call() -> None:
    # fmod in float64 is the C library's: what the test above looks for must show here.
    assert SCALAR_CALLS.search(kernel_assembly("m_remainder_f64")) or not X86_FMA


def test_targets_are_memoised_and_named() -> None:
    assert scalar_functions("cpu") is scalar_functions("cpu")
    names = [{name for name in vars(scalar_functions(t)) if name.startswith("m_")} for t in ("cpu", "python")]
    assert names[0] == names[1] and "m_exp_f32" in names[0]
    with pytest.raises(ValueError, match=r"unknown target 'gpu'.*cpu, cuda, cuda_fast, python"):
        scalar_functions("gpu")  # type: ignore[arg-type]
    assert TARGETS == ("cpu", "cuda", "cuda_fast", "python")


def test_cpu_functions_refuse_calls_from_python() -> None:
    with pytest.raises(NotImplementedError):
        scalar_functions("cpu").m_exp_f32(np.float32(1))


def test_source_hash_follows_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = source_hash()
    assert re.fullmatch(r"[0-9a-f]{64}", before)
    fewer = source_files()[1:]
    monkeypatch.setattr("hybridml.kernels.targets.source_files", lambda: fewer)
    assert source_hash.__wrapped__() != before


def run_python(arguments: list[str], folder: Path, **environment: str) -> str:
    path = os.pathsep.join([str(folder), *sys.path])
    variables = {**os.environ, "PYTHONPATH": path, "NUMBA_CACHE_DIR": str(folder / "cache"), **environment}
    done = subprocess.run(
        [sys.executable, *arguments], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SIMULATED_KERNEL = """
import numpy as np
from numba import cuda
from hybridml.kernels.targets import scalar_functions
m_tanh_f32 = scalar_functions(TARGET).m_tanh_f32
@cuda.jit
def kernel(x, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = m_tanh_f32(x[i])
x = np.linspace(-3, 3, 8, dtype=np.float32)
out = np.empty_like(x)
kernel[2, 5](x, out)
print(np.abs(out - np.tanh(x)).max() < 2e-7)
"""


@pytest.mark.parametrize("target", ["cuda", "cuda_fast"])
def test_cuda_targets_run_in_the_simulator(target: str, tmp_path: Path) -> None:
    (tmp_path / "a_kernel.py").write_text(SIMULATED_KERNEL.replace("TARGET", repr(target)), encoding="utf-8")
    assert run_python(["-c", "import a_kernel"], tmp_path, NUMBA_ENABLE_CUDASIM="1") == "True"
