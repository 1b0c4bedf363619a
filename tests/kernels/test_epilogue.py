"""What rides in the blocks of a matrix product: results equal to the interpreter's, one launch, and why something does not ride."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels import gemm, gemm_cost
from hybridml.kernels.products import GemmStep
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_library(monkeypatch):
    """Products are made of tiles, whatever this machine's BLAS would be better at."""
    monkeypatch.setattr(gemm_cost, "library", lambda p, machine: float("inf"))


def array(*shape, dtype=np.float32):
    return hml.asarray(rng.normal(size=shape).astype(dtype))


def products(f, *args):
    return [s for s in hml.function(f).get_concrete_function(*args).kernels if isinstance(s, GemmStep)]


def compare(f, *args):
    """The kernels of a traced function whose results equal the interpreter's."""
    traced = hml.function(f)
    concrete = traced.get_concrete_function(*args)
    arrays = [a.numpy() for a in args]
    expected, _ = interpret(concrete.graph, arrays, [v.numpy().copy() for v in concrete.variables])
    found = hml.pytree.leaves(traced(*args))
    for got, want in zip(found, expected, strict=True):
        tolerance = 1e-4 if args[0].dtype == hml.float32 else 1e-12
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance * 10)
    return concrete.kernels


SIZES = [(64, 100, 100), (8, 16, 4), (7, 33, 5), (2, 2, 1), (63, 101, 999), (300, 70, 600), (17, 200, 0)]


