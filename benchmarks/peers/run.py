"""hybridml beside PyTorch, JAX and TensorFlow: `make bench-peers`, or with ARGS="--workload tiny_sgd --rounds 5".

One process a library and variant, all pinned to the same two CPUs. In each round every one of them is asked in turn for a block of
calls, so that drift hits all alike. First calls are those of new processes, with empty caches and then with the ones so filled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from report import write
from workloads import WORKLOADS

from hybridml.compare.machine import describe

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
THREADS = 2
VARIANTS = {
    "hybridml": ("traced",),
    "torch": ("eager", "torch.compile"),
    "jax": ("jit",),
    "tensorflow": ("eager", "tf.function", "tf.function XLA"),
}
STARTED_ANEW = ("two_layer_sgd", "transformer_adam")  # whose first calls and peak memory are measured
PAIRS, PAIRS_SECONDS = 5, 8.0  # of such processes, and after how long no other pair is begun
PAUSE = 0.01  # seconds between turns: threads of the last one may still spin, waiting for work
TOLERANCE = 1e-3
QUIET = 0.7  # load average up to which figures can be trusted


class Process:
    """A worker and the stream of its answers."""

    def __init__(self, library: str, variant: str, caches: Path, log: Any) -> None:
        self.library, self.name = library, library if variant in ("traced", "jit") else f"{library} {variant}"
        if variant.startswith(("torch.", "tf.")):
            self.name = variant
        python = ROOT / ".peers" / library / "bin" / "python"
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", library, variant], env=os.environ | environment(caches),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
        )  # fmt: skip

    def send(self, *request: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` tells

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        return found

    def ask(self, *request: Any) -> dict[str, Any]:
        self.send(*request)
        return self.receive()

    def close(self) -> None:
        self.process.communicate()


def environment(caches: Path) -> dict[str, str]:
    """Two threads, and every cache in a folder of ours."""
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HYBRIDML_NUM_THREADS")
    return {
        **{name: str(THREADS) for name in threads},
        "HYBRIDML_CACHE_DIR": f"{caches}/hybridml",
        "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torch",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={caches}/xla",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def first_calls(name: str, variants: Sequence[tuple[str, str]], caches: Path, log: Any) -> dict[str, Any]:
    """Seconds of the first call in a process with empty caches, then in a second one, medians of a few pairs of processes, fewer
    where that takes long; and the peak memory of the last."""
    found: dict[str, Any] = {}
    for library, variant in variants:
        row: dict[str, Any] = {}
        times: dict[str, list[float]] = {"cold": [], "warm": []}
        began, pair = time.perf_counter(), 0
        while pair == 0 or (
            pair < PAIRS and time.perf_counter() - began < PAIRS_SECONDS and "error" not in row
        ):
            # compilers are called with paths in it
            folder = caches / f"{library}-{variant}-{pair}".replace(" ", "-")
            for which in times:
                p = Process(library, variant, folder, log)
                answer = p.ask("build", name)
                times[which] += [answer["first_call"]] if "first_call" in answer else []
                row |= {"error": answer["error"]} if "error" in answer else {}
                row |= {"peak_memory": p.ask("facts").get("peak_memory")}
                p.close()
            pair += 1
        row |= {which: statistics.median(t) if t else None for which, t in times.items()}
        found[p.name] = row
        say(
            f"{name:18} first call {p.name:20} cold {row['cold'] or 0:.3f} s, second process {row['warm'] or 0:.3f} s"
        )
    return found


def steady(name: str, processes: Iterable[Process], rounds: int) -> dict[str, Any]:
    """Seconds per call of every round, one list a process; and which of them failed or disagree."""
    found: dict[str, Any] = {}
    processes = list(processes)
    for p in processes:
        p.send("build", name)
    for p in processes:
        found[p.name] = p.receive()
    for p in list(processes):
        if "outputs" not in found[p.name] or "error" in (answer := p.ask("calibrate")):
            processes.remove(p)
            if "absent" in found[p.name]:
                del found[p.name]
        else:
            found[p.name] |= answer | {"rounds": []}
    for _ in range(rounds):
        for p in processes:
            time.sleep(PAUSE)
            found[p.name]["rounds"].append(p.ask("time").get("seconds", float("nan")))
    reference = found["hybridml"].get("outputs")
    for answer in found.values():
        outputs = answer.pop("outputs", None)
        if reference and outputs:
            answer["agrees"] = agree(reference, outputs)
            answer["first_figures"] = [call[0][0] for call in outputs]
    return found


def agree(a: list[Any], b: list[Any]) -> bool:
    """Whether all calls returned the same arrays, as far as their summaries tell; the scale is an array's root mean square."""
    pairs = [(x, y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)]  # a call's arrays
    return all(abs(p - q) <= TOLERANCE * x[0] for x, y in pairs for p, q in zip(x, y, strict=True))


def installed() -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(library, variant) of all that can run, and why others cannot."""
    found, left_out = [], {}
    for library, variants in VARIANTS.items():
        if not (ROOT / ".peers" / library / ".ready").exists():
            left_out[library] = "could not be installed"
            continue
        for variant in variants:
            if variant == "torch.compile" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
                left_out[variant] = "no compiler"
            else:
                found.append((library, variant))
    return found, left_out


def size_of(folder: Path) -> int:
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--workload", action="append", choices=WORKLOADS, help="only this one; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=11, help="blocks of calls of each library (default 11)")
    parser.add_argument(
        "--out", type=Path, help="folder of the results; default benchmarks/results, or out for a part"
    )
    options = parser.parse_args()
    chosen = options.workload or list(WORKLOADS)
    out = options.out or (ROOT / "out" if options.workload else HERE.parent / "results")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    machine = describe()
    if (machine["load"] or 0) > QUIET:
        say(
            f"load average {machine['load']}: others compute here. Libraries whose threads spin suffer most; do not publish this."
        )
    variants, left_out = installed()
    if ("hybridml", "traced") not in variants:
        sys.exit("hybridml itself could not be installed into .peers/hybridml")
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, open(Path(folder, "log"), "w+") as log:
        starts = {
            name: first_calls(name, variants, Path(folder, name), log)
            for name in chosen
            if name in STARTED_ANEW
        }
        processes = [Process(library, variant, Path(folder, "all"), log) for library, variant in variants]
        for name in chosen:
            rows[name] = steady(name, processes, options.rounds)
            timed = {
                k: statistics.median(v["rounds"]) * 1e6 for k, v in rows[name].items() if v.get("rounds")
            }
            say(f"{name:18} " + ", ".join(f"{k} {v:.1f}" for k, v in timed.items()) + " us")
        versions = {p.library: p.ask("facts").get("versions") for p in processes}
        for p in processes:
            p.close()
        log.seek(0)
        errors = log.read()
    if any("error" in v for row in rows.values() for v in row.values()):
        say(errors[-4000:])
    facts = {
        "machine": machine,
        "threads": THREADS,
        "rounds": options.rounds,
        "versions": versions,
        "install_size": {
            name: size_of(ROOT / ".peers" / name) for name, _ in dict.fromkeys((n, "") for n, _ in variants)
        },
        "left_out": left_out,
        "first_calls": starts,
        "workloads": rows,
    }
    say(write(facts, out))


if __name__ == "__main__":
    main()
