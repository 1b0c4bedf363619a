"""Traced functions on a device: the program that a GPU runs, its lowest layer replaced by one that reads kernels as Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_gpu import FakeGpu

import hybridml as hml
from hybridml import config, pytree
from hybridml.eager.tensor import wrap
from hybridml.errors import DeviceError, DeviceMemoryError, IndexOutOfRangeError, NonFiniteError
from hybridml.kernels.cuda import region

RNG = np.random.default_rng(5)


def floats(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def _softmax_gradient(x: Any, y: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch(x)
        loss = hml.mean(hml.nn.softmax_cross_entropy(x, y))
    return loss, tape.gradient(loss, x)


def _layer_norm_gradient(x: Any, g: Any, b: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch([x, g, b])
        loss = hml.sum(hml.nn.layer_norm(x, g, b) ** 2)
    return tape.gradient(loss, [x, g, b])


def _recurrent(xs: Any, w: Any, u: Any) -> Any:
    h = hml.zeros((xs.shape[1], u.shape[0]))
    for x in xs:
        h = hml.tanh(x @ w + h @ u)
    return h


def _recurrent_gradient(xs: Any, w: Any, u: Any) -> Any:
    with hml.GradientTape() as tape:
        tape.watch([w, u])
        loss = hml.sum(_recurrent(xs, w, u) ** 2)
    return tape.gradient(loss, [w, u])


def _scan_of_products(xs: Any, w: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        y = h @ w
        return hml.tanh(y + x), y

    return hml.scan(step, xs[0], xs, reverse=True)


def _collatz(n: Any) -> Any:
    steps = hml.asarray(0)
    while n > 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps = steps + 1
    return steps


def _newton(x: Any) -> Any:
    y = x
    while hml.max(hml.abs(y * y - x)) > 1e-3:
        y = 0.5 * (y + x / y)
    return y @ y.T


def _branch(x: Any, w: Any) -> Any:
    if hml.sum(x) > 0:
        y = x @ w
    else:
        y = x * 2 - w
    return y + 1


def _sums(x: Any) -> Any:
    return hml.sum(x), hml.sum(x, axis=0), hml.max(x, axis=1), hml.var(x, axis=(0,)), hml.any(x > 2, axis=1)


# fmt: off
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], list[Any]]]] = {
    "elementwise": (lambda x, y: hml.nn.gelu(x * y + 1.5) * hml.sigmoid(x) - y, lambda: [floats(91), floats(91)]),
    "broadcast": (lambda x, y: x + y * 2, lambda: [floats(5, 1, 7), floats(3, 1)]),
    "views": (lambda x: hml.tanh(x[1::3, ::2]) + x[:3, 5:0:-1], lambda: [floats(9, 9)]),
    "several rows": (lambda x: (hml.nn.softmax(x), hml.sum(x)), lambda: [floats(5, 37)]),
    "sums": (_sums, lambda: [floats(300, 70)]),
    "one long sum": (lambda x: hml.sum(x * x), lambda: [floats(20_000)]),
    "integers": (lambda x, y: (x // y, x % y, hml.sum(x, axis=0)),
                 lambda: [RNG.integers(-90, 90, (7, 9)), RNG.integers(-90, 90, (7, 9))]),
    "layer_norm": (_layer_norm_gradient, lambda: [floats(4, 33), floats(33), floats(33)]),
    "cross entropy": (_softmax_gradient, lambda: [floats(9, 11), RNG.integers(0, 11, 9)]),
    "products": (lambda a, b: (a @ b, a.T @ a, (b @ b.T) @ a.T.T), lambda: [floats(5, 5), floats(5, 5)]),
    "batched products": (lambda a, b: hml.nn.softmax(a @ b.mT) @ b, lambda: [floats(2, 3, 4, 5), floats(2, 3, 4, 5)]),
    "gather": (lambda x, k: (hml.take(x, k, axis=1), x[0] * 2), lambda: [floats(5, 7), RNG.integers(-7, 7, 5)]),
    "scatter": (lambda x, k, u: hml.scatter_add(x, k, u, axis=0), lambda: [floats(6, 5), RNG.integers(-6, 6, 9), floats(9, 5)]),
    "concat": (lambda x, y: hml.concat([x, y[:, ::-1], x], axis=1), lambda: [floats(5, 3), floats(5, 4)]),
    "python step": (lambda x: hml.sort(x * 2, axis=1) + 1, lambda: [floats(4, 9)]),
    "cond": (_branch, lambda: [floats(4, 4), floats(4, 4)]),
    "while": (_collatz, lambda: [np.array(RNG.integers(3, 30))]),
    "while with products": (_newton, lambda: [np.abs(floats(3, 3)) + 1]),
    "scan": (_recurrent, lambda: [floats(6, 2, 3), floats(3, 4), floats(4, 4)]),
    "scan gradient": (_recurrent_gradient, lambda: [floats(5, 2, 3), floats(3, 4), floats(4, 4)]),
    "scan of products": (_scan_of_products, lambda: [floats(7, 2, 4), floats(4, 4)]),
    "no arguments": (lambda: hml.arange(5) * 2.0, list),
    "constants": (lambda x: x + hml.asarray(np.arange(12.0, dtype=np.float32).reshape(3, 4)), lambda: [floats(3, 4)]),
    "an input returned": (lambda x: (x, x + 1), lambda: [floats(3)]),
    "empty": (lambda x: (x * 2, hml.sum(x, axis=0)), lambda: [floats(0, 3)]),
}
# fmt: on


def close(got: Any, expected: Any) -> None:
    for g, e in zip(pytree.leaves(got), pytree.leaves(expected), strict=True):
        assert g.device == "gpu:0"
        assert e.device == "cpu:0"
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_traced_function_gives_what_the_cpu_gives(name: str, gpu: FakeGpu) -> None:
    """Four calls, on arrays that lie elsewhere each time: launched, recorded, replayed and replayed with other addresses."""
    f, make = FUNCTIONS[name]
    here, there = hml.function(f), hml.function(f)
    for _ in range(4):
        args = make()
        expected = here(*map(hml.asarray, args))
        with hml.device("gpu:0"):
            tensors = [hml.asarray(a) for a in args]
            got = there(*tensors)
        close(got, expected)
        for t, a in zip(tensors, args, strict=True):
            np.testing.assert_array_equal(t.numpy(), a, err_msg="an input changed")
    assert there.cache_info().traces == 1


@pytest.mark.parametrize("most", [3, 9, 14, 17])
@pytest.mark.parametrize("name", ["scan", "scan gradient", "scan of products"])
def test_a_long_scan_is_repeated_by_the_host(
    most: int, name: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row, or some rows at a time and what remains, forwards and backwards, with a library that writes rows."""
    monkeypatch.setattr(region, "MAX_UNROLLED", most)
    f, make = FUNCTIONS[name]
    here, there = hml.function(f), hml.function(f)
    for _ in range(3):
        args = make()
        expected = here(*map(hml.asarray, args))
        close(there(*[wrap(gpu.put(a)) for a in args]), expected)


