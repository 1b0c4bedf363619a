"""CUDA kernels that a run of the tests has gathered, as machine code. It needs no GPU.

    make test KERNELS=out/kernels
    make sweep KERNELS=out/kernels

Each is compiled for each architecture, and what ptxas says of it is held to no stack, no spills and at most 128 registers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from assembler import assemble

from hybridml.kernels import ptx
from hybridml.kernels.emit_cuda import Parameter

MOST_REGISTERS = 128
USED = re.compile(r"Used (\d+) registers")
KEPT = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")


def verdict(architectures: Sequence[int], file: Path) -> tuple[int, list[str]]:
    """The most registers that a kernel takes, and what is wrong with it."""
    kernel = json.loads(file.read_text())
    name, source = kernel["name"], kernel["source"]
    parameters = [Parameter(n, np.dtype(d), pointer) for n, d, pointer in kernel["parameters"]]
    most, wrong = 0, []
    with tempfile.TemporaryDirectory() as folder:
        try:
            _, llvm = ptx.translated(name, source, parameters, divmod(architectures[0], 10))
            for a in architectures:
                said = assemble(ptx.ptx_of(llvm, divmod(a, 10)).encode(), f"sm_{a}", Path(folder))
                registers = max(map(int, USED.findall(said)))
                kept = sum(int(n) for numbers in KEPT.findall(said) for n in numbers)
                most = max(most, registers)
                if registers > MOST_REGISTERS or kept:
                    wrong.append(f"sm_{a}: {registers} registers, {kept} bytes of stack and spills")
        except Exception as error:  # whatever it is, the other kernels go on
            wrong.append(f"{type(error).__name__}: {str(error)[-1000:]}")
    return most, [f"{name} ({file.name}): {w}" for w in wrong]


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Assemble all, and say what is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the kernels are")
    parser.add_argument("--architectures", nargs="+", type=int, default=[80, 90, 100])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    files = sorted(args.folder.glob("*.kernel"))
    if not files:
        say(f"no kernels in {args.folder}; gather some with: make test KERNELS={args.folder}")
        return 1
    started, registers, complaints = time.monotonic(), 0, 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for i, (most, wrong) in enumerate(pool.map(partial(verdict, args.architectures), files), 1):
            registers, complaints = max(registers, most), complaints + len(wrong)
            for line in wrong:
                say(line)
            if not i % 500:
                say(f"{i} of {len(files)} kernels after {time.monotonic() - started:.0f} s")
    names = ", ".join(f"sm_{a}" for a in args.architectures)
    say(f"{len(files)} kernels for {names}: at most {registers} registers, {complaints} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