@pytest.mark.parametrize("m, n, k", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bias_and_activation_are_one_launch(m, n, k, dtype):
    x, w, b = array(m, k, dtype=dtype), array(k, n, dtype=dtype), array(n, dtype=dtype)
    (step,) = compare(lambda x, w, b: hml.nn.relu(x @ w + b), x, w, b)
    assert step.epilogue is not None


@pytest.mark.parametrize(
    "f",
    [
        lambda c, x: c * 2.0 + 1.0,
        lambda c, x: hml.nn.gelu(c),
        lambda c, x: hml.where(x > 0, c, 0.0),
        lambda c, x: c + x,
        lambda c, x: hml.tanh(c + x[:1]) * x[:, :1],
        lambda c, x: hml.asarray(3.0) - c,
        lambda c, x: (c > 0, c + 1.0),
        lambda c, x: (c, hml.exp(c)),
        lambda c, x: c.astype(hml.float64) * 0.5,
        lambda c, x: c * x[::-1],
        lambda c, x: c * x.T.T[:, ::-1],
    ],
)
@pytest.mark.parametrize("m, n, k", [(64, 100, 30), (13, 45, 7), (130, 64, 700)])
def test_elementwise_work_rides(f, m, n, k):
    steps = compare(lambda x, w, y: f(x @ w, y), array(m, k), array(k, n), array(m, n))
    assert [s.epilogue is not None for s in steps] == [True]


@pytest.mark.parametrize("ta, tb", [(False, False), (False, True), (True, False), (True, True)])
def test_every_form_of_product_takes_one(ta, tb):
    a, b, c = array(*((31, 45) if ta else (45, 31))), array(*((50, 31) if tb else (31, 50))), array(45, 50)
    (step,) = compare(lambda a, b, c: hml.nn.silu((a.T if ta else a) @ (b.T if tb else b)) + c, a, b, c)
    assert step.epilogue is not None


@pytest.mark.parametrize("m, n, k", [(64, 100, 10), (9, 33, 5), (300, 130, 40), (1024, 32, 16)])
def test_sums_down_the_columns_ride_with_the_mask(m, n, k):
    """The gradient of a bias with the gradient of what comes before its activation."""

    def f(g, w, h):
        d = hml.where(h > 0, g @ w.T, 0.0)
        return d, hml.sum(d, axis=0)

    (step,) = compare(f, array(m, k), array(n, k), array(m, n))
    assert step.plan.split is gemm.Split.COLUMNS


def test_what_follows_the_sums_rides_too():
    b = array(100)
    (step,) = compare(lambda x, w, b: b - 0.1 * hml.sum(x @ w, axis=0), array(64, 20), array(20, 100), b)
    assert step.epilogue.lowered.temporaries


def test_a_result_that_nobody_else_reads_is_never_stored():
    x, w, b = array(64, 100), array(100, 40), array(40)
    (step,) = products(lambda x, w, b: hml.nn.relu(x @ w + b), x, w, b)
    assert step.epilogue.place is None and not step.scratch
    concrete = hml.function(lambda x, w, b: hml.nn.relu(x @ w + b)).get_concrete_function(x, w, b)
    assert concrete.program.arena_bytes == 0
    assert concrete.stats.bytes_traced == 4 * (64 * 100 + 100 * 40 + 40 + 64 * 40)


def test_a_deep_product_is_summed_up_where_its_output_will_be():
    x, w, b = array(256, 2000), array(2000, 40), array(40)
    (step,) = compare(lambda x, w, b: hml.nn.relu(x @ w + b), x, w, b)
    (out,) = step.writes
    assert step.epilogue.place is out
    concrete = hml.function(lambda x, w, b: hml.nn.relu(x @ w + b)).get_concrete_function(x, w, b)
    assert concrete.program.arena_bytes == 0


@pytest.mark.parametrize("batch", [64, 3000])
def test_a_weight_is_updated_from_the_strips_of_its_gradient(batch):
    w = hml.Variable(array(30, 50))
    before = w.numpy().copy()
    x, g = array(batch, 30), array(batch, 50)

    @hml.function
    def step(x, g):
        w.assign_sub(0.1 * (x.T @ g))

    (product,) = step.get_concrete_function(x, g).kernels
    assert product.epilogue is not None
    program = step.get_concrete_function(x, g).program
    assert not program.region.copies, "the new value goes over the old one"
    step(x, g)
    np.testing.assert_allclose(
        w.numpy(), before - 0.1 * (x.numpy().T.astype(np.float64) @ g.numpy()), rtol=1e-4, atol=1e-3
    )


def test_a_weight_is_updated_after_its_last_reader():
    """The product that hands the gradient on reads the weight; it runs before the one that overwrites it."""
    w1, w2 = hml.Variable(array(20, 30)), hml.Variable(array(30, 40))
    x, y = array(64, 20), array(64, 40)

    def step(x, y):
        with hml.GradientTape() as tape:
            loss = hml.mean((hml.tanh(x @ w1) @ w2 - y) ** 2)
        for w, g in zip((w1, w2), tape.gradient(loss, [w1, w2]), strict=True):
            w.assign_sub(0.1 * g)
        return loss

    traced = hml.function(step)
    concrete = traced.get_concrete_function(x, y)
    assert not concrete.program.region.copies
    riding = [s for s in concrete.kernels if isinstance(s, GemmStep) and s.epilogue is not None]
    assert len(riding) >= 3
    start = [w.numpy().copy() for w in (w1, w2)]
    loss = float(step(x, y))
    expected = [w.numpy().copy() for w in (w1, w2)]
    for w, a in zip((w1, w2), start, strict=True):
        w.assign(a)
    np.testing.assert_allclose(float(traced(x, y)), loss, rtol=1e-5)
    for w, a in zip((w1, w2), expected, strict=True):
        np.testing.assert_allclose(w.numpy(), a, rtol=1e-4, atol=1e-5)


def test_a_variable_that_the_product_reads_is_not_written_by_its_epilogue():
    w = hml.Variable(array(30, 1))

    @hml.function
    def step(g, h):
        d = hml.where(h > 0, g @ w.value().T, 0.0)
        w.assign_sub(0.1 * hml.reshape(hml.sum(d, axis=0), (30, 1)))
        return d

    program = step.get_concrete_function(array(16, 1), array(16, 30)).program
    assert "it would write over a variable that the product reads" in [r.reason for r in program.refusals]
    assert not program.region.copies


def test_a_group_that_reads_two_products_rides_on_the_last():
    x, h, w, u = array(32, 20), array(32, 30), array(20, 50), array(30, 50)
    steps = compare(lambda x, h, w, u: hml.sigmoid(x @ w + h @ u), x, h, w, u)
    assert [s.epilogue is not None for s in steps] == [False, True]


def test_a_stacked_batch_takes_one():
    (step,) = compare(lambda x, w, b: hml.nn.relu(x @ w + b), array(4, 9, 20), array(20, 33), array(33))
    assert step.epilogue is not None


def test_a_batch_of_products_takes_one():
    (step,) = compare(lambda x, y: hml.tanh(x @ y), array(4, 9, 20), array(4, 20, 33))
    assert step.epilogue is not None


def test_dropout_rides_with_the_bits_it_has_eagerly():
    x, w = array(40, 20), array(20, 50)

    def f(x, w):
        return hml.nn.dropout(x @ w, 0.5)

    hml.random.seed(3)
    eager = f(x, w)
    hml.random.seed(3)
    traced = hml.function(f)(x, w)
    np.testing.assert_array_equal(eager.numpy() == 0, traced.numpy() == 0)
    np.testing.assert_allclose(eager.numpy(), traced.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("filters", [5, 32, 300])
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": "same"}, {"strides": 2}, {"dilation": 2}],
    ids=["valid", "same", "strided", "dilated"],
)
def test_a_convolution_takes_one(filters, options):
    x, w, b = array(3, 11, 13, 4), array(3, 3, 4, filters), array(filters)
    (step,) = compare(lambda x, w, b: hml.nn.relu(hml.nn.conv2d(x, w, **options) + b), x, w, b)
    assert step.epilogue is not None


def test_a_convolution_in_groups_takes_one():
    x, w, y = array(2, 9, 9, 32), array(3, 3, 16, 64), array(2, 7, 7, 64)
    (step,) = compare(lambda x, w, y: hml.nn.conv2d(x, w, groups=2) * 0.5 + y, x, w, y)
    assert step.epilogue is not None


def test_a_convolution_with_deep_windows_takes_one():
    """Taps and channels in several panels: the epilogue waits for the last."""
    x, w, b = array(2, 6, 6, 200), array(3, 3, 200, 24), array(24)
    (step,) = compare(lambda x, w, b: hml.tanh(hml.nn.conv2d(x, w) * 0.02 + b), x, w, b)
    assert step.epilogue is not None


def test_the_gradient_by_the_images_takes_one():
    g, w, h = array(2, 9, 9, 16), array(3, 3, 8, 16), array(2, 9, 9, 8)

    def f(g, w, h):
        with hml.GradientTape() as tape:
            tape.watch(h)
            y = hml.nn.conv2d(hml.nn.relu(h), w, padding="same")
        return tape.gradient(y, h, output_gradients=g)

    steps = compare(f, g, w, h)
    assert steps[-1].epilogue is not None


def test_sums_do_not_ride_on_a_convolution():
    x, w = array(2, 9, 9, 4), array(3, 3, 4, 8)
    compare(lambda x, w: hml.sum(hml.nn.conv2d(x, w), axis=(0, 1, 2)), x, w)


REFUSED = {
    "it reads the product in another order than it is made in": (
        lambda x, w: hml.tanh((x @ w).T + 1.0),
        ((30, 20), (20, 30)),
    ),
    "its product is not made of tiles": (lambda x, w: hml.tanh(x @ w), ((30, 20), (20, 1))),
    "it reduces other axes than the product's rows": (
        lambda x, w: hml.sum(hml.exp(x @ w), axis=1),
        ((30, 20), (20, 40)),
    ),
    "a value of every element waits for the sums of all rows": (
        lambda x, w: (lambda c: c - hml.mean(c, axis=0))(x @ w),
        ((30, 20), (20, 40)),
    ),
    "an operand is not walked along rows and columns alone": (
        lambda x, w, y: hml.reshape(hml.reshape(x @ w, (5, 6, 40)) + y, (30, 40)),
        ((30, 20), (20, 40), (6, 40)),
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_does_not_ride_says_why(reason):
    f, shapes = REFUSED[reason]
    args = [array(*s) for s in shapes]
    compare(f, *args)
    refusals = hml.function(f).get_concrete_function(*args).program.refusals
    assert reason in [r.reason for r in refusals]


def test_explain_shows_the_epilogue_and_its_source():
    f = hml.function(lambda x, w: hml.nn.relu(x @ w))
    text = str(f.explain(array(30, 20), array(20, 40)))
    assert "in its tiles less_equal_where" in text
    assert "def less_equal_where_" in text and "(args, x0, i, j)" in text
    f = hml.function(lambda x, w: hml.sin(x @ w))
    text = str(f.explain(array(30, 20), array(20, 40)))
    assert "on its blocks sin" in text
    assert "def sin_" in text and "block_row" in text


def test_nan_and_infinity_pass_through():
    x = np.array([[np.nan, 1.0], [np.inf, -1.0], [0.0, -0.0]], np.float32)
    compare(lambda x, w: hml.tanh(x @ w) * 2.0, hml.asarray(x), array(2, 5))


def test_inputs_are_unchanged():
    x, w, b = array(33, 20), array(20, 40), array(40)
    before = [a.numpy().copy() for a in (x, w, b)]
    compare(lambda x, w, b: hml.nn.relu(x @ w + b) * 2.0, x, w, b)
    for a, kept in zip((x, w, b), before, strict=True):
        np.testing.assert_array_equal(a.numpy(), kept)
