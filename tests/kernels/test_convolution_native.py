"""Convolution and pooling natively: against the eager rows, in all sizes of blocks, splits and threads."""

import itertools

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import conv_layout, convolution
from hybridml.kernels.steps import KernelStep, RoutineStep
from hybridml.testing import check_traced
from hybridml.trace.function import Function

RNG = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return hml.asarray(RNG.normal(size=shape).astype(dtype))


def three(x, w, **options):
    """The convolution and its gradients by image and filters, weighed with other numbers."""

    def f(x, w, seed):
        with hml.GradientTape() as tape:
            tape.watch((x, w))
            y = hml.nn.conv2d(x, w, **options)
        return y, *tape.gradient(y, [x, w], output_gradients=hml.cos(seed * y))

    return f, (x, w, hml.asarray(np.array(0.1, x.numpy().dtype)))


# A size on either side of every block: of windows, rows of taps, taps and channels, by window and by tap.
SIZES = [
    ((1, 20, 21, 1), (3, 3, 1, 5), {}),
    ((3, 17, 40, 1), (5, 4, 1, 33), {"padding": "same"}),
    ((1, 9, 300, 1), (2, 7, 1, 3), {"dilation": (1, 3)}),
    ((2, 9, 11, 3), (3, 3, 3, 16), {"padding": "same"}),
    ((1, 12, 13, 30), (3, 3, 30, 7), {"padding": 1}),
    ((1, 7, 9, 100), (3, 3, 100, 40), {"padding": "same", "strides": 2}),
    ((1, 30, 31, 20), (3, 2, 20, 9), {"padding": ((2, 0), (1, 1))}),
    ((2, 12, 13, 20), (3, 2, 20, 9), {"padding": ((2, 0), (1, 3)), "dilation": (1, 2)}),
    ((2, 6, 5, 20), (1, 1, 20, 9), {}),
    ((2, 6, 5, 20), (1, 1, 20, 9), {"strides": 2}),
    ((1, 5, 6, 40), (2, 3, 40, 33), {}),
    ((1, 5, 6, 300), (2, 3, 300, 17), {}),
    ((1, 4, 5, 700), (1, 1, 700, 33), {}),
    ((2, 8, 8, 12), (3, 3, 3, 8), {"groups": 4, "padding": "same"}),
    ((2, 9, 8, 6), (3, 3, 1, 6), {"groups": 6, "padding": "same", "strides": (2, 1)}),
    ((2, 9, 8, 3), (2, 3, 1, 12), {"groups": 3, "dilation": 2}),
    ((2, 9, 8, 2), (2, 3, 1, 40), {"groups": 2}),
    ((1, 3, 3, 2), (1, 1, 2, 3), {"strides": 5, "padding": (3, 4)}),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("x", "w", "options"), SIZES, ids=str)
def test_the_compiled_convolution_is_the_eager_one(x, w, options, dtype):
    f, args = three(normal(*x, dtype=dtype), normal(*w, dtype=dtype), **options)
    concrete = check_traced(f, args, ops=4.0 * np.prod(w[:3]) + 100, scale=100.0)
    assert not concrete.program.python_steps


def test_operands_may_be_views():
    x, w = normal(12, 10, 8, 4), normal(3, 3, 10, 4)

    def f(x, w):
        a = hml.nn.conv2d(
            hml.permute_dims(x, (3, 1, 2, 0))[:, ::2], hml.repeat(w, 2, axis=2)[:, :, :12], padding="same"
        )
        return a, hml.nn.conv2d(x[2:5], w[:, :, 3:7])

    check_traced(f, (x, w), ops=500.0, scale=10.0)


def test_an_operand_may_be_both():
    x = normal(4, 4, 4, 4)
    check_traced(lambda x: hml.nn.conv2d(x, x), (x,), ops=500.0, scale=10.0)
    check_traced(lambda x: hml.nn.conv2d_filter_gradient(x, x, 1), (x,), ops=500.0, scale=10.0)


def test_second_derivatives_are_native():
    def f(x, w):
        return hml.grad(
            lambda x: (hml.grad(lambda w: hml.tanh(hml.nn.conv2d(x, w, 2, "same")).sum())(w) ** 2).sum()
        )(x)

    concrete = check_traced(f, (normal(2, 7, 6, 3), normal(3, 3, 3, 4)), ops=2000.0, scale=10.0)
    assert not concrete.program.python_steps


@pytest.mark.parametrize(
    "shape",
    [((4, 30, 30, 1), (3, 3, 1, 32)), ((4, 16, 16, 24), (3, 3, 24, 32)), ((4, 32, 32, 48), (3, 3, 1, 48))],
)
def test_results_do_not_depend_on_the_number_of_threads(shape):
    """The sum over images is cut into parts by its size alone."""
    x, w = map(lambda s: normal(*s), shape)
    groups = x.shape[3] // w.shape[2]
    found = []
    for threads in (1, 2, 5):
        with config.scope(num_threads=threads):
            f, args = three(x, w, padding="same", groups=groups)
            found.append([a.numpy() for a in Function(f)(*args)])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_every_panel_has_room_for_what_is_gathered():
    for item, by_tap in itertools.product((4, 8), (False, True)):
        for down, across, each in itertools.product(
            (1, 2, 3, 7, 11), (1, 3, 5, 11), (1, 2, 3, 16, 60, 128, 513, 4096)
        ):
            if by_tap and each > 1:
                continue
            windows, taps, channels = convolution.panel((down, across, each, 8), item, by_tap)
            lanes = 64 // item
            rows, row = (taps * channels, windows + lanes) if by_tap else (windows, taps * channels + lanes)
            assert windows >= 8 and rows * row * item <= conv_layout.PANEL_BYTES
            assert 1 <= taps <= down * across and 1 <= channels <= each
            assert channels == each or taps == 1, "channels are cut only where a tap has too many"


