"""Put measured figures into the README: `python benchmarks/readme.py out/compare.json`, after `make bench compare`.

Everything between the two markers of the README is written anew, and so is its picture.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from record import RESULTS

from hybridml.compare.plot import draw
from hybridml.compare.report import Report
from hybridml.compare.table import seconds

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("two_layer_sgd", "digits")  # in the picture
MARKERS = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def comparison(report: Report) -> str:
    """One line a workload."""
    calls = report.results[0].calls
    head = [
        "",
        "one call, eager",
        "traced",
        "times faster",
        *[f"{n:,} calls, eager / traced" for n in calls],
        "pays off after",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for r in report.results:
        assert r.eager.steady is not None and r.traced.steady is not None
        totals = [f"{seconds(r.eager.totals[n])} / {seconds(r.traced.totals[n])}" for n in calls]
        after = "never" if r.break_even is None else f"{r.break_even:,} calls"
        steady = [seconds(run.steady.median) for run in (r.eager, r.traced) if run.steady is not None]
        lines.append([r.title, *steady, f"{r.speedup:.1f}", *totals, after])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def machine(facts: dict[str, Any]) -> str:
    settings = "".join(f", {name}={value}" for name, value in facts["environment"].items())
    return (
        f"{facts['processor']}, {facts['cpus']} CPUs, load average {facts['load']}, Python {facts['python']}, "
        f"NumPy {facts['numpy']}, Numba {facts['numba']}{settings}"
    )


def figures(report: Report) -> str:
    """The README's section."""
    targets = (RESULTS / "cpu.md").read_text().split("\n\n", 1)[1].strip()
    bench = json.loads((RESULTS / "cpu.json").read_text())["machine"]
    return (
        f"`make compare` ({machine(report.machine)}).\n"
        "Totals start from empty kernel caches, with tracing and compiling; a second process finds its kernels on disk.\n\n"
        f"{comparison(report)}\n\n"
        f"`make bench` ({machine(bench)}). Medians; ratios are of rounds taken in turns in one run.\n\n{targets}\n"
    )


def main(source: Path) -> None:
    report = Report.from_json(source.read_text())
    draw(
        Report([r for r in report.results if r.name in SHOWN], report.machine),
        ROOT / "docs" / "images" / "compare.png",
    )
    readme = ROOT / "README.md"
    text, n = MARKERS.subn(lambda m: m[1] + figures(report) + m[2], readme.read_text())
    if n != 1:
        sys.exit("README.md must have the two markers once")
    readme.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
