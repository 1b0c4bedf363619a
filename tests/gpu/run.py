"""`make test-gpu`: the tests that need a GPU, then the suite with the GPU as its default device.

    python tests/gpu/run.py [--quick | --suite] [--seconds N] [--jobs N] [arguments of pytest]

`--quick` runs the first part only, `--suite` the second. The tests are shared out to processes. One that hangs, crashes or loses the
GPU takes no other test with it: what is left runs in a new process. The first failure of each kind is printed with its traceback as it
comes, the others by name at the end, so one run tells all that is wrong, also if it is stopped. Left out of the suite are tests of the
CPU's own machine code (tests/kernels) and of commands (tests/compare, notebooks).

Exit code 1 for failures, 3, and the cure, where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DEVICE, SUITE = ("tests/gpu/device",), ("tests/eager", "tests/ops", "tests/optim", "tests/trace")
# Of the CPU's alone: its native way into a traced function, its recorded composites, one kernel for all sizes, operations one by one while
# a program is made, and a fork, which CUDA does not survive.
CPU_ONLY = (
    "tests/trace/test_entry.py", "tests/eager/test_compose.py::test_nothing_goes_through_the_door_when_played",
    "tests/trace/test_background.py::test_a_fork_s_child_finishes_what_its_parent_began",
    "tests/trace/test_background.py::test_calls_go_on_while_the_program_is_made",
    "tests/trace/test_background.py::test_results_are_fresh_and_variables_may_change_places",
    "tests/trace/test_background.py::test_what_cannot_be_compiled_is_said_once_and_calls_go_on",
    "tests/trace/test_sizes.py::test_two_traces_for_all_sizes",
)  # fmt: skip
LIMIT = 90  # seconds of one test; the first of a process waits for compilers
START = 120  # seconds until the first test
LINES = 60  # of a traceback
STRICT = (  # where programs have another way, and tests want to know that they took it
    "error:kernels are launched one by one", "error:the host decides branches",
)  # fmt: skip


def environ(**more: str) -> dict[str, str]:
    """Of every process: this source, the GPU, and no plugins of pytest that happen to be there."""
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ, "PYTHONPATH": path.rstrip(os.pathsep), "HYBRIDML_DEVICE": "gpu:0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONFAULTHANDLER": "1", **more,
    }  # fmt: skip


@dataclass
class Worker:
    """One process, with a share of the tests; a new one takes its place until the share has run."""

    command: list[str]
    folder: Path
    done: list[str] = field(default_factory=list)
    process: Any = None
    running: str = ""  # the test that runs now
    since: float = 0.0
    read: int = 0
    finished: bool = False
    starts: int = 0

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "done").write_text("\n".join(self.done))
        self.running, self.since, self.starts = "", time.time(), self.starts + 1
        files = ["--events", str(self.folder / "events"), "--done", str(self.folder / "done")]
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [*self.command, *files], env=environ(), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def ask_where(self) -> None:
        """Let a process that hangs print what its threads are at."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(3)

    def stop(self) -> None:
        """End the process and all that it started. One that waits for a GPU that hangs does not even die: nobody waits for it long."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)

    def events(self) -> list[dict[str, Any]]:
        """What was written down since the last time."""
        file = self.folder / "events"
        if not file.exists():
            return []
        with file.open() as f:
            f.seek(self.read)
            text = f.read()
        whole = text[: text.rfind("\n") + 1]
        self.read += len(whole.encode())
        return [json.loads(line) for line in whole.splitlines()]

    def output(self) -> str:
        """The last that the process printed: where it was, if it crashed."""
        text = (self.folder / "output").read_text(errors="replace")
        return "\n".join([x for x in text.splitlines() if not x.startswith("Extension modules")])[-6000:]


class Results:
    """What became of the tests, told as it comes. `lost` are those after which the GPU was of no more use to their process."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.counts: dict[str, int] = {}
        self.kinds: dict[str, list[str]] = {}
        self.seconds: list[tuple[float, str]] = []

    def add(self, test: str, outcome: str, seconds: float, text: str) -> None:
        if outcome == "error" and any(test in tests for tests in self.kinds.values()):
            return  # a file that no process can import
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        self.seconds.append((seconds, test))
        if outcome in ("passed", "skipped"):
            return
        kind = kind_of(outcome, text)
        self.kinds.setdefault(kind, []).append(test)
        if len(self.kinds[kind]) == 1:
            lines = text.splitlines()
            cut = [*lines[: LINES // 3], "  ...", *lines[-2 * LINES // 3 :]] if len(lines) > LINES else lines
            tell(f"--- {outcome}: {test} ({seconds:.1f} s)", *cut, "")

    def summary(self) -> None:
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.counts.items())) or "nothing ran"
        slow = "; ".join(f"{s:.1f} s {test.rpartition('::')[2]}" for s, test in sorted(self.seconds)[:-6:-1])
        tell(f"=== kinds of failures: {len(self.kinds)}")
        for kind, tests in sorted(self.kinds.items(), key=lambda item: -len(item[1])):
            names = [t.rpartition("/")[2] for t in tests]
            tell(
                f"{len(tests)} x {kind}",
                "      " + ", ".join(names[:12]) + (" ..." if len(names) > 12 else ""),
            )
        tell(f"slowest: {slow}", f"=== {counts}")


