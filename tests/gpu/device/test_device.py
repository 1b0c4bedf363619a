"""What only a GPU can show: results against the CPU, the same bits from run to run, no leak, recovery, threads, neighbours."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import threading
from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import backends, config, pytree
from hybridml.errors import DeviceMemoryError, IndexOutOfRangeError
from hybridml.ops.registry import OPS, Kind
from hybridml.testing import TOLERANCE, public_functions, recast, samples_of, widened

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None and op.kind is not Kind.RANDOM]
RNG = np.random.default_rng(11)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def pool() -> Any:
    return backends.named("gpu:0").xp.get_default_memory_pool()


def step_of(sizes: tuple[int, ...] = (64, 100, 50, 10)) -> tuple[Any, Any, list[Any]]:
    """A traced Adam step, its arguments, and its variables."""
    n, d, h, k = sizes
    rng = np.random.default_rng(3)
    weights = [hml.Variable(rng.normal(size=s).astype("f") * 0.1) for s in ((d, h), (h,), (h, k), (k,))]
    optimizer = hml.optim.Adam(0.01)

    @hml.function
    def step(x: Any, y: Any) -> Any:
        with hml.GradientTape() as tape:
            hidden = hml.nn.gelu(x @ weights[0] + weights[1])
            loss = hml.mean(hml.nn.softmax_cross_entropy(hidden @ weights[2] + weights[3], y))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return loss

    args = hml.asarray(rng.normal(size=(n, d)).astype("f")), hml.asarray(rng.integers(0, k, n))
    return step, args, weights


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "traced"])
def test_every_row_gives_what_the_cpu_gives(op: Any, traced: bool) -> None:
    for sample in samples_of(op):
        args = recast(sample.args, "float32")
        leaves, structure = pytree.flatten(list(args))
        places = [i for i, x in enumerate(leaves) if isinstance(x, (np.ndarray, np.generic))]

        def call(*tensors: Any, leaves: Any = leaves, places: Any = places, structure: Any = structure, op: Any = op,
                 kwargs: Any = sample.kwargs) -> Any:  # fmt: skip
            full = list(leaves)
            for i, t in zip(places, tensors, strict=True):
                full[i] = t
            return FUNCTIONS[op.name](*pytree.unflatten(structure, full), **kwargs)

        with hml.device("cpu"):
            expected = call(*[hml.asarray(leaves[i]) for i in places])
        f = hml.function(call) if traced else call
        for _ in range(3 if traced else 1):  # launched, recorded, replayed
            got = f(*[hml.asarray(leaves[i]) for i in places])
            for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
                assert g.device == "gpu:0"
                tolerance = 10 * TOLERANCE.get(e.dtype.name, 0) if e.dtype.kind == "f" else 0
                np.testing.assert_allclose(
                    g.numpy(), e.numpy(), rtol=tolerance, atol=tolerance, err_msg=f"{op.name}: {sample.label}"
                )


def test_thousands_of_steps_take_no_more_memory() -> None:
    step, (x, y), _ = step_of()
    for _ in range(10):
        step(x, y)
    used, first = pool().used_bytes(), float(step(x, y))
    for _ in range(3000):
        loss = step(x, y)
    assert float(loss) < first
    assert pool().used_bytes() <= used + 4096


def test_many_functions_give_their_memory_back() -> None:
    def once(k: int) -> None:
        f = hml.function(lambda x: hml.nn.softmax(x @ x) + float(k))
        x = hml.asarray(floats(64, 64))
        for _ in range(3):
            f(x)

    once(0)
    gc.collect()
    used = pool().used_bytes()
    for k in range(1, 20):
        once(k)
    gc.collect()
    assert pool().used_bytes() <= used + (1 << 20)


def test_the_same_run_gives_the_same_bits() -> None:
    runs = []
    for _ in range(2):
        step, (x, y), weights = step_of()
        losses = [step(x, y).numpy() for _ in range(50)]
        runs.append([*losses, *[w.numpy() for w in weights]])
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_takes_the_steps_of_the_cpu() -> None:
    step, (x, y), _ = step_of()
    with hml.device("cpu"):
        at_home, (a, b), _ = step_of()
        expected = [float(at_home(a, b)) for _ in range(30)]
    np.testing.assert_allclose([float(step(x, y)) for _ in range(30)], expected, rtol=2e-3)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1),
        (3, 31),
        (7, 33),
        (5, 257),
        (2, 5000),
        (2, 40_000),
        (300, 50_257),
        (1, 300_001),
        (4097, 9),
        (70_000, 3),
    ],
)
def test_rows_of_every_length(shape: tuple[int, int]) -> None:
    """Softmax, sums and layer norm with all the blocks that a launch may have, one and several phases."""
    x = floats(*shape)

    def f(x: Any) -> Any:
        return (
            hml.nn.softmax(x),
            hml.sum(x, axis=0),
            hml.sum(x, axis=1),
            hml.sum(x),
            hml.max(x),
            hml.var(x, axis=1),
        )

    traced = hml.function(f)
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(1, keepdims=True))
    expected = [e / e.sum(1, keepdims=True), wide.sum(0), wide.sum(1), wide.sum(), wide.max(), wide.var(1)]
    for _ in range(3):
        for got, want in zip(traced(hml.asarray(x)), expected, strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-5 * np.sqrt(x.size))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "bool"])
def test_transposed_reads_give_what_the_cpu_gives(dtype: str) -> None:
    for shape in ((33, 1000), (1024, 16), (15, 70)):
        x = (floats(3, *shape) > 0).astype(dtype) if dtype == "bool" else floats(3, *shape).astype(dtype)

        def f(x: Any) -> Any:
            y = hml.permute_dims(x, (0, 2, 1))
            return hml.where(y == y[:1], y, y[:, ::-1])

        with hml.device("cpu"):
            expected = f(hml.asarray(x)).numpy()
        traced = hml.function(f)
        for _ in range(3):
            np.testing.assert_array_equal(widened(traced(hml.asarray(x)).numpy()), widened(expected))


def test_approximate_functions_are_near() -> None:
    x = np.linspace(0.1, 3, 1000, dtype=np.float32)

    def f(x: Any) -> Any:
        return (
            hml.exp(x), hml.exp2(x), hml.log(x), hml.log2(x), hml.log10(x), hml.sin(x), hml.cos(x), hml.tanh(x), hml.sqrt(x),
            hml.rsqrt(x), hml.sigmoid(x), 1 / x,
        )  # fmt: skip

    wide = x.astype(np.float64)
    with hml.device("cpu"):
        expected = [t.numpy() for t in f(hml.asarray(wide))]
    for fast, tolerance in ((False, 3e-7), (True, 6e-4)):
        traced = hml.function(f)
        with config.scope(fast_math=fast):
            traced(hml.asarray(x))
        for got, want in zip(traced(hml.asarray(x)), expected, strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance)


def test_large_tensors() -> None:
    """Past 2**31 bytes, where 32-bit byte offsets would overflow."""
    n = 2**29 + 5
    x = hml.ones(n)
    f = hml.function(lambda x: (x + 1, hml.sum(x)))
    for _ in range(3):
        y, total = f(x)
        assert float(y[-1]) == 2.0
        assert float(total) == pytest.approx(n, rel=1e-6), (
            "parts of whole numbers, rounded as they are added up"
        )
        del y


def test_out_of_memory_is_told_and_recovered_from() -> None:
    f = hml.function(lambda x: hml.nn.softmax(x) @ hml.nn.softmax(x).T)
    free, _ = backends.named("gpu:0").xp.cuda.runtime.memGetInfo()
    n = int((free / 4) ** 0.5) * 2
    with pytest.raises((DeviceMemoryError, MemoryError)):
        f(hml.zeros((n, n)))
    with pytest.raises((DeviceMemoryError, MemoryError)):
        hml.zeros((n, n)) + hml.zeros((n, n))
    pool().free_all_blocks()
    np.testing.assert_allclose(f(hml.zeros((8, 8))).numpy(), 1 / 8, rtol=1e-6)


def test_a_fault_is_named_and_the_process_goes_on() -> None:
    f = hml.function(lambda x, k: hml.take(x, k) * 2)
    x = hml.asarray(floats(5))
    for _ in range(3):
        with pytest.raises(IndexOutOfRangeError, match="index 5"):
            f(x, hml.asarray([0, 5])).numpy()
        np.testing.assert_allclose(f(x, hml.asarray([0, 4])).numpy(), 2 * x.numpy()[[0, 4]])


def test_threads_and_neighbours() -> None:
    """Two functions, each called from two threads, on the default stream and on streams of their own."""
    cupy = backends.named("gpu:0").xp
    functions = [
        hml.function(lambda x: hml.nn.softmax(x @ x)),
        hml.function(lambda x: hml.tanh(x) @ x + hml.sum(x)),
    ]
    inputs = [floats(65, 65) * 0.1 for _ in range(4)]
    with hml.device("cpu"):
        expected = [functions[k % 2](hml.asarray(x)).numpy() for k, x in enumerate(inputs)]
    wrong: list[Any] = []

    def work(k: int) -> None:
        try:
            with hml.device("gpu:0"), cupy.cuda.Stream(non_blocking=True) if k > 1 else cupy.cuda.Stream.null:
                x = hml.asarray(inputs[k])
                for _ in range(200):
                    np.testing.assert_allclose(functions[k % 2](x).numpy(), expected[k], rtol=2e-4, atol=2e-4)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[0]


def test_dlpack_shares_memory_both_ways() -> None:
    cupy = backends.named("gpu:0").xp
    a = cupy.arange(5, dtype=cupy.float32)
    t = hml.from_dlpack(a)
    assert t._array.data.ptr == a.data.ptr
    assert cupy.from_dlpack(t).data.ptr == a.data.ptr
    assert hml.asarray(a)._array.data.ptr != a.data.ptr
    if importlib.util.find_spec("torch") is not None:
        torch = importlib.import_module("torch")
        b = torch.arange(5, device="cuda", dtype=torch.float32)
        shared = hml.from_dlpack(b)
        assert shared._array.data.ptr == b.data_ptr()
        assert torch.from_dlpack(shared).tolist() == [0, 1, 2, 3, 4]


def test_uniform_bits_are_the_cpus() -> None:
    for traced in (False, True):
        g = hml.random.Generator(5)
        draw = lambda g=g: (g.uniform((1000,)), g.randint(1000, shape=(1000,)), g.normal((1000,)))  # noqa: E731  # twice below
        got = (hml.function(draw) if traced else draw)()
        with hml.device("cpu"):
            g2 = hml.random.Generator(5)
            want = (g2.uniform((1000,)), g2.randint(1000, shape=(1000,)), g2.normal((1000,)))
        for a, b, exact in zip(got, want, (True, True, False), strict=True):
            np.testing.assert_allclose(
                a.numpy(), b.numpy(), rtol=0 if exact else 1e-5, atol=0 if exact else 1e-5
            )


def test_epilogues_give_what_the_cpu_gives_and_nan_passes() -> None:
    """Two layers forwards and backwards by relu and gelu: cuBLASLt's epilogues, their gradients and the biases' gradients."""
    for activation in (hml.nn.relu, lambda x: hml.nn.gelu(x, approximate=True), hml.nn.gelu):

        def step(x: Any, a: Any, b: Any, c: Any, d: Any, activation: Any = activation) -> Any:
            with hml.GradientTape() as tape:
                tape.watch([a, b, c, d])
                out = activation(x @ a + b) @ c + d
                loss = hml.mean(out**2)
            return out, tape.gradient(loss, [a, b, c, d])

        args = [floats(96, 72), floats(72, 136), floats(136), floats(136, 24), floats(24)]
        for fault in (False, True):
            if fault:
                args[0][3, 5] = np.nan
            with hml.device("cpu"):
                expected = pytree.leaves(hml.function(step)(*map(hml.asarray, args)))
            traced = hml.function(step)
            for _ in range(3):
                for g, e in zip(pytree.leaves(traced(*map(hml.asarray, args))), expected, strict=True):
                    scale = float(np.nanmax(np.abs(e.numpy()))) if np.isfinite(e.numpy()).any() else 1.0
                    np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-4, atol=2e-5 * scale)


def test_the_program_took_epilogues() -> None:
    args = [hml.asarray(a) for a in (floats(96, 72), floats(72, 136), floats(136))]
    with config.scope(fast_math=True):
        f = hml.function(lambda x, w, b: hml.nn.relu(x @ w + b))
        assert "then bias, relu" in str(f.explain(*args))


def test_the_library_s_relu_still_loses_nan() -> None:
    """https://forums.developer.nvidia.com/t/329783. Where this fails for all sizes, `epilogue.otherwise` need not ask for fast_math."""
    x, w = floats(96, 72), floats(72, 136)
    x[3, 5] = np.nan
    with config.scope(fast_math=True):
        found = hml.function(lambda x, w: hml.nn.relu(x @ w))(hml.asarray(x), hml.asarray(w)).numpy()
    assert not np.isnan(found).any()


