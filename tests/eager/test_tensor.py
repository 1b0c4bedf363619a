"""Tensors: creation, conversion, operators, indexing."""

import copy
import operator
import pickle

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import DTypeError, IndexOutOfRangeError, ShapeError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, "int64"), (1.0, "float32"), (True, "bool"), ([1, 2], "int64"), ([1, 2.5], "float32"), ([], "float32"),
        (np.float64(1), "float64"), (np.zeros(2, np.int8), "int8"), ([np.float64(1), np.float64(2)], "float64"),
        ([[True], [False]], "bool"),
    ],
)  # fmt: skip
def test_asarray_takes_the_dtype_of_what_it_gets(value, dtype):
    t = hml.asarray(value)
    assert t.dtype.name == dtype
    np.testing.assert_array_equal(t.numpy(), np.asarray(value))


def test_asarray_copies_and_numpy_is_read_only():
    a = np.ones(3)
    t = hml.asarray(a)
    a[0] = 5
    assert t.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        t.numpy()[0] = 2


def test_asarray_of_tensors_and_variables():
    t, v = hml.asarray([1.0, 2.0]), hml.Variable([3.0])
    assert hml.asarray(t) is t
    assert hml.asarray(v).tolist() == [3.0]
    assert hml.asarray([t, t]).tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert hml.asarray(t, dtype=hml.float64).dtype == np.float64


def test_asarray_refuses_what_is_not_numbers():
    with pytest.raises(DTypeError, match="str"):
        hml.asarray("abc")
    with pytest.raises(DTypeError, match="complex"):
        hml.asarray([1j])
    with pytest.raises(ValueError, match="ragged"):
        hml.asarray([[1], [2, 3]])
    with pytest.raises(DTypeError, match=r"astype\(hml.int32\)"):
        hml.asarray([1.5], dtype=hml.int32)


def test_creation():
    assert hml.zeros((2, 3)).dtype == hml.ones(2).dtype == np.float32
    assert hml.full((2,), 7).dtype == np.int64
    assert hml.full((2,), 7.0).dtype == np.float32
    assert hml.arange(2, 10, 3).tolist() == [2, 5, 8]
    assert hml.arange(3.0).dtype == np.float32
    assert hml.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
    assert hml.eye(2, 3, k=1).tolist() == [[0, 1, 0], [0, 0, 1]]
    x = hml.asarray(np.zeros((2, 3), np.int16))
    assert hml.zeros_like(x).dtype == hml.ones_like(x).dtype == hml.full_like(x, 3).dtype == np.int16
    assert hml.full_like(x, 3).shape == (2, 3)


def test_a_tensor_is_its_own_copy_and_hashes_by_identity():
    t = hml.asarray([1.0])
    assert copy.copy(t) is t is copy.deepcopy(t)
    assert len({t, t, hml.asarray([1.0])}) == 2


def test_conversion_to_python():
    assert (float(hml.asarray(2.5)), int(hml.asarray(2)), bool(hml.asarray([[True]]))) == (2.5, 2, True)
    assert [10, 20][hml.asarray(1)] == 20
    assert len(hml.zeros((3, 2))) == 3
    assert [r.tolist() for r in hml.asarray([[1.0], [2.0]])] == [[1.0], [2.0]]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(hml.zeros(2))
    with pytest.raises(TypeError, match="len"):
        len(hml.asarray(1))
    with pytest.raises(TypeError, match="make tensors with"):
        hml.Tensor([1])


def test_exchange_with_numpy():
    t = hml.asarray([1.0, 2.0])
    np.testing.assert_array_equal(np.from_dlpack(t), t.numpy())
    np.testing.assert_array_equal(np.asarray(t, np.float64), [1, 2])
    for got in (np.ones(2) + t, t + np.ones(2)):
        assert isinstance(got, hml.Tensor)
        assert got.dtype == np.float64


def test_numpy_arrays_survive_a_pickle():
    t = hml.asarray([1.0, 2.0])
    assert pickle.loads(pickle.dumps(t.numpy())).tolist() == t.tolist()


OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
             operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]  # fmt: skip
BIT_OPERATORS = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]


