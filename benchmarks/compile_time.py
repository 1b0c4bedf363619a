"""What a first call costs against the size of its graph: `make bench-compile`.

Each measurement is a first call in a process of its own: with an empty kernel cache (cold), then again with the kernels on disk (warm).
Importing and making weights are not part of it. Two families grow from 10 to 3,000 operations, one of a single repeated layer, one in
which no two neighbours are alike; the third row is the training step of residual nets of dense blocks with layer normalisation. A power
law is fitted to the larger half of each line: an exponent near 1 says that time grows with the graph and no faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SIZES = (10, 30, 100, 300, 1000, 3000)
DEPTHS = (1, 2, 5, 10, 20, 50)
STAGES = ("trace", "passes", "plan", "emit", "translate", "llvm", "numba", "link")


def repeated(nodes: int) -> tuple[Callable[..., Any], list[Any]]:
    """One layer again and again: a product with an offset, tanh, and a residual."""
    import hybridml as hml

    def f(x: Any, w: Any, b: Any) -> Any:
        for _ in range(nodes // 4):
            x = x + hml.tanh(x @ w + b)
        return x

    return f, [hml.ones((8, 16)), hml.ones((16, 16)) * 0.01, hml.ones((16,)) * 0.1]


def varied(nodes: int) -> tuple[Callable[..., Any], list[Any]]:
    """Chains, sums over rows and columns, products and transposes in an order that does not repeat itself."""
    import hybridml as hml

    kinds: list[Callable[[Any, Any], Any]] = [
        lambda x, w: hml.tanh(x) * 0.5,
        lambda x, w: x @ w,
        lambda x, w: hml.exp(-x * x) + x,
        lambda x, w: x - hml.mean(x, axis=1, keepdims=True),
        lambda x, w: hml.maximum(x, w) * hml.sigmoid(x),
        lambda x, w: hml.permute_dims(x, (1, 0)),
        lambda x, w: x / (1.0 + hml.sum(hml.abs(x), axis=0)),
        lambda x, w: hml.where(x > 0.1, x, hml.sin(x)),
    ]

    def f(x: Any, w: Any) -> Any:
        state, count = 1, 0
        while count < nodes:
            state = state * 1103515245 + 12345 & 0x7FFFFFFF
            x = kinds[(state >> 16) % len(kinds)](x, w)
            count += 3
        return x

    return f, [hml.ones((16, 16)) * 0.3, hml.ones((16, 16)) * 0.05]


def residual(depth: int) -> tuple[Callable[..., Any], list[Any]]:
    """An Adam step of `depth` residual blocks: layer_norm, dense 256, gelu, dense 64."""
    import numpy as np

    import hybridml as hml

    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        return hml.Variable(rng.standard_normal(shape, np.float32) / math.sqrt(shape[0]))

    blocks = [
        (hml.Variable(hml.ones((64,))), hml.Variable(hml.zeros((64,))), weight(64, 256),
         hml.Variable(hml.zeros((256,))), weight(256, 64), hml.Variable(hml.zeros((64,))))
        for _ in range(depth)
    ]  # fmt: skip
    last = weight(64, 10)
    variables = [v for block in blocks for v in block] + [last]
    optimizer = hml.optim.Adam(1e-3)

    def step(x: Any, labels: Any) -> Any:
        with hml.GradientTape() as tape:
            h = x
            for scale, offset, w1, b1, w2, b2 in blocks:
                h = h + hml.nn.gelu(hml.nn.layer_norm(h, scale, offset) @ w1 + b1) @ w2 + b2
            loss = hml.mean(hml.nn.softmax_cross_entropy(h @ last, labels))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step, [
        hml.asarray(rng.standard_normal((32, 64), np.float32)),
        hml.asarray(rng.integers(0, 10, 32)),
    ]


FAMILIES: dict[str, tuple[Callable[[int], Any], tuple[int, ...]]] = {
    "repeated": (repeated, SIZES), "varied": (varied, SIZES), "residual": (residual, DEPTHS),
}  # fmt: skip


def first_call(family: str, size: int) -> dict[str, Any]:
    """Measure in this process."""
    import hybridml as hml

    f, args = FAMILIES[family][0](size)
    traced = hml.function(f)
    begin = time.perf_counter()
    float(hml.sum(traced(*args)))
    seconds = time.perf_counter() - begin
    concrete = traced.get_concrete_function(*args)
    stats = concrete.stats
    return {
        "family": family, "size": size, "operations": len(concrete.graph.nodes), "kernels": stats.kernels,
        "compiled": stats.compiled, "seconds": seconds,
        "stages": {s: getattr(stats, f"{s}_seconds") for s in STAGES},
    }  # fmt: skip


def in_a_process(family: str, size: int, cache: Path) -> dict[str, Any]:
    env = os.environ | {"HYBRIDML_CACHE_DIR": str(cache)}
    command = [sys.executable, __file__, "--one", family, str(size)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(repeat: int) -> list[dict[str, Any]]:
    rows = []
    for family, (_, sizes) in FAMILIES.items():
        for size in sizes:
            for state in ("cold", "warm"):
                runs = []
                for _ in range(repeat):
                    with tempfile.TemporaryDirectory() as folder:
                        if state == "warm":
                            in_a_process(family, size, Path(folder))
                        runs.append(in_a_process(family, size, Path(folder)))
                runs.sort(key=lambda r: r["seconds"])
                rows.append({**runs[len(runs) // 2], "state": state})
                print(
                    f"{family} {size} {state}: {rows[-1]['seconds']:.3f} s, {rows[-1]['operations']} operations"
                )
    return rows


def exponent(rows: list[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
    """k of seconds ~ operations**k over the larger half of the sizes."""
    half = sorted(rows, key=lambda r: r["operations"])[len(rows) // 2 :]
    x = [math.log(r["operations"]) for r in half]
    y = [math.log(of(r)) for r in half]
    return statistics.linear_regression(x, y).slope


def table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| graph | operations | kernels | of them compiled | state | first call | "
        + " | ".join(STAGES)
        + " |"
    )
    said = "Seconds; `make bench-compile`. Under llvm stands what the call waited for, not what other threads did meanwhile."
    lines = ["# First call against the size of the graph", "", said, "", head]
    lines.append("|" + "---|" * (head.count("|") - 1))
    for r in rows:
        stages = " | ".join(f"{r['stages'][s]:.3f}" for s in STAGES)
        lines.append(
            f"| {r['family']} {r['size']} | {r['operations']} | {r['kernels']} | {r['compiled']} | {r['state']} |"
            f" {r['seconds']:.3f} | {stages} |"
        )
    lines += [
        "",
        "Growth, as the exponent k of seconds ~ operations^k over the larger half of the sizes:",
        "",
    ]
    for family in FAMILIES:
        for state in ("cold", "warm"):
            some = [r for r in rows if r["family"] == family and r["state"] == state]
            lines.append(f"- {family}, {state}: {exponent(some, lambda r: r['seconds']):.2f}")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from hybridml.compare.plot import EAGER, TRACED, save

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(FAMILIES), sharey=True)
    for ax, family in zip(axes, FAMILIES, strict=True):
        for state, style, color in (("cold", "o-", EAGER), ("warm", "s--", TRACED)):
            some = [r for r in rows if r["family"] == family and r["state"] == state]
            x, y = [r["operations"] for r in some], [r["seconds"] for r in some]
            ax.loglog(x, y, style, color=color, label=state)
        ax.xaxis.set_minor_formatter(
            NullFormatter()
        )  # less than two decades would have a label at every step
        ax.set(title=family, xlabel="operations in the graph")
        ax.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("first call, seconds")
    axes[0].legend(frameon=False)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--one", nargs=2, metavar=("FAMILY", "SIZE"), help="one measurement in this process, as JSON"
    )
    parser.add_argument("--repeat", type=int, default=3, help="processes for each point; the median counts")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(first_call(args.one[0], int(args.one[1]))))
        return
    rows = measure(args.repeat)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu-compile.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "cpu-compile.md").write_text(table(rows))
    plot(rows, RESULTS / "cpu-compile.svg")


if __name__ == "__main__":
    main()
