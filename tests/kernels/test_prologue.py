"""Operands that a matrix product makes where it packs them: results equal to the interpreter's, one launch, and why some are made apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hybridml as hml
from hybridml import config
from hybridml.kernels import blas, gemm_cost
from hybridml.kernels.products import GemmStep
from hybridml.trace.interpret import interpret

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are made of tiles, whatever this machine's BLAS would be better at."""
    monkeypatch.setattr(gemm_cost, "library", lambda p, machine: float("inf"))


@pytest.fixture
def eager_to_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can be made where it is packed is."""
    monkeypatch.setattr(gemm_cost, "saved_by_prologue", lambda *args: 1.0)


def array(*shape: int, dtype: Any = np.float32) -> Any:
    return hml.asarray(rng.normal(size=shape).astype(dtype))


def compare(f: Any, *args: Any) -> list[Any]:
    """The kernels of a traced function whose results equal the interpreter's."""
    traced = hml.function(f)
    concrete = traced.get_concrete_function(*args)
    arrays = [a.numpy() for a in args]
    before = [a.copy() for a in arrays]
    expected, _ = interpret(concrete.graph, arrays, [v.numpy().copy() for v in concrete.variables])
    found = hml.pytree.leaves(traced(*args))
    for got, want in zip(found, expected, strict=True):
        tolerance = 1e-12 if want.dtype == np.float64 else 1e-4
        np.testing.assert_allclose(got.numpy(), want, rtol=tolerance, atol=tolerance * 10)
    for a, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, kept)
    return concrete.kernels


def operands(step: GemmStep) -> list[int]:
    return [p.operand for p in step.prologues]


SIZES = [
    (64, 100, 100),
    (8, 16, 4),
    (7, 33, 5),
    (2, 2, 2),
    (63, 101, 999),
    (300, 70, 600),
    (17, 200, 1030),
    (600, 40, 300),
]
FORMS = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize("ta, tb", FORMS)
@pytest.mark.parametrize("m, n, k", SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2])
def test_both_operands_in_every_form(
    m: int, n: int, k: int, ta: bool, tb: bool, dtype: Any, threads: int
) -> None:
    a, b = array(*((k, m) if ta else (m, k)), dtype=dtype), array(*((n, k) if tb else (k, n)), dtype=dtype)

    def f(a: Any, b: Any) -> Any:
        x, y = hml.nn.relu(a), b * 0.5 + 1.0
        return (x.T if ta else x) @ (y.T if tb else y)

    with config.scope(num_threads=threads):
        (step,) = compare(f, a, b)
    assert operands(step) == [0, 1]


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize("m, n, k", [(64, 100, 30), (130, 64, 700), (9, 40, 300)])
@pytest.mark.parametrize(
    "f",
    [
        lambda x, w, y: (x * y) @ w,
        lambda x, w, y: hml.where(y > 0, x, 0.0) @ w,
        lambda x, w, y: (x + y[:1] - y[:, :1]) @ w,
        lambda x, w, y: hml.asarray(2.0) * (hml.tanh(x) @ w),
        lambda x, w, y: (x[::-1] * 2.0) @ w,
        lambda x, w, y: hml.tanh(hml.nn.gelu(x) @ w + 1.0),
        lambda x, w, y: (x > y).astype(hml.float32) @ w,
        lambda x, w, y: y.astype(hml.float64).astype(hml.float32) @ w,
    ],
)
def test_elementwise_work_is_done_where_it_is_packed(f: Any, m: int, n: int, k: int) -> None:
    (step,) = compare(f, array(m, k), array(k, n), array(m, k))
    assert operands(step) == [0]


IN_PANELS = {
    "a mask": lambda w, y: hml.where(y > 0, w, 0.0),
    "bytes": lambda w, y: (hml.abs(y) * 50.0).astype(hml.uint8).astype(hml.float32) / 255.0 + w * 0.0,
    "integers": lambda w, y: ((y * 50.0).astype(hml.int32) + 3).astype(hml.float32) * w,
    "a row and a column beside it": lambda w, y: w * y[:1] + y[:, :1],
    "rows from the last on": lambda w, y: w[::-1] * 2.0,
    "long arithmetic": lambda w, y: hml.tanh(hml.exp(w)) * hml.nn.gelu(y),
}
IN_BLOCKS = {
    "a sine": lambda w, y: hml.sin(w),
    "columns from the last on": lambda w, y: w[:, ::-1] * 2.0,
    "half precision": lambda w, y: w.astype(hml.float16).astype(hml.float32),
}


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize(
    ("what", "in_panels"), [(w, True) for w in IN_PANELS] + [(w, False) for w in IN_BLOCKS]
)
@pytest.mark.parametrize("m, n, k", [(64, 100, 30), (30, 64, 700), (9, 37, 300)])
def test_operand_b_is_made_in_panels(what: str, in_panels: bool, m: int, n: int, k: int) -> None:
    f = (IN_PANELS if in_panels else IN_BLOCKS)[what]
    (step,) = compare(lambda x, w, y: x @ f(w, y), array(m, k), array(k, n), array(k, n))
    assert [(p.operand, p.in_panels) for p in step.prologues] == [(1, in_panels)]
    (step,) = compare(lambda x, w, y: x @ f(w, y).T, array(m, k), array(n, k), array(n, k))
    assert [(p.operand, p.in_panels) for p in step.prologues] == [(1, False)]  # panels are its transpose


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize("ta, tb", FORMS)
@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_batches(ta: bool, tb: bool, batch: tuple[int, ...], threads: int) -> None:
    a, b = array(*batch, *((31, 45) if ta else (45, 31))), array(*batch, *((50, 31) if tb else (31, 50)))

    def f(a: Any, b: Any) -> Any:
        x, y = a * 0.25, hml.exp(b * 0.1)
        return (x.mT if ta else x) @ (y.mT if tb else y)

    with config.scope(num_threads=threads):
        (step,) = compare(f, a, b)
    assert operands(step) == [0, 1]