@pytest.mark.parametrize("f", OPERATORS + BIT_OPERATORS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("other", ["scalar", "array", "tensor", "variable"])
def test_operators_both_ways(f, other):
    bits = f in BIT_OPERATORS
    a = np.array([2, 5, 7]) if bits else np.array([2.0, 5.0, 0.5])
    x = hml.asarray(a)
    b = 3 if other == "scalar" else np.array([1, 2, 3], np.int64 if bits else np.float64)
    right = {"tensor": hml.asarray, "variable": hml.Variable}.get(other, lambda b: b)(b)
    np.testing.assert_array_equal(f(x, right).numpy(), f(a, b))
    np.testing.assert_array_equal(np.asarray(f(right, x)), f(b, a))


@pytest.mark.parametrize("f", [operator.neg, operator.pos, operator.abs])
def test_unary_operators(f):
    a = np.array([1.5, -2.0])
    np.testing.assert_array_equal(f(hml.asarray(a)).numpy(), f(a))
    np.testing.assert_array_equal(f(hml.Variable(a)).numpy(), f(a))


def test_matmul_operator_invert_and_properties():
    a = RNG.normal(size=(2, 3))
    x = hml.asarray(a)
    np.testing.assert_allclose((x @ x.T).numpy(), a @ a.T)
    np.testing.assert_allclose((a @ x.T).numpy(), a @ a.T)
    np.testing.assert_array_equal((~(x > 0)).numpy(), ~(a > 0))
    assert hml.zeros((2, 3, 4)).T.shape == (4, 3, 2)
    assert hml.zeros((2, 3, 4)).mT.shape == (2, 4, 3)


def test_in_place_operators_make_new_tensors():
    x = y = hml.asarray([1.0])
    x += 1
    assert (x.tolist(), y.tolist()) == ([2.0], [1.0])


def test_floating_point_warnings_stay_off_and_settings_come_back():
    with np.errstate(all="raise"):
        assert (hml.asarray([1.0]) / 0.0).tolist() == [np.inf]
        assert (hml.asarray([1.0]) / hml.asarray([0.0])).tolist() == [np.inf]
        with pytest.raises(FloatingPointError):
            np.ones(1) / 0.0


A = np.arange(24.0).reshape(2, 3, 4)
KEYS = [
    0, -1, (0, 1), (slice(None), -1), (..., 0), (None, 0), (slice(None, None, -1), slice(1, 0)), (..., None), slice(5, None),
    (slice(None), slice(None, None, -2)), (1, 2, 3), (), ..., (0, None, slice(1, 3)), np.int64(1), np.array(1),
    [0, 1], ([0, 1, 1], [0, 2, 1]), ([0, 1, 1], [0, 2, 1], [-1, 0, 3]), (0, slice(None), [1, 2]), (slice(None), [0, 1], [1, 2]),
    (slice(None), 0, [1, 2]), ([0, 1], slice(None), [1, 2]), (slice(None), [[0, 1], [2, 2]]), ([], ), (None, [1, 0]),
    (slice(None), [1, 0], None, slice(None, 2)), (np.array([0, 1])[:, None], slice(None), np.array([0, 3])),
    A > 5, (slice(None), np.array([True, False, True])), (A[:, :, 0] > 3, [1]), np.zeros((2, 3, 4), bool),
    (..., np.array([True] * 4)),
    np.array([1, 0], np.uint8),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indexing_is_numpys(key):
    x = hml.asarray(A)
    got = x[key]
    assert got.shape == A[key].shape
    np.testing.assert_array_equal(got.numpy(), A[key])
    hml.testing.check_grads(lambda x: x[key], (x,), order=2)


def test_indexing_with_tensors_and_variables():
    x = hml.asarray(A)
    np.testing.assert_array_equal(x[hml.asarray([1, 0])].numpy(), A[[1, 0]])
    np.testing.assert_array_equal(x[hml.asarray(1)].numpy(), A[1])
    np.testing.assert_array_equal(x[x > 5].numpy(), A[A > 5])
    np.testing.assert_array_equal(hml.Variable(A)[1, 0].numpy(), A[1, 0])
    i = hml.asarray(1)
    np.testing.assert_array_equal(x[i : i + 1].numpy(), A[1:2])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (5, "index 5 is out of range for axis 0 of size 2"), ((0, -4), "index -4 is out of range for axis 1 of size 3"),
        ([0, 2], "index 2 is out of range for axis 0 of size 2"), (([0], [3]), "index 3 is out of range for axis 1 of size 3"),
        ((0, 0, 0, 0), "4 indices"), ((..., ...), "one Ellipsis"), (np.array([True] * 3), "mask of size 3 on axis 0"),
    ],
    ids=repr,
)  # fmt: skip
def test_indexing_out_of_range(key, message):
    with pytest.raises(IndexOutOfRangeError, match=message):
        hml.asarray(A)[key]


