"""`make bench-gpu`: everything that needs a GPU to be measured, in one call of at most nine minutes.

Writes benchmarks/results/gpu-NAME.json and .md as it goes, and prints a short table last. Each part runs in a process of its own, with
a limit: what fails or takes too long is told in its row and ends nothing else. Needs no network.

Exit code 3, and the cure, where there is no GPU.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"
BUDGET = float(os.environ.get("BENCH_SECONDS", "540"))
LOG = "gpu-errors.log"  # what the processes complained of
LIMIT = 75  # seconds that a row may take
# Shares of the time that each part may take at most; what one leaves the next have. The last of them is short where all are slow.
KERNELS = 0.45
LIBRARIES = (
    ("hybridml", "traced", 0.5), ("torch", "eager", 0.2), ("jax", "jit", 0.3), ("torch", "torch.compile", 0.4),
    ("torch", "torch.compile with CUDA graphs", 1.0),
)  # fmt: skip
WORKLOADS = (
    "two_layer_sgd", "two_layer_adam", "tiny_adam", "wide_sgd", "conv_adam", "gru_adam", "transformer_adam", "chain_1e6", "cross_entropy",
    "layer_norm", "eager_add",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """The GPU and the versions of what was measured. Raises DeviceError where there is none."""
    from importlib import metadata

    from hybridml import backends

    gpu: Any = backends.named("gpu:0")
    facts = gpu.xp.cuda.runtime.getDeviceProperties(0)
    versions = {}
    for name in (
        "hybridml",
        "cupy-cuda13x",
        "cupy-cuda12x",
        "numba-cuda",
        "cuda-bindings",
        "torch",
        "triton",
        "jax",
        "numpy",
    ):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    driver = gpu.xp.cuda.runtime.driverGetVersion()
    return {
        "gpu": facts["name"].decode(), "multiprocessors": facts["multiProcessorCount"], "driver": driver,
        "python": sys.version.split()[0], "versions": versions, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def rows(command: list[str], names: list[str] | None, deadline: float) -> Iterator[dict[str, Any]]:
    """What a script measures, a row at a time, until the deadline: its JSON lines.

    A script ends after a row that fails, and is ended where a row takes longer than LIMIT; the next process goes on behind that row.
    names: the arguments that say what to measure; None for a script that is told how many rows to leave out.
    """
    done, ended = 0, 0  # rows; processes that gave none
    while time.monotonic() < deadline and ended < 2 and (names is None or done < len(names)):
        more = [str(done)] if names is None else names[done:]
        begun, before, code = "", done, None
        for line in lines([sys.executable, *command, *more], deadline):
            if isinstance(line, int):
                code = line
            elif "begin" in line:
                begun = line["begin"]
            else:
                begun, done = "", done + 1
                yield line
        if code == 0:
            return
        ended = ended + 1 if done == before and not begun else 0
        if begun:
            done += 1
            yield {"what": begun, "workload": begun, "error": said(code)}


def lines(command: list[str], deadline: float) -> Iterator[Any]:
    """The JSON lines of a process as they come, then its exit code. It and all that it started are ended when it says nothing for LIMIT."""
    with (RESULTS / LOG).open("ab") as log, tempfile.TemporaryFile("w+b") as out:
        process = subprocess.Popen(
            command, env=environ(), stdout=out, stderr=log, cwd=ROOT, start_new_session=True
        )
        at, heard, code = 0, time.monotonic(), None
        try:
            while True:
                code = process.poll()  # asked before its last words are read
                out.seek(at)
                text = out.read()
                whole = text[: text.rfind(b"\n") + 1]
                at += len(whole)
                for line in whole.decode(errors="replace").splitlines():
                    heard = time.monotonic()
                    if line.startswith("{"):
                        yield json.loads(line)
                if code is not None or time.monotonic() > min(deadline, heard + LIMIT):
                    break
                time.sleep(0.05)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
    yield -1 if code is None else code


def said(code: int | None) -> str:
    """Why a row is missing: how its process ended, and the last line that it printed."""
    ended = "stopped, it took too long" if code == -1 else f"the process ended with code {code}"
    return f"{ended}: {complaint()}"[:600]


def complaint() -> str:
    """The last line of what processes complained of."""
    tail = (RESULTS / LOG).read_text(errors="replace")[-3000:].strip().splitlines()
    return tail[-1] if tail else ""


def environ() -> dict[str, str]:
    """Of every process. JAX would take three quarters of the memory for itself."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    return {
        **os.environ, "PYTHONPATH": path, "HYBRIDML_DEVICE": "gpu:0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1",
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = found["machine"]
    lines = [
        f"Measured by `make bench-gpu` on {machine['date']}: {machine['gpu']}, {json.dumps(machine['versions'])}.", "",
        "| kernel | ms | GB/s | of a copy |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in found["kernels"]:
        ms = f"{1e3 * row['seconds']:.4f}" if "seconds" in row else ""
        rate = (
            f"{row['bytes_per_second'] / 1e9:.0f}"
            if "bytes_per_second" in row
            else " ".join(row.get("error", "").split())
        )
        share = (
            f"{row['of_copy']:.2f}"
            if "of_copy" in row
            else f"{row['beside CuPy']:.2f} x CuPy"
            if "beside CuPy" in row
            else ""
        )
        lines.append(f"| {row['what']} | {ms} | {rate} | {share} |")
    names = [f"{library} {variant}" for library, variant, _ in LIBRARIES]
    lines += [
        "",
        f"| step, us | {' | '.join(names)} | ours / best peer | our CPU time |",
        "| --- " * (len(names) + 3) + "|",
    ]
    for workload in WORKLOADS:
        rows = {f"{r['library']} {r['variant']}": r for r in found["steps"] if r["workload"] == workload}
        cells = [
            f"{1e6 * rows[n]['seconds']:.1f}"
            if "seconds" in rows.get(n, {})
            else " ".join(rows.get(n, {}).get("error", "-").split())[:40]
            for n in names
        ]
        ours, peers = (
            rows.get(names[0], {}),
            [rows[n]["seconds"] for n in names[1:] if "seconds" in rows.get(n, {})],
        )
        ratio = f"{ours['seconds'] / min(peers):.2f}" if "seconds" in ours and peers else "-"
        issued = f"{1e6 * ours['issued']:.1f} us" if "issued" in ours else "-"
        lines.append(f"| {workload} | {' | '.join(cells)} | {ratio} | {issued} |")
    lines += [f"\nResults differ: {text}" for text in differences(found["steps"])]
    lines += [
        f"\nNot measured: {part}: {why.splitlines()[-1] if why else ''}"
        for part, why in found["failed"].items()
    ]
    return "\n".join(lines) + "\n"


def differences(steps: list[dict[str, Any]]) -> list[str]:
    """Where a library's first results are not hybridml's: its figures are then of something else."""
    ours = {r["workload"]: r["losses"] for r in steps if r["library"] == "hybridml" and "losses" in r}
    found = []
    for r in steps:
        mine, theirs = ours.get(r["workload"]), r.get("losses")
        if mine and theirs and r["library"] != "hybridml":
            pairs = list(zip(mine, theirs, strict=True))
            if any(None in p or not math.isclose(*p, rel_tol=1e-2, abs_tol=1e-4) for p in pairs):
                found.append(f"{r['workload']}, {r['library']} {r['variant']}: {theirs} beside our {mine}")
    return found


def main() -> int:
    """Measure, write, print."""
    sys.path.insert(0, str(ROOT))
    from hybridml.errors import DeviceError

    try:
        machine = describe()
    except DeviceError as error:
        sys.stdout.write(f"no GPU here: {error}\n")
        return 3
    deadline = time.monotonic() + BUDGET
    found: dict[str, Any] = {"machine": machine, "kernels": [], "steps": [], "failed": {}}
    name = machine["gpu"].lower().replace("nvidia", "").strip().replace(" ", "-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / LOG).write_bytes(b"")

    def save() -> None:
        (RESULTS / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / f"gpu-{name}.md").write_text(table(found))

    def until(share: float) -> float:
        return min(deadline, time.monotonic() + share * BUDGET)

    for row in rows([str(HERE / "bandwidth.py")], None, until(KERNELS)):
        found["kernels"].append(row)
        save()
    if not found["kernels"]:
        found["failed"]["kernels"] = complaint()
    for library, variant, share in LIBRARIES:
        part = f"{library} {variant}"
        if importlib.util.find_spec(library) is None:
            found["failed"][part] = "not installed"
            save()
            continue
        seen = 0
        for row in rows([str(HERE / "worker.py"), library, variant], list(WORKLOADS), until(share)):
            found["steps"].append({"library": library, "variant": variant, **row})
            seen += 1
            save()
        if seen < len(WORKLOADS):
            found["failed"][part] = (
                f"{len(WORKLOADS) - seen} of {len(WORKLOADS)} workloads. {'' if seen else complaint()}"
            )
        save()
    sys.stdout.write(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
