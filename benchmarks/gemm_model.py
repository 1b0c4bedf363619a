"""How good the choices of the cost model of matrix products are here: `python benchmarks/gemm_model.py`.

Each product is timed with both kernels and with every split; "lost" is what the model's choice takes longer than the best of them.
The model's own figure, in the time of a thread whose tiles run at the best rate seen, shows where it is wrong.
"""

from __future__ import annotations

import itertools

from products import Shape, plan, program
from turns import in_turns, median

from hybridml.kernels import blas, gemm, gemm_cost
from hybridml.kernels.gemm_cost import Product, Split

SHAPES = [
    Shape(*sizes, transa, transb)
    for sizes, transa, transb in itertools.chain(
        itertools.product(
            [(64, 100, 1000), (63, 101, 999), (1000, 100, 64)], [False, True], [False]
        ),
        itertools.product([(64, 1000, 100), (1024, 256, 1024), (256, 1024, 1024)], [False], [False, True]),
        itertools.product([(300, 300, 300), (1024, 256, 1024), (16, 16, 16)], [True], [False, True]),
    )
] + [Shape(128, 128, 64, False, True, 32), Shape(128, 64, 128, batch=32), Shape(32, 32, 32, batch=100)]  # fmt: skip


def measured(shape: Shape) -> dict[str, float]:
    """Seconds of a call by kernel and split; `chosen` as the program would run it."""
    chunks = plan(shape).chunks
    ways: dict[str, tuple[str | None, Split | None]] = {"chosen": (None, None)}
    for split in Split if chunks > 1 else [None]:
        ways["tiles" + (f", {split.name.lower()}" if split is not None else "")] = ("tiled", split)
    if blas.find() is not None:
        ways["library"] = ("library", None)
    programs = [program(shape, *way) for way in ways.values()]
    calls = [lambda p=p: p.run([]) for p in programs]
    times = in_turns(*calls, rounds=5)
    return {name: median(t) for name, t in zip(ways, times, strict=True)}


def predicted(shape: Shape) -> float:
    """Cycles of the slowest piece of what the model chooses."""
    p = plan(shape, "tiled")
    product = Product(shape.m, shape.n, shape.k, shape.transa, shape.transb, shape.batch)
    split = Split(p.template[gemm.Words.SPLIT])
    machine = gemm.machine("float32")
    return max(gemm_cost.tiled(q, machine) for q in product.pieces(split, p.chunks, machine))


def main() -> None:
    results = {shape: measured(shape) for shape in SHAPES}
    tiles = {s: min(t for name, t in r.items() if name.startswith("tiles")) for s, r in results.items()}
    cycle = min(tiles[s] / predicted(s) for s in SHAPES)
    library = blas.find()
    print(f"library: {library.origin if library else 'none'}")
    print(f"{'product':30}{'GFLOP/s':>9}{'library':>9}{'lost':>7}{'model / measured':>18}")
    for shape, r in results.items():
        lost = r["chosen"] / min(r.values()) - 1
        library = f"{shape.flops / r['library'] / 1e9:9.0f}" if "library" in r else " " * 9
        print(
            f"{shape!s:30}{shape.flops / r['chosen'] / 1e9:9.0f}{library}{max(lost, 0):7.0%}"
            f"{predicted(shape) * cycle / tiles[shape]:18.2f}"
        )


if __name__ == "__main__":
    main()
