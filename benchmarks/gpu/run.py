"""`make bench-gpu`: everything that needs a GPU to be measured, in one call of at most nine minutes.

Writes benchmarks/results/gpu-NAME.json and .md as it goes, and prints a short table last. Each part runs in a process of its own, with
a limit: what fails or takes too long is told in its row and ends nothing else. Needs no network.

Exit code 3, and the cure, where there is no GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE.parent / "results"
BUDGET = float(os.environ.get("BENCH_SECONDS", "540"))
LIBRARIES = (
    ("hybridml", "traced"), ("torch", "eager"), ("jax", "jit"), ("torch", "torch.compile"),
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


def output_of(script: str, *args: str, seconds: float) -> tuple[list[str], str]:
    """The lines that a script printed within its time, and what went wrong, if anything."""
    environ = dict(
        os.environ, PYTHONPATH=f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", HYBRIDML_DEVICE="gpu:0"
    )
    command = [sys.executable, str(HERE / script), *args]
    try:
        done = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=max(seconds, 5), cwd=ROOT
        )
        out, wrong = done.stdout, "" if done.returncode == 0 else done.stderr[-2000:]
    except subprocess.TimeoutExpired as stopped:
        raw = stopped.stdout or b""
        out, wrong = raw.decode() if isinstance(raw, bytes) else raw, f"stopped after {seconds:.0f} s"
    return [line for line in out.splitlines() if line.startswith(("[", "{"))], wrong


def table(found: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    machine = found["machine"]
    lines = [
        f"Measured by `make bench-gpu` on {machine['date']}: {machine['gpu']}, {json.dumps(machine['versions'])}.", "",
        "| kernel | ms | GB/s | of a copy |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in found["kernels"]:
        ms = f"{1e3 * row['seconds']:.4f}" if "seconds" in row else ""
        rate = f"{row['bytes_per_second'] / 1e9:.0f}" if "bytes_per_second" in row else row.get("error", "")
        share = (
            f"{row['of_copy']:.2f}"
            if "of_copy" in row
            else f"{row['beside CuPy']:.2f} x CuPy"
            if "beside CuPy" in row
            else ""
        )
        lines.append(f"| {row['what']} | {ms} | {rate} | {share} |")
    names = [f"{library} {variant}" for library, variant in LIBRARIES]
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
            else rows.get(n, {}).get("error", "-")[:40]
            for n in names
        ]
        ours, peers = (
            rows.get(names[0], {}),
            [rows[n]["seconds"] for n in names[1:] if "seconds" in rows.get(n, {})],
        )
        ratio = f"{ours['seconds'] / min(peers):.2f}" if "seconds" in ours and peers else "-"
        issued = f"{1e6 * ours['issued']:.1f} us" if "issued" in ours else "-"
        lines.append(f"| {workload} | {' | '.join(cells)} | {ratio} | {issued} |")
    lines += [
        f"\nNot measured: {part}: {why.splitlines()[-1] if why else ''}"
        for part, why in found["failed"].items()
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, write, print."""
    sys.path.insert(0, str(ROOT))
    from hybridml.errors import DeviceError

    try:
        machine = describe()
    except DeviceError as error:
        sys.stdout.write(f"no GPU here: {error}\n")
        return 3
    begin = time.monotonic()
    found: dict[str, Any] = {"machine": machine, "kernels": [], "steps": [], "failed": {}}
    name = machine["gpu"].lower().replace("nvidia", "").strip().replace(" ", "-")
    RESULTS.mkdir(exist_ok=True)

    def left() -> float:
        return BUDGET - (time.monotonic() - begin)

    def save() -> None:
        (RESULTS / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / f"gpu-{name}.md").write_text(table(found))

    lines, wrong = output_of("bandwidth.py", seconds=min(180, left()))
    found["kernels"] = json.loads(lines[-1]) if lines else []
    if wrong:
        found["failed"]["kernels"] = wrong
    save()
    for library, variant in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            found["failed"][f"{library} {variant}"] = "not installed"
            continue
        lines, wrong = output_of("worker.py", library, variant, *WORKLOADS, seconds=min(200, left()))
        found["steps"] += [json.loads(line) for line in lines]
        if wrong:
            found["failed"][f"{library} {variant}"] = wrong
        save()
    sys.stdout.write(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