def test_so_many_rows_of_a_long_scan_are_one_replay(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def f(h: Any, xs: Any) -> Any:
        return hml.scan(lambda h, x: (hml.tanh(h * 0.5 + x), h * x), h, xs)

    args = [floats(3), floats(100, 3)]
    expected = hml.function(f)(*map(hml.asarray, args))
    replays = {}
    for most, rows_bytes in ((20, 1 << 20), (20, 7 * 24), (1, 1 << 20)):
        monkeypatch.setattr(region, "MAX_UNROLLED", most)
        monkeypatch.setattr(region, "ROWS_BYTES", rows_bytes)
        traced = hml.function(f)
        for _ in range(3):
            gpu.driver.log.clear()
            close(traced(*[wrap(gpu.put(a)) for a in args]), expected)
        replays[most, rows_bytes] = gpu.driver.log.count("replay")
        assert gpu.driver.log.count("read") == 0, "nothing waits for the device"
    # 20 rows at a time; 7 of 24 bytes, 14 times, and the last two; one kernel at a time, which needs no graph
    assert replays == {(20, 1 << 20): 5, (20, 7 * 24): 15, (1, 1 << 20): 0}


def test_a_product_that_sums_up_nothing_is_no_library_s(gpu: FakeGpu) -> None:
    args = [floats(2, 3, 0), floats(2, 0, 4), floats(4)]
    traced = hml.function(lambda x, y, b: x @ y + b)
    got = traced(*[wrap(gpu.put(a)) for a in args])
    close(got, hml.asarray(np.broadcast_to(args[2], (2, 3, 4))))
    assert [line.split()[0] for line in gpu.driver.log] == ["clear", "launch"]


def test_segments_that_write_parts_of_one_array(gpu: FakeGpu) -> None:
    """A check cuts the program behind each product that writes a row of the result; what the others wrote stays."""

    def f(h: Any, ids: Any, w: Any) -> Any:
        def body(h: Any, i: Any) -> Any:
            y = h @ w
            b = hml.tanh(y + hml.take(w, i, axis=0))
            return b * 0.5 + hml.take(w, hml.argmax(b, axis=1), axis=0), y

        return hml.scan(body, h, ids)

    args = [floats(3, 3), np.array([[0, 1, 2], [2, 1, 0], [1, 1, 0]]), floats(3, 3)]
    expected = hml.function(f)(*map(hml.asarray, args))
    traced = hml.function(f)
    for _ in range(3):
        close(traced(*[wrap(gpu.put(a)) for a in args]), expected)


def _training(device: str, steps: int) -> tuple[list[float], list[Any], Any]:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(6, 7)).astype("f"), rng.normal(size=(6, 3)).astype("f")
    with hml.device(device):
        w1 = hml.Variable(rng.normal(size=(7, 5)).astype("f"))
        w2 = hml.Variable(rng.normal(size=(5, 3)).astype("f"))
        optimizer = hml.optim.Adam(0.05)

        @hml.function
        def step(x: Any, y: Any) -> Any:
            with hml.GradientTape() as tape:
                loss = hml.mean((hml.nn.relu(x @ w1) @ w2 - y) ** 2)
            optimizer.apply_gradients(zip(tape.gradient(loss, [w1, w2]), [w1, w2], strict=True))
            return loss

        losses = [float(step(hml.asarray(x), hml.asarray(y))) for _ in range(steps)]
    return losses, [w1, w2], step


