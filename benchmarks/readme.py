"""Put measured figures into the README: `python benchmarks/readme.py out/compare.json`, after `make bench compare`.

Everything between the markers of the README is written anew, and so is its picture. The table beside the peers is that of the last
`make bench-peers`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from record import RESULTS

from hybridml.compare.plot import draw
from hybridml.compare.report import Report
from hybridml.compare.table import seconds, size

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("two_layer_sgd", "digits")  # in the picture
MARKERS = {
    name: re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    for name in ("figures", "peers")
}


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


def peers() -> str:
    """One line a workload: hybridml's time, its best peer's, and the median of the rounds' ratios; then the first calls."""
    facts = json.loads((RESULTS / "cpu-peers.json").read_text())
    lines = ["| one call | hybridml | best peer | hybridml / best peer |", "| --- | ---: | ---: | ---: |"]
    for name, row in facts["workloads"].items():
        best, ratio = facts["summary"][name]["best_peer"], facts["summary"][name]["ratio"]
        ours, theirs = (seconds(statistics.median(row[k]["rounds"])) for k in ("hybridml", best))
        shown = f"**{ratio:.2f}**" if ratio > 1 else f"{ratio:.2f}"
        lines.append(f"| {facts['titles'][name]} | {ours} | {theirs}, {best} | {shown} |")
    lines += [
        "",
        "| first call, two-layer SGD step | empty caches | second process | peak memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, row in facts["first_calls"]["two_layer_sgd"].items():
        lines.append(
            f"| {name} | {seconds(row['cold'])} | {seconds(row['warm'])} | {size(row['peak_memory'])} |"
        )
    return "\n".join([f"({machine(facts['machine'])})", "", *lines]) + "\n"


def main(source: Path) -> None:
    report = Report.from_json(source.read_text())
    draw(
        Report([r for r in report.results if r.name in SHOWN], report.machine),
        ROOT / "docs" / "images" / "compare.png",
    )
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, written in (("figures", figures(report)), ("peers", peers())):
        text, n = MARKERS[name].subn(lambda m, w=written: m[1] + w + m[2], text)
        if n != 1:
            sys.exit(f"README.md must have the two markers of its {name} once")
    readme.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
