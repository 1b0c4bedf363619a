"""Sums across rows in the kernel that walks along them."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import crossing, emit_cuda
from hybridml.kernels.fuser import Fuser, fused
from hybridml.kernels.launch import Shape
from hybridml.kernels.lower import lower
from hybridml.kernels.views import places
from hybridml.testing import check_traced
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return hml.asarray(rng.normal(size=shape).astype(dtype))


def gradients(x, scale, bias, g):
    with hml.GradientTape() as tape:
        for a in (x, scale, bias):
            tape.watch(a)
        y = hml.nn.layer_norm(x, scale, bias)
    return y, *tape.gradient(y, [x, scale, bias], output_gradients=g)


def arguments(*shape, dtype=np.float32):
    return [
        array(*shape, dtype=dtype), array(shape[-1], dtype=dtype), array(shape[-1], dtype=dtype), array(*shape, dtype=dtype)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "space, rows, across, expected",
    [
        ((8, 64, 768), {2}, {1}, True),
        ((8, 4, 16, 4, 8), {3, 4}, {1, 2}, True),
        ((64, 768), {1}, {0}, False),  # all rows in one block: too much for one thread
        ((64, 32), {1}, {0}, True),
        ((8, 64, 768), {2}, {0}, False),
        ((8, 64, 768), {0}, {1}, False),
        ((8, 64, 768), {1}, {2}, False),
        ((8, 64, 768), {2}, set(), False),
    ],
)
def test_which_spaces_fit(space, rows, across, expected):
    assert crossing.fits(space, frozenset(rows), frozenset(across)) is expected


# shape, launches: one along the rows, and one that adds up the blocks of both sums where there are any
SHAPES = {
    (4096, 96): 2, (4095, 97): 2, (512, 33): 2, (2, 128, 256): 2, (8, 16, 16, 48): 2,
    (64, 100): 1, (5, 8): 1, (1, 8): 1, (300, 1): 1, (2, 3, 7): 1,
    (4099, 64): 3,  # a prime number of rows cannot be cut
    (0, 8): 1,
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_normalisations_gradients_ride_along(shape):
    args = arguments(*shape)
    concrete = check_traced(gradients, args, ops=max(100, args[0].size // shape[-1]), label=str(shape))
    assert concrete.stats.kernels == SHAPES[shape], [s.kernel.name for s in concrete.kernels]
    assert concrete.stats.python_steps == 0


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(1024, 768), (1023, 767), (1025, 769)], ids=str)
def test_values_are_those_of_double_precision(shape, dtype, tolerance):
    args = arguments(*shape, dtype=dtype)
    want = gradients(*[a.astype(hml.float64) for a in args])
    for got, exact in zip(hml.function(gradients)(*args), want, strict=True):
        error = np.abs(got.numpy() - exact.numpy()).max() / np.abs(exact.numpy()).max()
        assert error < tolerance


def test_each_array_is_read_and_written_once():
    n, d = 1024, 256
    stats = hml.function(gradients).get_concrete_function(*arguments(n, d)).stats
    blocks = 4 * crossing.few_blocks(n) * d * 2
    assert stats.bytes_traced == 4 * (4 * n * d + 2 * d) + 2 * blocks + 4 * 2 * d


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e-42])
def test_special_values(value):
    x = rng.normal(size=(256, 130)).astype(np.float32)
    x[200, 7] = value
    args = [hml.asarray(x), *arguments(256, 130)[1:]]
    check_traced(gradients, args, ops=1000)


def test_operands_of_other_layouts():
    x, s, b, g = arguments(256, 130)
    wide = array(256, 260)

    def f(x, s, b, g, wide):
        return (
            gradients(x[::-1], s, b, g),
            gradients(hml.permute_dims(x, (1, 0)).T, s, b, g),
            gradients(wide[:, ::2], s, b, g),
        )

    check_traced(f, [x, s, b, g, wide], ops=1000)


def test_one_result_for_every_number_of_threads():
    args = arguments(1000, 130)
    results = []
    for threads in (1, 2, 8, 2):
        with config.scope(num_threads=threads):
            results.append([t.numpy() for t in hml.function(gradients)(*args)])
    for more in results[1:]:
        for a, b in zip(results[0], more, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_input_is_not_overwritten_by_a_row_that_is_read_again():
    def f(x, s, b, g):
        x = x * 2.0 + 1.0
        h = hml.exp(hml.asarray(0.1) * x @ hml.eye(32))  # in the arena, so that its place may be taken over
        return gradients(h, s, b, g)

    check_traced(f, arguments(1024, 32), ops=2000)


def test_sums_that_somebody_waits_for_stay_apart():
    def f(x):
        y = hml.nn.softmax(x)
        return y * y.sum(axis=0)

    concrete = check_traced(f, [array(64, 32)], ops=200)
    assert concrete.stats.kernels == 2
    assert any(
        "before all rows" in r.reason or "spaces differ" in r.reason for r in concrete.program.refusals
    )


def test_cutting_keeps_the_meaning():
    graph = hml.function(gradients).get_concrete_function(*arguments(512, 64)).optimized
    fuser = Fuser(graph, places(graph), across=True)
    fuser.fuse()
    cut = crossing.cut(fuser)
    arrays = [t.numpy() for t in arguments(512, 64)]
    assert cut is not None and len(cut.nodes) == len(graph.nodes) + 6
    for a, b in zip(interpret(graph, arrays, [])[0], interpret(cut, arrays, [])[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_the_cuda_printer_refuses_with_a_reason():
    graph = hml.function(gradients).get_concrete_function(*arguments(64, 32)).optimized
    fuser = fused(graph)
    (group,) = fuser.groups
    low = lower(fuser.graph, group, fuser.places, [v for v in graph.outputs if v in fuser.places])
    with pytest.raises(ValueError, match="adds up across its rows"):
        emit_cuda.emit(low.spec, Shape(32, 8))


# of a sum over the leading axes, and how many blocks it is cut into; 0 where it stays whole
LONG_SUMS = {
    (1024, 256): 32, (4095, 33): 35, (2, 700, 64): 35, (20_000, 16): 32, (1008, 100): 36,
    (256, 1024): 16, (128, 512): 8,
    (64, 4096): 0,  # few rows
    (256, 2050): 0,  # few rows, and long ones
    (1024, 32): 0,  # few elements
    (1009, 100): 0,  # a prime number of rows
}  # fmt: skip


@pytest.mark.parametrize("shape", LONG_SUMS)
def test_long_sums_down_the_columns_are_cut(shape):
    x = array(*shape)
    f = hml.function(lambda x: hml.sum(x, axis=tuple(range(x.ndim - 1))))
    concrete = f.get_concrete_function(x)
    cut = crossing.cut_long(concrete.graph)
    sums = [n for n in cut.nodes if n.op.name == "sum"]
    blocks = LONG_SUMS[shape]
    assert [n.out.shape for n in sums] == ([(blocks, shape[-1])] if blocks else []) + [shape[-1:]]
    for got in (f(x).numpy(), interpret(cut, [x.numpy()], [])[0][0]):
        expected = x.numpy().astype(np.float64).reshape(-1, shape[-1])
        np.testing.assert_allclose(got, expected.sum(axis=0), atol=2e-6 * np.abs(expected).sum(axis=0).max())


@pytest.mark.parametrize("rows, blocks", [(256, 1), (512, 2)])
def test_sums_that_a_product_could_make_are_cut_where_they_are_very_long(rows, blocks):
    def f(x, w, y):
        z = hml.where(y > 0, x @ w, 0.0)
        return z, hml.sum(z, axis=0)

    concrete = hml.function(f).get_concrete_function(array(rows, 20), array(20, 300), array(rows, 300))
    cut = crossing.cut_long(concrete.graph)
    assert len([n for n in cut.nodes if n.op.name == "sum"]) == blocks


@pytest.mark.parametrize(
    "f, shape, pieces",
    [
        (lambda x: hml.max(x, axis=0), (60, 1000), 1),  # short pieces of each row: one thread reads them all
        (lambda x: hml.max(x, axis=0), (60, 4096), 4),
        (lambda x: hml.max(hml.exp(x), axis=0), (60, 1000), 4),  # arithmetic that is worth two threads
    ],
)
def test_columns_are_shared_out_in_long_pieces_or_where_there_is_much_to_do(f, shape, pieces):
    (step,) = hml.function(f).get_concrete_function(array(*shape)).kernels
    assert step.chunks(2)[0] == pieces


def test_a_long_sum_shares_the_kernel_of_what_makes_it():
    def f(x, y):
        z = hml.where(x > 0, y, 0.0)
        return z, hml.sum(z, axis=0)

    concrete = check_traced(f, [array(2048, 64), array(2048, 64)], ops=1000)
    assert len(concrete.kernels) == 2