@pytest.mark.usefixtures("eager_to_pack")
def test_a_stacked_batch_and_an_epilogue_over_it() -> None:
    (step,) = compare(
        lambda x, w, b: hml.nn.relu(hml.nn.relu(x) @ (w * 2.0) + b), array(4, 9, 20), array(20, 33), array(33)
    )
    assert operands(step) == [0, 1] and step.epilogue is not None


@pytest.mark.usefixtures("eager_to_pack")
def test_dropout_before_a_product_has_the_bits_it_has_eagerly() -> None:
    x, w = array(70, 300), array(300, 50)

    def f(x: Any, w: Any) -> Any:
        return hml.nn.dropout(x, 0.5) @ w

    hml.random.seed(3)
    eager = f(x, w)
    hml.random.seed(3)
    traced = hml.function(f)
    np.testing.assert_allclose(traced(x, w).numpy(), eager.numpy(), rtol=1e-4, atol=1e-4)
    found = [s for s in traced.get_concrete_function(x, w).kernels if isinstance(s, GemmStep)]
    assert [operands(s) for s in found] == [[0]]


@pytest.mark.usefixtures("eager_to_pack")
def test_bytes_of_an_image_are_cast_where_they_are_packed() -> None:
    """The image is read as bytes, and nothing else of its size is read or written."""
    x = hml.asarray(rng.integers(0, 256, (64, 784)).astype(np.uint8))
    w = array(784, 100)

    def f(x: Any, w: Any) -> Any:
        return (x.astype(hml.float32) / 255.0) @ w

    (step,) = compare(f, x, w)
    assert operands(step) == [0]
    concrete = hml.function(f).get_concrete_function(x, w)
    assert concrete.stats.bytes_traced == 64 * 784 + 4 * (784 * 100 + 64 * 100)
    assert concrete.program.arena_bytes == 0


