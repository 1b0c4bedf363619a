"""What NVIDIA's libraries compute on a GPU, against the interpreter: epilogues, batches, residuals, 16 bits, convolutions, long scans.

The tables are those of the tests without a GPU. What a library refuses stays a kernel, so results are asked for, and not who made them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_convolutions import cases
from test_epilogues import TAKEN, epilogues

import hybridml as hml
from hybridml import pytree
from hybridml.kernels.cuda import region
from hybridml.kernels.cuda.items import Eager

NEAR = {
    "float32": 2e-4,
    "float16": 2e-2,
}  # of the largest element; an epilogue rounds once what the definition rounds in steps
SIZES = {
    1: 1,
    2: 2,
    3: 24,
    4: 32,
    5: 40,
    6: 48,
    7: 56,
    8: 64,
    9: 72,
    16: 128,
}  # the library has more for such

PARTS = ("a part of a matrix added", "a bias for each of a batch")  # that have sizes written in them


def enlarged(args: list[Any], seed: int = 5) -> list[Any]:
    """Arguments of the same structure, with axes of sizes that tensor cores like."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=[SIZES[d] for d in a.shape]).astype(np.float32) * 0.1 for a in args]


def on_the_cpu(f: Any, arrays: list[Any]) -> list[Any]:
    with hml.device("cpu"):
        return [t.numpy() for t in pytree.leaves(hml.function(f)(*map(hml.asarray, arrays)))]


def close(got: Any, expected: list[Any], dtype: str) -> None:
    for g, e in zip(pytree.leaves(got), expected, strict=True):
        scale = max(1.0, float(np.abs(e).max(initial=0)))
        np.testing.assert_allclose(g.numpy().astype("f"), e, rtol=NEAR[dtype], atol=NEAR[dtype] * scale)


def run(f: Any, arrays: list[Any], dtype: str) -> Any:
    """Launched, recorded and replayed, as the CPU has it and with the same bits each time; the program."""
    arrays = [a.astype(dtype) for a in arrays]
    expected = on_the_cpu(f, [a.astype(np.float32) for a in arrays])
    traced, tensors = hml.function(f), [hml.asarray(a) for a in arrays]
    first = traced(*tensors)
    close(first, expected, dtype)
    for _ in range(2):
        for a, b in zip(pytree.leaves(traced(*tensors)), pytree.leaves(first), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    return traced.get_concrete_function(*tensors).program


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", TAKEN)
def test_products_and_what_follows_them(name: str, dtype: str) -> None:
    f, args, _ = TAKEN[name]
    for arrays in (args,) if name in PARTS else (args, enlarged(args)):
        program = run(f, arrays, dtype)
        assert not any(isinstance(p, Eager) for p in program.program.parts)


def test_the_library_has_epilogues_of_batches_residuals_and_16_bits() -> None:
    """Which of them it refuses is what somebody who reads this on a GPU wants to know."""
    refused = {}
    for name in (
        "bias",
        "bias, then a matrix",
        "two axes of a batch",
        "training of experts with relu",
    ):
        f, args, wanted = TAKEN[name]
        for dtype in NEAR:
            found = epilogues(run(f, enlarged(args), dtype).graph)
            if sorted(found) != sorted(wanted):
                refused[name, dtype] = found, wanted
    assert not refused


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize(("f", "args"), cases())
def test_convolutions_are_in_the_program(f: Any, args: list[Any], dtype: str) -> None:
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    if len(arrays) != len(args) or any(0 in a.shape for a in arrays):
        pytest.skip("an operand that is no array, or has no elements")
    program = run(f, arrays, dtype)
    assert not any(isinstance(p, Eager) for p in program.program.parts)


def test_16_bit_products_are_summed_in_single_precision() -> None:
    """4,096 ones and as many times 2^-9: a sum in float16 would stay at 4,096."""
    x, y = np.ones((8, 8192), np.float16), np.ones((8192, 8), np.float16)
    x[:, 4096:] = 2.0**-9
    got = hml.function(lambda x, y: x @ y)(hml.asarray(x), hml.asarray(y))
    np.testing.assert_array_equal(got.numpy(), np.full((8, 8), np.float16(4096 + 8)))


@pytest.mark.parametrize("reverse", [False, True])
def test_long_scans(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region, "MAX_UNROLLED", 50)

    def f(h: Any, xs: Any, w: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            y = h @ w
            return hml.tanh(y + x), y

        return hml.scan(step, h, xs, reverse=reverse)

    rng = np.random.default_rng(2)
    run(f, [rng.normal(size=s).astype("f") * 0.3 for s in ((4, 8), (201, 4, 8), (8, 8))], "float32")
