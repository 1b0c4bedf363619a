"""Indexing and broadcasting of drawn shapes and keys against NumPy. Left out where Hypothesis is not installed."""

import numpy as np
import pytest

import hybridml as hml

hypothesis = pytest.importorskip("hypothesis")
hnp = pytest.importorskip("hypothesis.extra.numpy")

RNG = np.random.default_rng(0)


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(hypothesis.strategies.data())
def test_basic_indexing_against_numpy(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    a = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    np.testing.assert_array_equal(hml.asarray(a)[key].numpy(), a[key])


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(hypothesis.strategies.data())
def test_integer_indexing_against_numpy(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    a = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    key = data.draw(hnp.integer_array_indices(shape))
    np.testing.assert_array_equal(hml.asarray(a)[key].numpy(), a[key])


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
def test_broadcasting_and_its_gradient(shapes):
    a, b = (RNG.normal(size=s) for s in shapes.input_shapes)
    np.testing.assert_array_equal((hml.asarray(a) * hml.asarray(b)).numpy(), a * b)
    hml.testing.check_grads(lambda x, y: x * y, (a, b), order=2)
