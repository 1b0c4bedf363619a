"""Initial values: shapes, dtypes, moments against the formulas, seeds, names."""

import math

import numpy as np
import pytest

import hybridml as hml
from hybridml.errors import ShapeError

I = hml.initializers  # noqa: E741
SHAPE = (3, 3, 40, 60)  # 360 inputs, 540 outputs
DEVIATIONS = {
    "glorot_uniform": math.sqrt(2 / 900), "glorot_normal": math.sqrt(2 / 900), "he_uniform": math.sqrt(2 / 360),
    "he_normal": math.sqrt(2 / 360), "lecun_uniform": math.sqrt(1 / 360), "lecun_normal": math.sqrt(1 / 360),
    "random_normal": 0.05, "random_uniform": 0.1 / math.sqrt(12), "truncated_normal": 0.05 * 0.87962566103423978,
    "variance_scaling": math.sqrt(1 / 360),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVIATIONS)
def test_moments_seeds_and_dtypes(name):
    cls = I.CLASSES[name]
    x = cls(seed=1)(SHAPE).numpy()
    assert x.shape == SHAPE and x.dtype == np.float32
    deviation = DEVIATIONS[name]
    assert abs(x.mean()) < 0.02 * deviation and abs(x.std() / deviation - 1) < 0.02
    limit = {"uniform": math.sqrt(3), "normal": 6.0}[
        name.split("_")[-1] if "scaling" not in name else "normal"
    ]
    assert abs(x).max() <= (limit if "random_normal" in name else min(limit, 2.28)) * deviation * 1.0001
    one = cls(seed=1)
    np.testing.assert_array_equal(one(SHAPE), one(SHAPE))
    assert (cls()((5, 5)).numpy() != cls()((5, 5)).numpy()).any()
    hml.random.seed(2)
    first = cls()((4,)).tolist()
    hml.random.seed(2)
    assert cls()((4,)).tolist() == first
    assert cls(seed=1)((2, 3), hml.float64).dtype == np.float64


def test_constants():
    assert I.Zeros()((2, 1)).tolist() == [[0], [0]] and I.Ones()((2,), hml.int32).dtype == np.int32
    assert I.Constant([1, 2])((2, 2)).tolist() == [[1, 2], [1, 2]] and I.Constant(3)(()).item() == 3
    assert I.Identity(2.0)((2, 3)).tolist() == [[2, 0, 0], [0, 2, 0]]
    with pytest.raises(ShapeError, match="2 dimensions"):
        I.Identity()((2, 2, 2))


@pytest.mark.parametrize("shape", [(4, 4), (6, 3), (3, 6), (2, 3, 5)])
def test_orthogonal(shape):
    x = I.Orthogonal(2.0, seed=0)(shape, hml.float64).numpy().reshape(-1, shape[-1]) / 2
    small = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x
    np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-12)
    with pytest.raises(ShapeError, match="at least 2 dimensions"):
        I.Orthogonal()((3,))


@pytest.mark.parametrize(
    ("shape", "expected"), [((), (1, 1)), ((7,), (7, 7)), ((3, 4), (3, 4)), ((5, 3, 4), (15, 20)), ((2, 5, 3, 4), (30, 40))]
)  # fmt: skip
def test_fans(shape, expected):
    assert I.fans(shape) == expected


def test_by_name_class_object_and_function():
    assert type(I.get("he_normal")) is I.HeNormal is I.he_normal and type(I.get("normal")) is I.RandomNormal
    assert isinstance(I.get(I.Zeros), I.Zeros)
    given = I.Constant(1)
    assert I.get(given) is given
    layer = hml.nn.Dense(2, kernel_initializer=lambda shape, dtype: hml.full(shape, 3.0, dtype=dtype))
    layer.build((1, 1))
    assert layer.kernel.numpy().tolist() == [[3, 3]]
    for wrong, error in (("he", ValueError), (3, TypeError)):
        with pytest.raises(error, match="initializer"):
            I.get(wrong)
    for options in ({"mode": "in"}, {"distribution": "cauchy"}, {"scale": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            I.VarianceScaling(**options)
    assert (
        repr(I.HeNormal(seed=1))
        == "HeNormal(seed=1, scale=2.0, mode='fan_in', distribution='truncated_normal')"
    )
