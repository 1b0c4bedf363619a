"""What there is on this machine, as far as programs on a GPU depend on it. Each line stands alone: nothing that is missing ends it."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

PACKAGES = re.compile(
    r"^(numpy|scipy|numba|llvmlite|cupy|cuda|nvidia|torch|triton|jax|optax|pytest|hypothesis|hybridml)", re.I
)
VARIABLES = re.compile(r"CUDA|NVIDIA|NUMBA|CUPY|XLA|TORCH|HYBRIDML|^LD_LIBRARY_PATH$|^PYTHONPATH$|^PATH$")
LIBRARIES = ("nvvm", "nvrtc", "cublas", "cublasLt", "cudnn", "nvJitLink", "cudart")


def tell(what: str, ask: Callable[[], object]) -> None:
    """One line about a thing, or about why it is not there."""
    try:
        found = ask()
    except Exception as error:
        found = f"{type(error).__name__}: {error}".replace("\n", " ")[:400]
    print(f"{what}: {found}", flush=True)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()


def library(name: str) -> str:
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = load_nvidia_dynamic_lib(name)
    return f"{found.abs_path} ({getattr(found, 'found_via', '')})"


def compilers() -> str:
    from hybridml.kernels import toolkit

    print(f"toolkits: {toolkit.homes()}")
    toolkit.ready()
    import numba.cuda
    from numba.cuda.cudadrv import nvvm

    return f"numba-cuda at {numba.cuda.__file__}, NVVM {nvvm.NVVM().get_version()}, IR {nvvm.NVVM().get_ir_version()}"


def device() -> str:
    import cupy

    runtime = cupy.cuda.runtime
    facts = runtime.getDeviceProperties(0)
    return (
        f"{facts['name'].decode()}, capability {facts['major']}.{facts['minor']}, {facts['multiProcessorCount']} multiprocessors, "
        f"{facts['sharedMemPerBlockOptin']} bytes of shared memory a block, driver {runtime.driverGetVersion()}, runtime "
        f"{runtime.runtimeGetVersion()}, free and all memory {runtime.memGetInfo()}"
    )


def versions() -> str:
    found = {
        d.metadata["Name"]: d.version
        for d in importlib.metadata.distributions()
        if PACKAGES.match(d.metadata["Name"] or "")
    }
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def main() -> None:
    tell("python", lambda: f"{sys.version} at {sys.executable}, {os.cpu_count()} CPUs")
    tell("packages", versions)
    tell("variables", lambda: {k: v for k, v in sorted(os.environ.items()) if VARIABLES.search(k)})
    tell("nvidia-smi", lambda: output("nvidia-smi"))
    tell("nvcc", lambda: f"{shutil.which('nvcc')} {output('nvcc', '--version')[-120:]}")
    tell("device", device)
    for name in LIBRARIES:
        tell(name, lambda name=name: library(name))
    tell("compilers", compilers)


if __name__ == "__main__":
    main()