def test_indexing_with_nonsense():
    for key in (1.5, "a", True, [1.5]):
        with pytest.raises(DTypeError, match=r"index|indices"):
            hml.asarray(A)[key]


def test_errors_name_shapes_and_this_line():
    x, y = hml.zeros((2, 3)), hml.zeros((4,))
    for f in (lambda: x + y, lambda: hml.logaddexp(x, y), lambda: x @ y, lambda: hml.concat([x, y])):
        with pytest.raises(ShapeError) as e:
            f()
        assert "test_tensor.py" in str(e.value)
        assert "3" in str(e.value) and "4" in str(e.value)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda: hml.reshape(hml.zeros(6), (4,)), "cannot reshape"),
        (lambda: hml.sum(hml.zeros((2, 3)), axis=2), "axis 2 is out of range for a tensor of 2 dimensions"),
        (lambda: hml.max(hml.zeros((0,))), "of no elements"),
        (lambda: hml.squeeze(hml.zeros((2, 1)), axis=0), "axes of size 1"),
        (lambda: hml.stack([hml.zeros(2), hml.zeros(3)]), "one shape"),
        (lambda: hml.split(hml.zeros(5), 2), "equal pieces"),
        (
            lambda: hml.einsum("ij,jk", hml.zeros((2, 3)), hml.zeros((2, 3))),
            "axis 'j' has size 3 in one operand and 2",
        ),
        (lambda: hml.top_k(hml.zeros(3), 4), "k=4"),
        (lambda: hml.scatter_add(hml.zeros(3), [0], hml.zeros(2)), r"updates of shape \(1,\)"),
        (lambda: hml.nn.softmax_cross_entropy(hml.zeros((2, 3)), [1, 2, 0]), r"\(3,\).*\(2, 3\)"),
        (lambda: hml.argmax(hml.zeros((2, 0)), axis=1), "of no elements"),
        (lambda: hml.take(hml.zeros((2, 2)), [0]), "needs an axis"),
    ],
)
def test_shape_errors(f, message):
    with pytest.raises(ShapeError, match=message):
        f()


def test_dtype_errors():
    with pytest.raises(DTypeError, match="integer"):
        hml.asarray([1.0]) & 1
    with pytest.raises(DTypeError, match="indices must be integers"):
        hml.take([1.0], [0.0])
    with pytest.raises(DTypeError, match="float32"):
        hml.asarray([1.0]).astype("flaot32")


def test_check_finite_names_the_first_offender_and_this_line():
    with pytest.raises(
        hml.errors.NonFiniteError, match=r"the loss: 1 of 3 elements.*\(1,\) is nan(.|\n)*test_tensor.py"
    ):
        hml.check_finite([1.0, float("nan"), 2.0], "the loss")


@pytest.mark.parametrize("way", [lambda f: f, hml.function], ids=["eager", "traced"])
def test_python_s_round(way):
    x = hml.asarray([0.125, 2.5, -1.75])
    assert way(lambda x: round(x))(x).tolist() == [0, 2, -2]
    assert way(lambda x: round(x, 1))(x).numpy() == pytest.approx([0.1, 2.5, -1.8])
    assert way(lambda x: round(x, -1))(x * 10).tolist() == [0, 20, -20]
    assert round(hml.asarray([3, 4])).tolist() == [3, 4]


@pytest.mark.parametrize("make", [hml.asarray, hml.Variable])
def test_assigning_an_element_names_the_cure(make):
    x = make([1.0, 2.0])
    with pytest.raises(
        TypeError,
        match=r"shape \(2,\) cannot be assigned; make a new tensor, for example hml.where(.|\n)*test_tensor.py",
    ):
        x[0] = 5.0
    with pytest.raises(TypeError, match="cannot be assigned"):
        x[0] += 5.0


@pytest.mark.parametrize("ask", [len, list], ids=lambda f: f.__name__)
@pytest.mark.parametrize("way", [lambda f: f, hml.function], ids=["eager", "traced"])
def test_a_tensor_without_axes_has_no_length(way, ask):
    with pytest.raises(
        TypeError, match=r"shape \(\), which is one number; use it as it is(.|\n)*test_tensor.py"
    ):
        way(lambda x: ask(x))(hml.asarray(2.0))
    with pytest.raises(TypeError, match=r"shape \(\)"):

        @hml.function
        def loop(x):
            for y in x:
                x = x + y
            return x

        loop(hml.asarray(1.0))
