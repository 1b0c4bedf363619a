"""Tables and the picture of a run of the peers, written as cpu-peers.json, .md and .svg."""

from __future__ import annotations

import json
import statistics
import textwrap
from pathlib import Path
from typing import Any

from workloads import WORKLOADS

from hybridml.compare.plot import save
from hybridml.compare.table import seconds, size

OURS = "hybridml"
AHEAD, BEHIND, GREY = "#0072B2", "#D55E00", "#666666"  # colours that everybody can tell apart


def spread(times: list[float]) -> float:
    """Half the distance between the quartiles, over the median."""
    if len(times) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def compare(row: dict[str, Any]) -> dict[str, Any]:
    """The best peer of a workload, and hybridml's time over its: the median of the rounds' ratios."""
    times = {name: v["rounds"] for name, v in row.items() if v.get("rounds")}
    peers = [name for name in times if name != OURS]
    if OURS not in times or not peers:
        return {}
    best = min(peers, key=lambda name: statistics.median(times[name]))
    ratio = statistics.median(a / b for a, b in zip(times[OURS], times[best], strict=True))
    return {"best_peer": best, "ratio": ratio}


def table(head: list[str], body: list[list[str]]) -> str:
    widths = [max(len(line[k]) for line in [head, *body]) for k in range(len(head))]
    lines = [head, [("-" * (w - 1) + ":") if k else "-" * w for k, w in enumerate(widths)], *body]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines
    )


def cell(answer: dict[str, Any] | None, best: bool) -> str:
    if answer is None:
        return ""
    if "error" in answer:
        return "failed"
    text = f"{seconds(statistics.median(answer['rounds']))} ± {spread(answer['rounds']):.0%}"
    text = f"**{text}**" if best else text
    return text if answer.get("agrees") else text + " (other values)"


def steady(facts: dict[str, Any]) -> str:
    rows = facts["workloads"]
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    body = []
    for workload, row in rows.items():
        c = compare(row)
        ratio, best = (f"{c['ratio']:.2f}", c["best_peer"]) if c else ("-", "-")
        cells = [cell(row.get(n), n == best) for n in names]
        body.append([WORKLOADS[workload].title, ratio, best, *cells])
    return table(["one call", "hybridml / best peer", "best peer", *names], body)


def starts(facts: dict[str, Any]) -> str:
    body = [
        [WORKLOADS[w].title, name, seconds(v["cold"]), seconds(v["warm"]), size(v["peak_memory"])]
        for w, row in facts["first_calls"].items()
        for name, v in row.items()
    ]
    return (
        table(["first call", "", "empty caches", "second process", "peak memory of that process"], body)
        if body
        else ""
    )


def markdown(facts: dict[str, Any]) -> str:
    m = facts["machine"]
    versions = "; ".join(
        ", ".join(f"{k} {v}" for k, v in (found or {}).items() if k != "numpy" or name == OURS)
        for name, found in facts["versions"].items()
    )
    told = (
        f"Measured by `make bench-peers`: float32, {facts['threads']} threads, {facts['rounds']} rounds taken in turns. Medians ± "
        "half the distance between the quartiles; the ratio is the median of the rounds' ratios, below 1 where hybridml is "
        "faster; **bold** is the best peer. A first call has no import, no making of weights and no building of optimisers in "
        f"it. {m['processor']}, {m['cpus']} CPUs, load average {m['load']}, Python {m['python']}; {versions}."
    )
    parts = [
        told,
        steady(facts),
        starts(facts),
        "Size of the environment: "
        + ", ".join(f"{k} {size(v)}" for k, v in facts["install_size"].items())
        + ".",
    ]
    parts += [f"Left out: {name}: {why}." for name, why in facts["left_out"].items()]
    parts += [
        f"Failed: {name}, {WORKLOADS[w].title}: {v['error']}"
        for rows in (facts["first_calls"], facts["workloads"])
        for w, row in rows.items()
        for name, v in row.items()
        if "error" in v
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def draw(facts: dict[str, Any], path: Path) -> None:
    """One bar a workload: how long hybridml takes where its best peer takes 1."""
    from matplotlib.figure import Figure

    found = [(WORKLOADS[w].title, c) for w, row in facts["workloads"].items() if (c := compare(row))]
    if not found:
        return
    figure = Figure(figsize=(9, 0.9 + 0.38 * len(found)), layout="constrained")
    axes = figure.subplots()
    ratios = [c["ratio"] for _, c in found]
    bars = axes.barh(
        range(len(found)), ratios, height=0.65, color=[AHEAD if r <= 1 else BEHIND for r in ratios]
    )
    labels = [f"{c['ratio']:.2f} x {c['best_peer']}" for _, c in found]
    axes.bar_label(bars, labels, padding=4, fontsize=8, bbox={"color": "white", "pad": 1})
    # The picture's text is drawn with the reader's fonts: long titles would leave it at the side.
    axes.set_yticks(range(len(found)), [textwrap.fill(title, 36) for title, _ in found], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linewidth=1, zorder=0)
    axes.set_xlim(0, max(1.1, *ratios) * 1.3)
    axes.set_xlabel("time of one call, hybridml / best peer (shorter is faster)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def write(facts: dict[str, Any], folder: Path) -> str:
    """All three files; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {w: compare(row) for w, row in facts["workloads"].items()}
    text = markdown(facts)
    titles = {w: WORKLOADS[w].title for w in facts["workloads"]}
    (folder / "cpu-peers.json").write_text(
        json.dumps(facts | {"summary": summary, "titles": titles}, indent=1) + "\n"
    )
    (folder / "cpu-peers.md").write_text(text)
    draw(facts, folder / "cpu-peers.svg")
    return text
