"""From a group to a kernel: operands of any layout, awkward shapes, special values, and what may share memory."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels.spec import Mode
from hybridml.testing import check_traced

rng = np.random.default_rng(0)


def array(*shape, dtype=np.float64):
    return hml.asarray(rng.uniform(0.5, 2, shape).astype(dtype))


def kernels_of(f, *args, **options):
    return [k.lowered for k in check_traced(f, args, **options).kernels if hasattr(k, "lowered")]


OPERANDS = {
    "a transpose": lambda x: x.T * 2,
    "a transpose and itself": lambda x: x + x.T,
    "rows and columns": lambda x: x[:1] + x[:, :1],
    "every second": lambda x: x[::2, ::3] * 2,
    "backwards": lambda x: x[::-1, ::-1] + x,
    "one row": lambda x: x[3] + x,
    "one element": lambda x: x[2, 1] + x,
    "a block of a block": lambda x: x[1:5, 1:5][1:3, 1:3] * x[:2, :2],
    "a stretched row": lambda x: hml.broadcast_to(x[1], (3, *x.shape)) * x,
    "a sum over a transpose": lambda x: x.T.sum(axis=1),
    "a softmax of columns": lambda x: hml.nn.softmax(x, axis=0),
    "a softmax of a transpose": lambda x: hml.nn.softmax(x.T, axis=1),
    "a softmax of a slice": lambda x: hml.nn.softmax(x[:, 1::2]),
    "columns minus their mean": lambda x: x - x.mean(axis=0, keepdims=True),
    "both means": lambda x: x - x.mean(axis=0) - x.mean(axis=1, keepdims=True),
    "a middle axis": lambda x: x.reshape((2, 3, 6)).sum(axis=1),
    "outer axes": lambda x: x.reshape((2, 3, 6)).sum(axis=(0, 2)),
    "first and last kept": lambda x: x.reshape((2, 3, 3, 2)).max(axis=(1, 2)),
    "normalised over a middle axis": lambda x: (lambda y: y / y.sum(axis=1, keepdims=True))(x.reshape((2, 3, 6))),
    "normalised over two outer axes": lambda x: (lambda y: hml.exp(y) / hml.exp(y).sum(axis=(0, 1)))(x.reshape((2, 3, 6))),
    "a view of a result of the kernel": lambda x: (lambda y: (y[::2], y))(hml.exp(x)),
}  # fmt: skip


@pytest.mark.parametrize("case", OPERANDS)
def test_operands_of_any_layout(case):
    f, x = OPERANDS[case], array(6, 6)
    kernels_of(f, x, label=case)
    kernels_of(lambda x: f(hml.tanh(x)), x, label=f"{case}, of an intermediate")


def programs(*shape):
    last = len(shape) - 1
    yield "elementwise", lambda x: hml.tanh(x * 2 + 1)
    yield "whole sum", lambda x: (x.sum(), x.max(), x.mean())
    for axis in range(len(shape)):
        yield f"sum over {axis}", lambda x, axis=axis: x.sum(axis=axis)
        yield f"softmax over {axis}", lambda x, axis=axis: hml.nn.softmax(x, axis=axis)
        yield f"centred over {axis}", lambda x, axis=axis: x - x.mean(axis=axis, keepdims=True)
    if len(shape) > 1:
        yield "layer_norm", hml.nn.layer_norm
        yield "transposed", lambda x: hml.transpose(x) + 1
        yield "both ways", lambda x: (x.sum(axis=0), x.sum(axis=last))


SHAPES = [
    (),
    (1,),
    (1, 1),
    (7,),
    (1, 5),
    (5, 1),
    (3, 1, 5),
    (1, 4, 1),
    (0,),
    (0, 3),
    (3, 0),
    (13, 17),
    (2, 1, 3, 1),
    (1031,),
    (3, 2053),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_awkward_shapes(shape):
    x = array(*shape)
    for name, f in programs(*shape):
        try:
            f(x)
        except ValueError:  # the largest of nothing
            assert 0 in shape
            continue
        check_traced(f, (x,), ops=20, label=f"{name} of {shape}")


@pytest.mark.parametrize(
    "shapes",
    [((3, 5), (5,)), ((3, 1), (1, 5)), ((), (3, 5)), ((4, 1, 5), (3, 1)), ((1,), (3, 1, 5))],
    ids=str,
)
def test_broadcasting_and_its_gradient(shapes):
    x, y = [array(*s) for s in shapes]
    check_traced(hml.value_and_grad(lambda x, y: (hml.exp(x * y) - y / x).sum(), (0, 1)), (x, y), ops=100)


NAN, INF = np.nan, np.inf
SPECIAL = {
    "NaN first": [NAN, 1, 2, 3],
    "NaN last": [1, 2, 3, NAN],
    "NaN in the middle of many": [*range(700), NAN, *range(700)],
    "infinities": [INF, 1, -INF, 2],
    "an infinity": [1, 2, INF, 3],
    "nothing but -inf": [-INF] * 5,
    "zeros of both signs": [0.0, -0.0, 0.0],
    "the largest": [3e38, 3e38, -3e38],
    "subnormal": [1e-42, 2e-42, -1e-42],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SPECIAL)
def test_special_values_in_reductions(case, dtype):
    rows = np.array([SPECIAL[case], SPECIAL[case][::-1], np.ones(len(SPECIAL[case]))], dtype)
    for f in (lambda x, a: x.max(axis=a), lambda x, a: x.min(axis=a), lambda x, a: x.sum(axis=a), lambda x, a: x.prod(axis=a),
              lambda x, a: hml.logsumexp(x, axis=a), lambda x, a: hml.argmax(x, axis=a), lambda x, a: hml.argmin(x, axis=a),
              lambda x, a: hml.nn.softmax(x, axis=a)):  # fmt: skip
        check_traced(lambda x, f=f: f(x, 1), (hml.asarray(rows),), ops=10, label=case)
        check_traced(
            lambda x, f=f: f(x, 0),
            (hml.asarray(np.ascontiguousarray(rows.T)),),
            ops=10,
            label=f"{case}, columns",
        )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool"])
def test_integers_wrap_as_numpys_do(dtype):
    info = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    x = hml.asarray(rng.integers(*info, size=(4, 5), endpoint=True, dtype=dtype))
    for f in (
        lambda x: x + x,
        lambda x: x * x + 1,
        lambda x: x.sum(axis=0),
        lambda x: x.sum(axis=1, dtype=x.dtype),
        lambda x: x.prod(axis=1),
        lambda x: (x.max(), x.min(axis=1)),
        lambda x: -x,
        lambda x: abs(x - x[0]),
        lambda x: x - x[0] < 0,
        lambda x: x**3,
        lambda x: hml.where(x > x[:, :1], x, x[0]),
    ):
        try:
            f(x)
        except TypeError:
            continue
        check_traced(f, (x,), label=dtype)


def test_modes():
    x = array(6, 5)
    assert [k.spec.mode for k in kernels_of(lambda x: hml.exp(x), x)] == [Mode.MAP]
    assert [k.spec.mode for k in kernels_of(lambda x: x.sum(axis=1), x)] == [Mode.ROW]
    assert [k.spec.mode for k in kernels_of(lambda x: x.sum(axis=0), x)] == [Mode.COLUMN]


def test_contiguous_axes_are_one_loop():
    (kernel,) = kernels_of(lambda x, y: x * y, array(2, 3, 4), array(2, 3, 4))
    assert len(kernel.spec.parallel) == 1 and kernel.extent == 24


# What may share memory. Each of these gave wrong results when memory was shared too eagerly.


def test_an_operand_read_again_by_a_later_pass_is_not_overwritten_before():
    v = hml.Variable(rng.uniform(0.5, 1, (3, 5)), dtype=hml.float64)
    for axis in (0, 1):

        def f(s, axis=axis):
            z = v.value() + s
            w = z / z.sum(axis=axis, keepdims=True)
            v.assign(v * 2)
            return w

        kernels_of(f, hml.asarray(1.0, dtype=hml.float64), variables=[v])


def test_an_intermediate_read_by_every_row_is_not_overwritten_by_the_first():
    v = hml.Variable(rng.uniform(0.5, 1, 5), dtype=hml.float64)

    def f(x):
        old = v.value()
        largest = x.max(axis=0)
        v.assign(largest * old)
        return (x - largest) * old

    kernels_of(f, array(3, 5), variables=[v])


def test_an_intermediate_taken_over_by_one_of_two_results():
    def f(a, b, c):
        x = a @ b
        z = x + 1
        return (x * 2) @ c, (z / z.sum(axis=-1, keepdims=True)) @ c

    check_traced(f, (array(3, 4), array(4, 5), array(5, 2)), ops=20)


def test_column_kernels_read_back_only_what_they_stored():
    def f(x):
        largest = hml.logsumexp(x, axis=0)
        return (largest * largest * 0.5 + largest).sum()

    check_traced(hml.value_and_grad(f), (array(3, 5),), ops=50)


def test_a_row_that_holds_an_expensive_value_is_held_until_its_last_reader_is_computed_anew():
    def f(x):
        y = hml.tanh(x)
        slope = 1 - y * y  # known in the first pass, wanted in the last
        z = y - hml.mean(y, axis=0, keepdims=True)
        return z, (hml.tanh(z) - hml.mean(hml.tanh(z), axis=0, keepdims=True)) * slope

    check_traced(f, [array(4, 3)])
    check_traced(lambda x: [r.T for r in f(x.T)], [array(4, 3)])


def test_an_elementwise_result_may_take_its_operands_place():
    (kernel,) = kernels_of(lambda x, y: hml.exp(x) * y, array(4, 5), array(4, 5))
    assert {x for x, _ in kernel.in_place} == {
        v for v, _ in kernel.operands if all(v is not o for _, o in kernel.in_place)
    }


def test_a_transposed_operand_may_not_be_overwritten():
    for f in (lambda x: x.T + 1, lambda x: x + x.T, lambda x: x[::-1] * 2):
        (kernel,) = kernels_of(f, array(4, 4))
        assert kernel.in_place == []
