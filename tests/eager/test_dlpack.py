"""DLPack of bfloat16, which NumPy alone refuses."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.eager import dlpack


class Exporter:
    """Something that is no array and exports memory; `version` is whether it knows what a version is."""

    def __init__(self, x, version=True):
        self.x, self.version = x, version

    def __dlpack__(self, **kwargs):
        if not self.version and kwargs:
            raise TypeError("unexpected keyword")
        return self.x.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


@pytest.mark.parametrize("version", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int64", "bool"])
def test_memory_is_shared_under_the_right_dtype(dtype, version):
    x = hml.asarray([[0.0, 1.0], [1.0, 3.0]]).astype(dtype)
    y = hml.from_dlpack(Exporter(x, version))
    assert y.dtype is x.dtype and y.tolist() == x.tolist()
    assert np.shares_memory(x.numpy(), y.numpy())
    assert hml.asarray(Exporter(x, version)).tolist() == x.tolist()


def test_an_exporter_whose_dtype_numpy_does_not_know_is_copied():
    class Foreign(Exporter):
        dtype = "torch.bfloat16"

        def __array__(self, *_, **__):
            raise TypeError("no such type in NumPy")

    x = hml.asarray([1.0, 2.5], dtype="bfloat16")
    y = hml.asarray(Foreign(x))
    assert y.dtype is hml.bfloat16 and y.tolist() == [1.0, 2.5] and not np.shares_memory(x.numpy(), y.numpy())


def test_the_capsule_says_bfloat16():
    capsule = hml.ones((3,), dtype="bfloat16").__dlpack__()
    assert dlpack._code(capsule).value == 4
    assert dlpack._code(hml.ones((3,), dtype="float16").__dlpack__()).value == 2


def test_numpy_arrays_of_any_dtype_are_shared():
    given = np.arange(3).astype(hml.bfloat16)
    assert np.shares_memory(hml.from_dlpack(given).numpy(), given)