def test_training_on_the_device_takes_the_same_steps(gpu: FakeGpu) -> None:
    here, at_home, _ = _training("cpu", 6)
    there, away, _ = _training("gpu:0", 6)
    np.testing.assert_allclose(there, here, rtol=1e-4)
    assert here[-1] < here[0]
    for a, b in zip(at_home, away, strict=True):
        assert b.device == "gpu:0"
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-3, atol=1e-5)
    again, _, _ = _training("gpu:0", 6)
    assert again == there, "the same run gives the same bits"


def test_a_step_is_one_replay_and_variables_stay_put(gpu: FakeGpu) -> None:
    _, variables, step = _training("gpu:0", 3)
    where = [v._array.data.ptr for v in variables]
    with hml.device("gpu:0"):
        x, y = hml.zeros((6, 7)), hml.zeros((6, 3))
        step(x, y)
        gpu.driver.log.clear()
        step(x, y)
    assert where == [v._array.data.ptr for v in variables]
    assert gpu.driver.log.count("replay") == 1
    assert set(gpu.driver.log) <= {"replay", "copy", "update"}, (
        "nothing waits for the device, nothing is launched by itself"
    )


@pytest.mark.filterwarnings("default:kernels are launched")
def test_where_no_graph_can_be_recorded_kernels_are_launched_one_by_one(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise DeviceError("CUDA: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    f = hml.function(lambda x, n: _newton(x) if hml.sum(x) > n else hml.tanh(x @ x))
    x = floats(6, 6) ** 2 + 1
    with hml.device("cpu"):
        expected = [f(hml.asarray(x), hml.asarray(n)).numpy() for n in (0.0, 1e9)]
    monkeypatch.setattr(gpu.driver, "recorder", refuse)
    with hml.device("gpu:0"):
        for k in range(2):
            f(hml.asarray(x), hml.asarray(1e9))  # the first call launches anyway
            with (
                pytest.warns(RuntimeWarning, match="CAPTURE_UNSUPPORTED")
                if not k
                else contextlib.nullcontext()
            ):
                got = [f(hml.asarray(x), hml.asarray(n)).numpy() for n in (0.0, 1e9)]
            for g, e in zip(got, expected, strict=True):
                np.testing.assert_allclose(g, e, rtol=1e-5)


def test_under_launch_blocking_nothing_is_recorded(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.driver, "blocking", True)
    f = hml.function(lambda x: hml.nn.softmax(x @ x) @ x)
    with hml.device("gpu:0"):
        x = hml.asarray(floats(5, 5))
        first = f(x).numpy()
        gpu.driver.log.clear()
        np.testing.assert_array_equal(f(x).numpy(), first)
    assert "replay" not in gpu.driver.log
    assert any(line.startswith("launch") for line in gpu.driver.log)


def test_a_variable_whose_value_is_held_moves_and_the_program_follows(gpu: FakeGpu) -> None:
    with hml.device("gpu:0"):
        w = hml.Variable(floats(4, 4))

        @hml.function
        def step(x: Any) -> Any:
            w.assign(w @ x + 1)
            return hml.sum(w.value())

        x, expected = hml.asarray(floats(4, 4)), w.numpy()
        for _ in range(5):
            held = w.value()
            step(x)
            np.testing.assert_allclose(held.numpy(), expected, rtol=1e-5)
            expected = expected @ x.numpy() + 1
            np.testing.assert_allclose(w.numpy(), expected, rtol=1e-4)


def test_faults_are_found_and_named_and_variables_are_as_before(gpu: FakeGpu) -> None:
    with hml.device("gpu:0"):
        w = hml.Variable(floats(5))

        @hml.function
        def f(x: Any, k: Any) -> Any:
            w.assign(hml.take(x, k) + hml.check_finite(x, "x"))
            return w * 2

        x, fine, bad = hml.asarray(floats(5)), hml.asarray([0, 1, 2, 3, 4]), hml.asarray([0, 1, 2, 3, 5])
        for _ in range(3):
            np.testing.assert_allclose(f(x, fine).numpy(), 4 * x.numpy(), rtol=1e-6)
            before = w.numpy()
            with pytest.raises(IndexOutOfRangeError, match="index 5 is out of range"):
                f(x, bad).numpy()
            with pytest.raises(NonFiniteError, match="x: 1 of 5"):
                f(hml.asarray([1.0, 2.0, np.nan, 3.0, 4.0]), fine).numpy()
            np.testing.assert_array_equal(w.numpy(), before)


def test_random_numbers_are_the_cpus(gpu: FakeGpu) -> None:
    def draw() -> Any:
        return g.uniform((5, 7)), g.randint(10, shape=(11,))

    g = hml.random.Generator(3)
    expected = [hml.function(draw)() for _ in range(3)]
    for traced in (True, False):
        g = hml.random.Generator(3)
        with hml.device("gpu:0"):
            f = hml.function(draw) if traced else draw
            for want in expected:
                for a, b in zip(f(), want, strict=True):
                    assert a.device == "gpu:0"
                    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_function_runs_where_its_tensors_are(gpu: FakeGpu) -> None:
    f = hml.function(lambda x: x * 2 + 1)
    x = hml.ones(3)
    assert [f(x).device, f(x.to("gpu:0")).device, f(x).device, f(x.to("gpu:0")).device] == [
        "cpu:0",
        "gpu:0",
    ] * 2
    assert f.cache_info().traces == 2
    assert "gpu:0" in f.explain_retraces() or f.explain_retraces()


def test_a_variable_on_another_device_is_named(gpu: FakeGpu) -> None:
    w = hml.Variable(floats(3), name="weight")
    f = hml.function(lambda x: x * w)
    x = hml.ones(3).to("gpu:0")
    with pytest.raises(DeviceError, match=r'"weight".*cpu:0.*\n?.*to\("gpu:0"\)'):
        f(x)
    w.to("gpu:0")
    assert f(x).device == "gpu:0"
    w.to("cpu:0")
    with pytest.raises(DeviceError, match="weight"):
        f(x)


def test_gradients_through_a_traced_call(gpu: FakeGpu) -> None:
    f = hml.function(lambda x: hml.sum(hml.tanh(x) ** 2))
    x = floats(4, 5)
    expected = hml.grad(f)(hml.asarray(x))
    got = hml.grad(f)(wrap(gpu.put(x)))
    assert got.device == "gpu:0"
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5)


def test_fast_math_is_asked_of_the_settings_when_a_function_is_compiled(gpu: FakeGpu) -> None:
    x = floats(4, 12)
    expected = hml.nn.softmax(hml.asarray(x)).numpy()
    for fast in (False, True):
        f = hml.function(hml.nn.softmax)
        with config.scope(fast_math=fast):
            f(wrap(gpu.put(x)))
        np.testing.assert_allclose(f(wrap(gpu.put(x))).numpy(), expected, rtol=1e-5)
    texts = [k.source for k, _ in gpu.driver._kernels.values()]
    assert ["cuda_fast" in text for text in texts] == [False, True]


def test_no_memory_left_is_an_error_that_says_so(gpu: FakeGpu) -> None:
    gpu.driver.limit = 1000
    f = hml.function(lambda x: hml.sum(hml.nn.softmax(x @ x) @ x))
    x = wrap(gpu.put(floats(40, 40)))
    with pytest.raises(DeviceMemoryError, match="gpu:0 has no memory left"):
        f(x)
    gpu.driver.limit = None
    assert f(x).device == "gpu:0"


def test_eight_threads_call_one_function(gpu: FakeGpu) -> None:
    from concurrent.futures import ThreadPoolExecutor

    f = hml.function(lambda x: hml.nn.softmax(x) @ x)
    inputs = [floats(3, 3) for _ in range(8)]
    expected = [hml.function(lambda x: hml.nn.softmax(x) @ x)(hml.asarray(x)).numpy() for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda x: f(wrap(gpu.put(x))).numpy(), inputs))
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-5)


def test_a_concrete_function_for_any_size_runs_where_it_is_asked_for(gpu: FakeGpu) -> None:
    with hml.device("gpu:0"):
        w = hml.Variable(floats(3, 2))
        concrete = hml.function(lambda x: x @ w + 1).get_concrete_function(
            hml.TensorSpec((None, 3), hml.float32)
        )
        for n in (1, 4, 7, 4):
            x = floats(n, 3)
            got = concrete(hml.asarray(x))
            assert got.device == "gpu:0"
            np.testing.assert_allclose(got.numpy(), x @ w.numpy() + 1, rtol=1e-5)


def test_check_mode_agrees(gpu: FakeGpu) -> None:
    f = hml.function(lambda x: hml.nn.softmax(x * 2), check=True)
    x = wrap(gpu.put(floats(4, 5)))
    np.testing.assert_allclose(f(x).numpy(), f(x).numpy())