@pytest.mark.usefixtures("eager_to_pack")
def test_the_gradient_of_a_weight_masks_its_operand() -> None:
    """The mask's result is read by the weight's gradient alone: it is never stored, and the update rides behind."""
    w = hml.Variable(array(30, 50))
    start = w.numpy().copy()
    x, g, h = array(64, 30), array(64, 50), array(64, 50)

    @hml.function
    def step(x: Any, g: Any, h: Any) -> None:
        w.assign_sub(0.1 * (x.T @ hml.where(h > 0, g, 0.0)))

    (product,) = step.get_concrete_function(x, g, h).kernels
    assert operands(product) == [1] and product.epilogue is not None
    assert not step.get_concrete_function(x, g, h).program.region.copies
    step(x, g, h)
    masked = np.where(h.numpy() > 0, g.numpy(), 0)
    np.testing.assert_allclose(w.numpy(), start - 0.1 * (x.numpy().T @ masked), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("eager_to_pack")
def test_a_variable_that_a_prologue_reads_is_not_written_by_the_epilogue() -> None:
    """The product makes its operand from the variable that its own result updates."""
    w = hml.Variable(array(40, 40))
    start = w.numpy().copy()
    x = array(40, 40)

    @hml.function
    def step(x: Any) -> None:
        w.assign(hml.tanh(hml.nn.relu(w.value()) @ x))

    step(x)
    np.testing.assert_allclose(w.numpy(), np.tanh(np.maximum(start, 0) @ x.numpy()), rtol=1e-4, atol=1e-5)
    refusals = step.get_concrete_function(x).program.refusals
    assert "the product's epilogue would write over a variable that it reads" in [r.reason for r in refusals]


@pytest.mark.usefixtures("eager_to_pack")
def test_open_sizes() -> None:
    f = hml.function(lambda x, w: hml.nn.relu(x) @ (w - 1.0))
    w = array(300, 40)
    for rows in (64, 33, 130, 7, 500):
        x = array(rows, 300)
        want = np.maximum(x.numpy(), 0) @ (w.numpy() - 1.0)
        np.testing.assert_allclose(f(x, w).numpy(), want, rtol=1e-3, atol=1e-2)
        steps = [s for s in f.get_concrete_function(x, w).kernels if isinstance(s, GemmStep)]
        assert [operands(s) for s in steps] == [[0, 1]]
        assert [p.in_panels for s in steps for p in s.prologues] == [False, True]


@pytest.mark.usefixtures("eager_to_pack")
def test_nan_and_infinity_pass_through() -> None:
    x = np.array([[np.nan, 1.0, 2.0], [np.inf, -1.0, 0.0], [0.0, -0.0, 3.0]], np.float32)
    compare(lambda x, w: (x * 2.0) @ w, hml.asarray(x), array(3, 5))


REFUSED = {
    "others read it too, or what is made with it": (lambda x, w: (lambda y: (y, y @ w))(hml.exp(x)), ((30, 20), (20, 40))),
    "it walks along whole rows": (lambda x, w: hml.nn.softmax(x) @ w, ((30, 20), (20, 40))),
    "its product does not pack it in blocks": (lambda x, w: hml.exp(x)[:, :20] @ w, ((30, 30), (20, 40))),
    "an operand is not walked along rows and columns alone": (
        lambda x, w, y: hml.reshape(hml.reshape(x, (5, 6, 20)) * y, (30, 20)) @ w,
        ((30, 20), (20, 40), (6, 20)),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_made_apart_says_why(reason: str) -> None:
    f, shapes = REFUSED[reason]
    args = [array(*s) for s in shapes]
    steps = compare(f, *args)
    assert not any(s.prologues for s in steps if isinstance(s, GemmStep))
    refusals = hml.function(f).get_concrete_function(*args).program.refusals
    assert reason in [r.reason for r in refusals]


@pytest.mark.usefixtures("eager_to_pack")
def test_views_in_another_order_are_made_apart() -> None:
    """Batches exchanged, and one operand for all of a batch: blocks would lie elsewhere, or be made again and again."""
    for f in (
        lambda x, y: hml.permute_dims(hml.exp(x * 0.1), (1, 0, 2, 3)) @ y,
        lambda x, y: hml.broadcast_to(hml.exp(x[:1, :1] * 0.1), (2, 3, 9, 20)).mT @ y[..., :9, :],
    ):
        steps = compare(f, array(3, 2, 9, 20), array(2, 3, 20, 33))
        assert not any(s.prologues for s in steps if isinstance(s, GemmStep))


def test_explain_shows_the_prologue_and_its_source() -> None:
    x, w = array(4096, 64), array(64, 16)
    f = hml.function(lambda x, w: hml.nn.relu(x) @ w)
    text = str(f.explain(x, w))
    assert "its operand A made in blocks by less_equal_where" in text
    assert "float32_to(at, 0)" in text


def test_where_a_kernel_of_its_own_is_faster_it_stays() -> None:
    """Packed again for each 256 rows, and the more expensive to make the worse."""
    x, w = array(4096, 64), array(64, 256)
    steps = compare(lambda x, w: x @ hml.nn.gelu(hml.exp(w)), x, w)
    assert not any(s.prologues for s in steps if isinstance(s, GemmStep))
    refusals = (
        hml.function(lambda x, w: x @ hml.nn.gelu(hml.exp(w))).get_concrete_function(x, w).program.refusals
    )
    assert "making it where it is packed takes longer" in [r.reason for r in refusals]


def test_what_is_cheap_is_made_where_it_is_packed_by_itself() -> None:
    """By what it costs, not by a test's wish: a mask once, gelu not, and nothing at all where the BLAS is far ahead."""
    x, y, w = array(2048, 128), array(2048, 128), array(128, 16)
    (step,) = compare(lambda x, y, w: hml.where(y > 0, x, 0.0) @ w, x, y, w)
    assert operands(step) == [0]
    _, step = compare(lambda x, y, w: hml.nn.gelu(x * y) @ w, x, y, w)
    assert operands(step) == []


@pytest.mark.skipif(blas.find() is None, reason="there is no BLAS in this process")
def test_nothing_is_packed_where_the_library_is_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_cost, "library", lambda p, machine: 0.0)
    x, w = array(256, 512), array(512, 512)
    _, step = compare(lambda x, w: hml.nn.relu(x) @ w, x, w)
    assert operands(step) == [] and step.plan.kernel.name == "library"


@pytest.mark.usefixtures("eager_to_pack")
@pytest.mark.parametrize("size", [2, 40])
def test_an_operand_that_a_product_reads_twice_is_made_apart(size: int) -> None:
    x = array(size, size)
    for f in (
        lambda x: hml.abs(x) @ hml.abs(x).T,
        lambda x: hml.exp(hml.tanh(x) @ hml.tanh(x).T) * 0.5,
        lambda x: (y := x * x) @ y,
        lambda x: hml.abs(x)[:1] @ hml.abs(x),
    ):
        assert not any(operands(s) for s in compare(f, x) if isinstance(s, GemmStep))
