"""Where large arrays begin."""

import itertools
import sys

import numpy as np
import pytest

import hybridml as hml
from hybridml import buffers

FLOAT = np.dtype(np.float32)
BIG = (buffers.LARGE // 4,)


@pytest.mark.parametrize("shape", [BIG, (257, 129), (3, 5, 7, 4001)], ids=str)
def test_large_arrays_begin_at_cache_lines(shape):
    arrays = [buffers.empty(shape, FLOAT) for _ in range(70)]
    assert all(a.ctypes.data % buffers.LINE == 0 for a in arrays)
    assert all(a.shape == shape and a.flags.c_contiguous and a.flags.writeable for a in arrays)
    neighbours = [abs(a.ctypes.data - b.ctypes.data) % buffers.PAGE for a, b in itertools.pairwise(arrays)]
    assert min(neighbours) >= buffers.LINE


def test_arrays_do_not_overlap():
    arrays = [buffers.empty(BIG, FLOAT) for _ in range(10)]
    for k, a in enumerate(arrays):
        a.fill(k)
    assert [a.min() for a in arrays] == [a.max() for a in arrays] == list(range(10))


@pytest.mark.parametrize("shape", [(3,), (), (0, 5), BIG], ids=str)
def test_a_copy_is_equal_and_contiguous(shape):
    a = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    for x in (a, np.asfortranarray(a), a[..., ::-1]):
        c = buffers.copy(x)
        np.testing.assert_array_equal(c, x)
        assert c.flags.c_contiguous and not np.shares_memory(c, x)


def test_a_slice_holds_the_array_itself():
    a = buffers.empty(BIG, FLOAT)
    before = sys.getrefcount(a)
    b = a[3:]
    assert sys.getrefcount(a) == before + 1 and b.base is a and type(b) is np.ndarray


def test_a_value_read_from_a_large_variable_stays():
    v = hml.Variable(np.zeros(BIG, np.float32))
    row = v.value()[5:].numpy()
    v.assign_add(hml.ones(BIG))
    hml.function(lambda: v.assign_add(hml.ones(BIG)))()
    assert row.max() == 0 and v.numpy().min() == 2


def test_results_and_tensors_are_aligned():
    x = hml.asarray(np.ones(BIG, np.float32))
    y = hml.function(lambda x: x + 1)(x)
    assert x.numpy().ctypes.data % 64 == y.numpy().ctypes.data % 64 == 0
