"""`make test-gpu`: the suite with the GPU as the default device, then the tests that need one.

Left out of the first part are tests of the CPU's own machine code (tests/kernels) and of commands (tests/compare, notebooks).
Exit code 3, and the cure, where there is no GPU. `--quick` runs the second part only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PARTS = ("tests/eager", "tests/ops", "tests/optim", "tests/trace")


def main(args: list[str]) -> int:
    """The worst of the exit codes."""
    sys.path.insert(0, str(ROOT))
    from hybridml import backends
    from hybridml.errors import DeviceError

    try:
        backends.named("gpu:0")
    except DeviceError as error:
        sys.stdout.write(f"no GPU here: {error}\n")
        return 3
    environ = dict(
        os.environ, PYTHONPATH=f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", HYBRIDML_DEVICE="gpu:0"
    )
    quick = "--quick" in args
    runs = [["tests/gpu/device"], *([] if quick else [list(PARTS)])]
    rest = [a for a in args if a != "--quick"]
    codes = [
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", *run, *rest],
            env=environ,
            cwd=ROOT,
        ).returncode
        for run in runs
    ]
    return max(codes)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
