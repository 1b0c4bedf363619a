"""Every row of the registry, traced: the graph, what the passes make of it, and the program, against eager. Nothing here names
an op except the list of those that have no kernel yet."""

import functools

import numpy as np
import pytest

import hybridml as hml
from hybridml import backends, pytree
from hybridml.eager.tensor import wrap
from hybridml.errors import HybridMLError
from hybridml.ops.registry import OPS
from hybridml.testing import (
    assert_close,
    check_traced,
    public_functions,
    recast,
    samples_of,
    strided,
    transposed,
)

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None]
SAMPLES = {
    "float32": 100,
    "float64": 3,
    "float16": 2,
    "bfloat16": 2,
    "int32": 2,
    "uint8": 2,
    "bool": 2,
}  # how many of each row

# Ops that run as a Python step between two native segments, on operands that are not empty. This list can only get shorter.
PYTHON_STEPS = {
    "float32": {"argsort", "sort", "top_k"},
    "int32": {"matmul"},
}  # fmt: skip

each = functools.partial(pytest.mark.parametrize, "op", ids=lambda op: op.name)


def as_call(op, sample, dtype, arrange=lambda x: x):
    """(f, tensors): the sample as a function of its arrays alone; `arrange` makes their memory what it should be."""
    leaves, structure = pytree.flatten(recast(sample.args, dtype))
    places = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray)]
    tensors = [wrap(backends.current().put(arrange(leaves[i]))) for i in places]

    def f(*given):
        full = list(leaves)
        for i, t in zip(places, given, strict=True):
            full[i] = t
        return FUNCTIONS[op.name](*pytree.unflatten(structure, full), **sample.kwargs)

    return f, tensors


def accepted(op, dtype, arrange=lambda x: x):
    """The row's calls that eager takes with this dtype."""
    for sample in samples_of(op)[: SAMPLES[dtype]]:
        f, tensors = as_call(op, sample, dtype, arrange)
        try:
            f(*tensors)
        except HybridMLError:
            continue
        yield f, tensors, f"{op.name} {dtype}, {sample.label}"


@each(ROWS)
@pytest.mark.parametrize("dtype", SAMPLES)
def test_traced_is_eager(op, dtype):
    python = set()
    for f, tensors, label in accepted(op, dtype):
        concrete = check_traced(f, tensors, label=label)
        if all(t.size for t in tensors):
            python |= {s.node.op.name for s in concrete.program.python_steps if s.node.out.spec.size}
    if backends.current() is backends.CPU:  # a GPU has more of them, such as pooling
        assert python <= PYTHON_STEPS["float32"] | (
            PYTHON_STEPS["int32"] if dtype in ("int32", "uint8", "bool") else set()
        )


@pytest.mark.skipif(backends.current() is not backends.CPU, reason="the list is the CPU's")
def test_the_list_of_python_steps_is_as_short_as_it_can_be():
    for dtype, names in PYTHON_STEPS.items():
        found = set()
        for name in names:
            op = OPS[name]
            for f, tensors, _ in accepted(op, dtype):
                concrete = hml.function(f).get_concrete_function(*tensors)
                found |= {
                    s.node.op.name for s in concrete.program.python_steps if all(t.size for t in tensors)
                }
        assert names <= found, f"these have kernels now, take them off the list: {names - found}"


@each(ROWS)
@pytest.mark.parametrize("arrange", [strided, transposed], ids=lambda f: f.__name__)
def test_inputs_of_any_memory_layout(op, arrange):
    for f, tensors, label in list(accepted(op, "float32", arrange))[:3]:
        check_traced(f, tensors, label=label)


# Gradients. The result is weighed with a function of it that is not linear, so that a second derivative is never trivially zero, and
# that differs from element to element, so that nothing cancels for results of a constant size.


def differentiable(op, count):
    found = []
    for sample in samples_of(op):
        f, tensors = as_call(op, sample, "float64")
        floats = [t for t in tensors if t.dtype.kind == "f" and t.size]
        casts = any(isinstance(x, np.dtype) for x in sample.args)
        if sample.differentiable and floats and not casts and all(t.size <= 1000 for t in tensors):
            found.append((f, tensors, f"{op.name}, {sample.label}"))
    return found[:count]


def weighed(f):
    def loss(*tensors):
        out = [o for o in pytree.leaves(f(*tensors)) if o.dtype.kind == "f"]
        return sum(((o * o * wave(o) + o).sum() for o in out), hml.zeros((), dtype=hml.float64))

    return loss


def wave(o):
    return hml.asarray(np.cos(np.arange(o.size)).reshape(o.shape) + 1.5)


def floats_of(tensors):
    return tuple(i for i, t in enumerate(tensors) if t.dtype.kind == "f")


WITH_GRADIENT = [op for op in ROWS if op.vjps is not None and differentiable(op, 1)]


@each(WITH_GRADIENT)
def test_gradient_inside_a_function(op):
    for f, tensors, label in differentiable(op, 2):
        check_traced(hml.value_and_grad(weighed(f), floats_of(tensors)), tensors, ops=100, label=label)


def value_and_gradient(loss, argnums):
    return hml.value_and_grad(loss, argnums)


def second_gradient(loss, argnums):
    first = hml.grad(loss, argnums)

    def size_of_gradient(*tensors):
        return sum(((g * g).sum() for g in first(*tensors)), hml.zeros((), dtype=hml.float64))

    return hml.grad(size_of_gradient, argnums)


@each(WITH_GRADIENT)
def test_second_gradient_inside_a_function(op):
    for f, tensors, label in differentiable(op, 1):
        check_traced(second_gradient(weighed(f), floats_of(tensors)), tensors, ops=1000, label=label)


@each(WITH_GRADIENT)
@pytest.mark.parametrize("order", [value_and_gradient, second_gradient], ids=lambda f: f.__name__)
def test_tape_around_a_function(op, order):
    """A call is one step of the tape, to any order."""
    for f, tensors, label in differentiable(op, 1):
        loss, argnums = weighed(f), floats_of(tensors)
        got, want = order(hml.function(loss), argnums)(*tensors), order(loss, argnums)(*tensors)
        for a, b in zip(pytree.leaves(got), pytree.leaves(want), strict=True):
            assert_close(a.numpy(), b.numpy(), ops=1000, label=label)
