"""Every row, traced and compiled, against itself run eagerly; and its gradient."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import pytree
from hybridml.errors import DTypeError
from hybridml.ops.registry import OPS
from hybridml.testing import check_traced, public_functions, recast, samples_of

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None]


def over_arrays(op, sample, dtype):
    """The row's public function of its arrays alone, and these."""
    leaves, structure = pytree.flatten(recast(sample.args, dtype))
    places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]

    def f(*arrays):
        full = list(leaves)
        for i, x in zip(places, arrays, strict=True):
            full[i] = x
        return FUNCTIONS[op.name](*pytree.unflatten(structure, full), **sample.kwargs)

    return f, [hml.asarray(leaves[i]) for i in places]


@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_traced_is_eager(op):
    for sample in samples_of(op):
        f, arrays = over_arrays(op, sample, "float32")
        check_traced(f, arrays)


@pytest.mark.parametrize("dtype", ["float64", "int32", "bool"])
@pytest.mark.parametrize("op", ROWS, ids=lambda op: op.name)
def test_traced_is_eager_in_other_dtypes(op, dtype):
    sample = samples_of(op)[0]
    f, arrays = over_arrays(op, sample, dtype)
    try:
        f(*arrays)
    except DTypeError:
        with pytest.raises(DTypeError):
            hml.function(f)(*arrays)
        return
    check_traced(f, arrays, calls=1)


@pytest.mark.parametrize("op", [op for op in ROWS if op.vjps is not None], ids=lambda op: op.name)
def test_traced_gradient_is_eager(op):
    for sample in [s for s in samples_of(op) if s.differentiable][:1]:
        f, arrays = over_arrays(op, sample, "float32")
        floats = [i for i, x in enumerate(arrays) if x.dtype.kind == "f"]

        def gradient(*arrays, f=f, floats=floats):
            with hml.GradientTape() as tape:
                tape.watch(arrays)
                outs = [t for t in pytree.leaves(f(*arrays)) if t.dtype.kind == "f"]
                loss = sum([(t * hml.cos(t)).sum() for t in outs], hml.asarray(0.0))
            return tape.gradient(loss, [arrays[i] for i in floats], unconnected_gradients="zero")

        check_traced(gradient, arrays, rtol=3e-5, calls=1)