def test_nan_in_the_image_stays_where_it_is_seen():
    x = RNG.normal(size=(1, 12, 40, 20)).astype(np.float32)
    x[0, 5, 17, 3] = np.nan
    f = Function(lambda x, w: hml.nn.conv2d(x, w, padding="same"))
    y = f(hml.asarray(x), normal(3, 3, 20, 9)).numpy()
    seen = np.zeros((12, 40), bool)
    seen[4:7, 16:19] = True
    for k in range(9):
        np.testing.assert_array_equal(np.isnan(y[0, :, :, k]), seen)


def test_rounding_is_that_of_a_sum_in_single_precision():
    x, w = RNG.normal(size=(2, 9, 9, 64)), RNG.normal(size=(3, 3, 64, 40))
    got = Function(lambda x, w: hml.nn.conv2d(x, w))(
        hml.asarray(x.astype("f4")), hml.asarray(w.astype("f4"))
    ).numpy()
    want = hml.nn.conv2d(
        hml.asarray(x.astype("f4").astype("f8")), hml.asarray(w.astype("f4").astype("f8"))
    ).numpy()
    assert np.abs(got - want).max() <= 576**0.5 * 2**-23 * np.abs(want).max()


POOLS = [
    (2, {}),
    (3, {"strides": 2, "padding": "same"}),
    ((2, 3), {"strides": 1}),
    (2, {"strides": 3}),
    (5, {"padding": 2}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize(("window", "options"), POOLS, ids=str)
def test_pooling_is_the_eager_one(window, options, dtype):
    x = hml.asarray(RNG.integers(0, 9, (3, 10, 12, 7)).astype(dtype))  # many ties
    concrete = check_traced(lambda x: hml.nn.max_pool2d_with_positions(x, window, **options), (x,))
    assert not concrete.program.python_steps


def step_of_a_net():
    w = {
        "k": hml.Variable(normal(3, 3, 1, 8)),
        "b": hml.Variable(normal(8)),
        "d": hml.Variable(normal(8 * 25, 10)),
    }
    optimizer = hml.optim.Adam(0.001)

    def step(x, labels):
        with hml.GradientTape() as tape:
            a = hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w["k"]) + w["b"]), 2)
            loss = hml.mean(hml.nn.softmax_cross_entropy(hml.reshape(a, (x.shape[0], -1)) @ w["d"], labels))
        variables = list(w.values())
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step


def test_a_training_step_is_one_native_program_of_few_kernels():
    step = step_of_a_net()
    x, labels = normal(6, 12, 12, 1), hml.asarray(np.arange(6) % 10)
    f = hml.function(step)
    first = float(f(x, labels))
    concrete = f.get_concrete_function(x, labels)
    assert not concrete.program.python_steps
    routines = [s.title for s in concrete.program.steps if isinstance(s, RoutineStep)]
    assert [t.split(":")[0] for t in routines] == ["conv2d", "conv2d_filter_gradient"]
    assert "conv2d_transpose" not in str(concrete.optimized), "nobody asked for the gradient by the images"
    kernels = [s.kernel.name for s in concrete.program.steps if isinstance(s, KernelStep)]
    assert sum("logical_and" in k for k in kernels) == 1, "bias, ReLU and pooling are one kernel"
    before = f.cache_info()
    for _ in range(5):
        last = float(f(x, labels))
    after = f.cache_info()
    assert last < first and (after.traces, after.kernels_compiled) == (before.traces, before.kernels_compiled)
    text = str(f.explain(x, labels))
    assert "conv2d: " in text and "conv2d runs in a routine of its own" in text


def test_bytes_and_kernels_of_the_training_step_stay_few():
    step = step_of_a_net()
    x, labels = normal(6, 12, 12, 1), hml.asarray(np.arange(6) % 10)
    stats = hml.function(step).get_concrete_function(x, labels).stats
    assert stats.kernels <= 13
    assert stats.bytes_traced <= stats.bytes_eager / 3


def test_one_trace_serves_several_numbers_of_images():
    w, b = hml.Variable(normal(3, 3, 1, 8)), hml.Variable(normal(8))

    def value_and_gradients(x):
        with hml.GradientTape() as tape:
            y = (hml.nn.max_pool2d(hml.nn.relu(hml.nn.conv2d(x, w) + b), 2) ** 2).mean()
        return y, tape.gradient(y, [w, b])

    f = hml.function(value_and_gradients, input_signature=[hml.TensorSpec((None, 12, 12, 1))])
    for n in (2, 5, 3):
        x = normal(n, 12, 12, 1)
        for got, want in zip(hml.pytree.leaves(f(x)), hml.pytree.leaves(value_and_gradients(x)), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)
    assert f.cache_info().traces == 1