def kind_of(outcome: str, text: str) -> str:
    """The line that tells what went wrong, without its numbers."""
    told = [line[1:].strip() for line in text.splitlines() if re.match(r"E\s+\S", line)]
    lines = told or [line.strip() for line in text.splitlines() if line.strip()][-1:] or [""]
    return f"{outcome}: " + re.sub(r"0x[0-9a-f]+|\d[\d.,e+-]*", "#", lines[0])[:160]


def tell(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def step(worker: Worker, results: Results) -> None:
    """Read what a worker did, and start it anew where it has come to an end too early."""
    over = worker.process.poll() is not None
    for event in worker.events():
        if event["event"] == "begin":
            worker.running, worker.since = event["test"], event["time"]
        elif event["event"] == "end":
            worker.done.append(event["test"])
            worker.running, worker.since = "", event["time"]
            results.add(event["test"], event["outcome"], event["seconds"], event["text"])
        elif event["event"] == "lost":
            results.lost.append(event["test"])
        elif event["event"] == "finished":
            worker.finished = True
    waited = time.time() - worker.since
    hangs = not worker.finished and waited > (LIMIT if worker.running or worker.done else START)
    if worker.finished or not (over or hangs):
        return
    if hangs:
        worker.ask_where()
    worker.stop()
    if worker.running:
        outcome = "hung" if hangs else "crashed"
        results.add(
            worker.running,
            outcome,
            waited,
            f"{worker.output()}\nE   {outcome}, exit code {worker.process.poll()}",
        )
        worker.done.append(worker.running)
    elif hangs or worker.process.poll() != 17:  # reporting.LOST
        results.add("(no test)", "crashed", waited, f"{worker.output()}\nE   a process ended between tests")
        worker.finished = worker.starts > 3 or not worker.done
    if not worker.finished:
        worker.start()


def run(paths: tuple[str, ...], rest: list[str], jobs: int, deadline: float) -> bool:
    """Run tests in so many processes; True if all passed."""
    warnings = [x for w in ("default", *STRICT) for x in ("-W", w)]
    left_out = [f"--deselect={test}" for test in CPU_ONLY]
    command = [
        sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-p", "reporting", *warnings,
        *left_out, *paths, *rest, *["--mixed"] * (paths == SUITE),
    ]  # fmt: skip
    results = Results()
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker([*command, "--share", f"{k}/{jobs}"], Path(folder, str(k))) for k in range(jobs)]
        try:
            for worker in workers:
                worker.start()
            while not all(w.finished for w in workers) and time.time() < deadline:
                time.sleep(0.1)
                for worker in workers:
                    if not worker.finished:
                        step(worker, results)
        finally:
            for worker in workers:
                worker.stop()
        unfinished = [w.running or "?" for w in workers if not w.finished]
    tell(f"## {' '.join(paths)}")
    results.summary()
    if unfinished:
        tell(
            f"STOPPED: the time was up; {len(unfinished)} of {jobs} processes had more to do, at {', '.join(unfinished)}"
        )
    blame(results.lost, command, deadline)
    return not results.kinds and not unfinished and bool(results.counts.get("passed"))


def blame(lost: list[str], command: list[str], deadline: float) -> None:
    """Run tests that lost the GPU once more, waiting for each kernel, so that the one that fails is named."""
    tests = {test.partition("[")[0]: test for test in reversed(lost)}
    for test in list(tests.values())[-3:]:
        alone = [x for x in command if not x.startswith("tests/")] + [
            test,
            "--events",
            os.devnull,
            "--tb=short",
        ]
        try:
            done = subprocess.run(
                alone, env=environ(CUDA_LAUNCH_BLOCKING="1"), cwd=ROOT, capture_output=True, text=True, errors="replace",
                timeout=min(LIMIT, deadline - time.time()) if deadline > time.time() else 0,
            )  # fmt: skip
            told = [line for line in done.stdout.splitlines() if re.match(r"E\s+\S|\S+:\d+: ", line)]
        except subprocess.TimeoutExpired:
            told = ["no time was left"]
        tell(f"--- {test} with CUDA_LAUNCH_BLOCKING=1", *told[-12:], "")


def main(args: list[str]) -> int:
    """The worst of the parts' exit codes."""
    parser = argparse.ArgumentParser(description="Tests on a GPU.")
    parser.add_argument("--quick", action="store_true", help="only the tests that need a GPU")
    parser.add_argument("--suite", action="store_true", help="only the suite")
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which all is stopped and told")
    parser.add_argument("--jobs", type=int, default=max(1, min(12, (os.cpu_count() or 2) * 3 // 4)))
    chosen, rest = parser.parse_known_args(args)
    deadline = time.time() + chosen.seconds
    sys.path.insert(0, str(ROOT))
    from hybridml import backends
    from hybridml.errors import DeviceError

    try:
        backends.named("gpu:0")
    except DeviceError as error:
        tell(f"no GPU here: {error}")
        return 3
    parts = [*([] if chosen.suite else [DEVICE]), *([] if chosen.quick else [SUITE])]
    return int(not all([run(part, rest, chosen.jobs, deadline) for part in parts]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
