"""Convolution and pooling beyond what the row tests show: SciPy's answers, layouts, special values, errors."""

import numpy as np
import pytest
from scipy import signal

import hybridml as hml
from hybridml.errors import DTypeError, ShapeError
from hybridml.ops.windows import Windows, as_padding
from hybridml.testing import check_grads

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["valid", "same"])
@pytest.mark.parametrize("shape", [(9, 7), (8, 8), (3, 11)])
def test_one_channel_is_scipys_correlation(mode, shape):
    x, w = normal(*shape), normal(3, 3)
    got = hml.nn.conv2d(x[None, :, :, None], w[:, :, None, None], padding=mode)
    np.testing.assert_allclose(
        got[0, :, :, 0].numpy(), signal.correlate2d(x, w, mode=mode), rtol=1e-5, atol=1e-5
    )


def test_the_transposed_convolution_is_scipys_full_convolution():
    x, w = normal(5, 6), normal(3, 4)
    got = hml.nn.conv2d_transpose(x[None, :, :, None], w[:, :, None, None])
    np.testing.assert_allclose(got[0, :, :, 0].numpy(), signal.convolve2d(x, w), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
def test_same_padding_is_that_of_tensorflow(stride, size, window):
    """As many windows as the size over the stride, rounded up; what cannot be halved comes after."""
    (lo, hi), _ = as_padding("SAME", (size, size), (window, window), (stride, stride))
    out = -(-size // stride)
    assert lo + hi == max((out - 1) * stride + window - size, 0) and hi - lo in (0, 1)
    assert Windows((size, size), (window, window), (stride, stride), ((lo, hi), (lo, hi))).count == (out, out)


def test_depthwise_convolution_is_one_convolution_a_channel():
    x, w = normal(2, 6, 5, 3), normal(3, 2, 3, 4)
    got = hml.nn.depthwise_conv2d(x, w, strides=2, padding="same").numpy()
    for c in range(3):
        one = hml.nn.conv2d(x[..., c : c + 1], w[:, :, c : c + 1], strides=2, padding="same")
        np.testing.assert_allclose(got[..., 4 * c : 4 * c + 4], one.numpy(), rtol=1e-5, atol=1e-5)


def test_conv1d_is_a_correlation():
    x, w = normal(10), normal(3)
    for padding, want in (
        ("valid", np.correlate(x, w, "valid")),
        ("same", np.correlate(x, w, "same")),
        ("causal", np.correlate(np.r_[0, 0, x], w, "valid")),
        ((1, 0), np.correlate(np.r_[0, x], w, "valid")),
        (2, np.correlate(x, w, "full")),
    ):
        got = hml.nn.conv1d(x[None, :, None], w[:, None, None], padding=padding)[0, :, 0]
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5, err_msg=str(padding))


def test_a_transposed_convolution_undoes_the_shape_of_its_convolution():
    for n in range(1, 12):
        for k in range(1, 5):
            for s in range(1, 4):
                for padding in ("same", "valid"):
                    up = hml.nn.conv2d_transpose(np.ones((1, n, n, 1)), np.ones((k, k, 1, 1)), s, padding)
                    down = hml.nn.conv2d(up, np.ones((k, k, 1, 1)), s, padding)
                    assert down.shape == (1, n, n, 1), (n, k, s, padding, up.shape)


def test_nan_reaches_the_windows_that_see_it_and_no_others():
    x = np.ones((1, 6, 6, 1), np.float32)
    x[0, 0, 0] = np.nan
    y = hml.nn.conv2d(x, np.ones((3, 3, 1, 2), np.float32), padding="same").numpy()
    seen = np.zeros((6, 6), bool)
    seen[:2, :2] = True
    for channel in range(2):
        np.testing.assert_array_equal(np.isnan(y[0, :, :, channel]), seen)


def test_average_pooling_does_not_count_padding():
    x = np.ones((1, 5, 5, 2), np.float32)
    np.testing.assert_array_equal(hml.nn.avg_pool2d(x, 3, 2, "same").numpy(), np.ones((1, 3, 3, 2)))
    x = normal(2, 5, 7, 3)
    got = hml.nn.avg_pool2d(x, (2, 3), 1, "same").numpy()
    assert got.shape == x.shape
    np.testing.assert_allclose(got[:, 4, 6], x[:, 4, 5:].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(got[:, 0, 0], x[:, :2, :2].mean(axis=(1, 2)), rtol=1e-5)
    check_grads(lambda x: hml.nn.avg_pool2d(x, 3, 2, "same"), (x,), order=2)


def test_the_first_of_several_largest_takes_the_gradient():
    x = hml.asarray([[[[1.0], [3.0]], [[3.0], [3.0]]]])
    g = hml.grad(lambda x: hml.nn.max_pool2d(x, 2).sum())(x)
    assert g[0, :, :, 0].tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_max_pooling_of_whole_numbers_and_of_minus_infinity():
    x = np.array([[-5, -7], [-9, -8]], np.int32).reshape(1, 2, 2, 1)
    assert hml.nn.max_pool2d(x, 3, 2, "same").numpy().reshape(-1).tolist() == [-5]
    low = np.full((1, 3, 3, 1), -np.inf, np.float32)
    values, positions = hml.nn.max_pool2d_with_positions(low, 2, 2, "same")
    assert np.isneginf(values.numpy()).all() and not positions.numpy().any()
    assert positions.dtype == hml.uint8


def test_global_pooling():
    x = normal(2, 4, 5, 3)
    np.testing.assert_allclose(hml.nn.global_avg_pool2d(x).numpy(), x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert hml.nn.global_max_pool2d(x, keepdims=True).shape == (2, 1, 1, 3)


def test_a_gradient_of_a_small_net_of_any_order():
    x, w, b = normal(2, 6, 6, 1), normal(3, 3, 1, 2), normal(2)

    def f(x, w, b):
        return hml.tanh(hml.nn.max_pool2d(hml.tanh(hml.nn.conv2d(x, w, padding="same") + b), 2)).sum()

    check_grads(f, (x, w, b), order=3, rtol=1e-4, atol=1e-4)


X, W = np.ones((2, 4, 4, 3)), np.ones((3, 3, 3, 8))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: hml.nn.conv2d(X[0], W), ShapeError, r"got shape \(4, 4, 3\); add an axis for one example: x\[None\]"),
        (lambda: hml.nn.conv2d(X, W[0]), ShapeError, r"filters of shape \(height, width, channels // groups, filters\)"),
        (lambda: hml.nn.conv2d(X, W[:, :, :2]), ShapeError, r"\(2, 4, 4, 3\) and filters \(3, 3, 2, 8\) in 1 group: expected"),
        (lambda: hml.nn.conv2d(X, W[:, :, :1], groups=3), ShapeError, r"in 3 groups: .* a multiple of 3"),
        (lambda: hml.nn.conv2d(X, np.ones((5, 3, 3, 8))), ShapeError, r'spans \(5, 3\) .* padding="same"'),
        (lambda: hml.nn.conv2d(X, W, padding="full"), ShapeError, r'padding=\'full\': expected "valid", "same"'),
        (lambda: hml.nn.conv2d(X, W, padding=-1), ShapeError, "none negative"),
        (lambda: hml.nn.conv2d(X, W, strides=0), ShapeError, r"strides=0: expected one int, or \(height, width\), of 1"),
        (lambda: hml.nn.conv2d(X, W, groups=0), ShapeError, "groups=0"),
        (lambda: hml.nn.conv2d(X.astype(int), W.astype(int)), DTypeError, "floating point"),
        (lambda: hml.nn.conv2d_transpose(X, np.ones((3, 3, 8, 3)), 2, size=(20, 9)), ShapeError, r"has the shape \(2, 9, 4, 3\)"),
        (lambda: hml.nn.conv2d_filter_gradient(X, np.ones((2, 4, 4, 8)), 3), ShapeError, r"has the shape \(2, 2, 2, 8\)"),
        (lambda: hml.nn.max_pool2d(X, 2, padding=2), ShapeError, "without an element"),
        (lambda: hml.nn.max_pool2d(X, (2, 2, 2)), ShapeError, "window="),
        (lambda: hml.nn.window_take(X, np.zeros((2, 2, 2, 1), int), 2), ShapeError, r"positions of shape \(2, 2, 2, 3\)"),
        (lambda: hml.nn.window_take(X, np.zeros((2, 2, 2, 3)), 2), DTypeError, "positions of integers"),
        (lambda: hml.nn.window_scatter(X, np.zeros(X.shape, int), (4, 4), 2), ShapeError, r"has \(2, 2\) windows"),
        (lambda: hml.nn.avg_pool2d(X.astype(int), 2), DTypeError, "floating point"),
        (lambda: hml.nn.depthwise_conv2d(X, W[:, :, :2]), ShapeError, r"\(height, width, 3, multiplier\)"),
        (lambda: hml.nn.conv1d(X, W), ShapeError, "sequences"),
    ],
)  # fmt: skip
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()
