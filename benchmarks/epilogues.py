"""What riding on a product costs and saves: `python benchmarks/epilogues.py`.

Each product is timed alone, with what follows it in its register tiles (or blocks, where that is all it can have), with the same in its
blocks, whose numbers pass through the near cache, and with that in a kernel of its own; all four in tiles. So is what makes its operand B,
in panels or in blocks. What is left between the first two columns is the rider's own arithmetic and the other operands' memory, which no
way of fusing would save.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
from turns import in_turns, median, ratio

import hybridml as hml
from hybridml.kernels import gemm, gemm_cost, region

SHAPES = ((256, 10, 100), (64, 100, 1000), (256, 256, 256), (1024, 256, 256), (256, 1024, 1024))  # m, n, k
ROUNDS = 11


@contextlib.contextmanager
def tiles(ride: bool, in_registers: bool = True) -> Iterator[None]:
    """Products in tiles, whether anything may ride on them, and how."""
    patches = [mock.patch.object(gemm_cost, "library", lambda *args: float("inf"))]
    if not ride:
        patches.append(mock.patch.object(gemm, "carries", lambda *args: False))
        patches.append(mock.patch.object(gemm, "packs", lambda *args: None))
    if not in_registers:
        patches.append(mock.patch.object(region, "tile_way", lambda spec: None))
        patches.append(mock.patch.object(region, "panel_way", lambda spec: None))
    with contextlib.ExitStack() as stack:
        for p in patches:
            stack.enter_context(p)
        yield


def cases(m: int, n: int, k: int) -> dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Any]]]:
    """By name: the product alone, with what follows it, and their arguments."""
    rng = np.random.default_rng(0)

    def array(*shape: int) -> Any:
        return hml.asarray(rng.normal(size=shape).astype(np.float32))

    x, w, b, r, g, y = array(m, k), array(k, n), array(n), array(m, n), array(m, n), array(k, n)
    weight, first, second = [hml.Variable(np.abs(array(k, n).numpy()) + 0.1) for _ in range(3)]

    def adam(x: Any, g: Any) -> Any:
        new = x.mT @ g
        first.assign(0.9 * first + 0.1 * new)
        second.assign(0.999 * second + 0.001 * new * new)
        weight.assign(weight - 0.001 * first / (hml.sqrt(second) + 1e-7))

    def sgd(x: Any, g: Any) -> Any:
        weight.assign(weight - 0.001 * (x.mT @ g))

    def masked(g: Any, w: Any, r: Any) -> Any:
        return hml.where(r > 0, g @ w, 0.0)

    def masked_with_sums(g: Any, w: Any, r: Any) -> Any:
        y = masked(g, w, r)
        return y, hml.sum(y, axis=0)

    def product(a: Any, b: Any, *_: Any) -> Any:
        return a @ b

    def gradient(a: Any, b: Any) -> Any:
        return a.mT @ b

    return {
        "bias and ReLU": (product, lambda x, w, b: hml.nn.relu(x @ w + b), [x, w, b]),
        "bias and GELU": (product, lambda x, w, b: hml.nn.gelu(x @ w + b), [x, w, b]),
        "ReLU's gradient": (product, masked, [x, w, r]),
        "the same and a bias's": (product, masked_with_sums, [x, w, r]),
        "residual": (product, lambda x, w, r: x @ w + r, [x, w, r]),
        "scaling": (product, lambda x, w: x @ w * 0.125, [x, w]),
        "mask before B": (product, lambda x, w, y: x @ hml.where(y > 0, w, 0.0), [x, w, y]),
        "update by SGD": (gradient, sgd, [x, g]),
        "update by Adam": (gradient, adam, [x, g]),
    }


def program(
    f: Callable[..., Any], args: list[Any], ride: bool, in_registers: bool = True
) -> Callable[[], object]:
    with tiles(ride, in_registers):
        traced = hml.function(lambda *args: f(*args))
        for _ in range(3):
            traced(*args)
    return lambda: traced(*args)


def main() -> None:
    heads = ("alone", "riding", "in blocks", "apart", "riding/alone", "riding/in blocks", "riding/apart")
    print(f"{'what rides':24}{'product':18}" + "".join(f"{h:>18}" if "/" in h else f"{h:>11}" for h in heads))
    saved: list[list[float]] = [[], []]
    for m, n, k in SHAPES:
        for name, (product, whole, args) in cases(m, n, k).items():
            alone, riding, in_blocks, apart = in_turns(
                program(product, args, True), program(whole, args, True), program(whole, args, True, False),
                program(whole, args, False), rounds=ROUNDS,
            )  # fmt: skip
            ratios = [ratio(riding, other) for other in (alone, in_blocks, apart)]
            for found, r in zip(saved, ratios[1:], strict=True):
                found.append(r)
            shape = f"{k}x{n}x{m}" if name.startswith("update") else f"{m}x{n}x{k}"
            times = "".join(f"{median(t) * 1e6:11.1f}" for t in (alone, riding, in_blocks, apart))
            print(f"{name:24}{shape:18}{times}" + "".join(f"{r:18.2f}" for r in ratios), flush=True)
    blocks, apart_ratio = map(statistics.median, saved)
    print(f"us; median of riding/in blocks {blocks:.3f}, of riding/apart {apart_ratio:.3f}")


if __name__ == "__main__":
    main()