@pytest.mark.parametrize("how", [{}, {"strides": 2, "padding": "same"}, {"dilation": 2}, {"groups": 4}])
def test_convolutions_give_what_the_cpu_gives(how: dict[str, Any]) -> None:
    def step(x: Any, w: Any, b: Any) -> Any:
        with hml.GradientTape() as tape:
            tape.watch([x, w, b])
            loss = hml.sum(hml.nn.relu(hml.nn.conv2d(x, w, **how) + b) ** 2)
        return loss, tape.gradient(loss, [x, w, b])

    args = [floats(4, 13, 12, 8), floats(3, 3, 8 // how.get("groups", 1), 16), floats(16)]
    with hml.device("cpu"):
        expected = pytree.leaves(hml.function(step)(*map(hml.asarray, args)))
    traced = hml.function(step)
    for _ in range(3):
        for g, e in zip(pytree.leaves(traced(*map(hml.asarray, args))), expected, strict=True):
            np.testing.assert_allclose(
                g.numpy(), e.numpy(), rtol=2e-4, atol=2e-4 * float(np.abs(e.numpy()).max())
            )


def test_loops_and_branches_inside_the_graph() -> None:
    def f(x: Any, n: Any) -> Any:
        while n > 0:
            x = hml.tanh(x @ x) if hml.sum(x) < 1 else x - 0.5
            n = n - 1
        return x, n

    traced = hml.function(f)
    for n in (3, 0, 5, 40, 1, 0):
        x = floats(8, 8) * 0.1
        with hml.device("cpu"):
            expected = hml.function(f)(hml.asarray(x), hml.asarray(n))
        for g, e in zip(traced(hml.asarray(x), hml.asarray(n)), expected, strict=True):
            np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-4, atol=1e-5)
