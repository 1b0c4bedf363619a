"""Random programs: eager, interpreted, optimised and compiled, and their gradients, must agree.

`make fuzz` (HYBRIDML_FUZZ_EXAMPLES) runs as many as it is told, different ones each time; the tests run the same few always.
"""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from programs import programs

import hybridml as hml
from hybridml.testing import TOLERANCE, assert_close, check_traced

EXAMPLES = int(os.environ.get("HYBRIDML_FUZZ_EXAMPLES") or 0)
SLACK = {
    "float32": 3e-4,
    "float64": 1e-9,
}  # relative to the largest number of a result, for a dozen ops on end


def examples(count):
    return settings(
        max_examples=EXAMPLES or count,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def in_dtype(program, dtype):
    """(inputs, variables) of this dtype; the program's variables are replaced."""
    inputs = [hml.asarray(a.astype(dtype) if a.dtype.kind == "f" else a) for a in program.inputs]
    program.variables = [hml.Variable(v.numpy(), dtype=dtype, name=v.name) for v in program.variables]
    return inputs


def largest(arrays):
    return max(
        (float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in arrays if a.dtype.kind == "f"), default=0.0
    )


def slack(f, program, dtype):
    """How far two runs may differ, in units of the table: more where eager itself differs that much from double precision."""
    if dtype == "float64":
        return SLACK[dtype] / TOLERANCE[dtype]
    runs = []
    for d in ("float64", dtype):
        inputs = in_dtype(program, d)
        runs.append([o.numpy() for o in f(*inputs)])
    ill = 0.0
    for exact, rounded in zip(*runs, strict=True):
        if rounded.dtype.kind == "f":
            with np.errstate(all="ignore"):
                off = np.abs(exact - rounded)
            ill = max(ill, float(off[np.isfinite(off)].max(initial=0)) / max(largest(runs[0]), 1e-30))
    return (SLACK[dtype] + 30 * ill) / TOLERANCE[dtype]


def check(program, dtype, f=None):
    f = f or program
    ops = slack(f, program, dtype)
    scale = max(largest([o.numpy() for o in f(*in_dtype(program, dtype))]), 1e-3)
    inputs = in_dtype(program, dtype)
    check_traced(f, inputs, variables=program.variables, ops=ops, scale=scale, label=repr(program))


@examples(30)
@given(programs())
def test_float64(program):
    check(program, "float64")


@examples(20)
@given(programs())
def test_float32(program):
    check(program, "float32")


@examples(12)
@given(programs(integers=True))
def test_integers_and_bools(program):
    check(program, "float64")


def loss_of(program):
    def loss(*inputs):
        total = hml.zeros((), dtype=hml.float64)
        for o in program(*inputs):
            if o.dtype.kind == "f":
                total = total + (o * o * 0.5 + o).sum()
        return total

    return loss


@examples(15)
@given(programs())
def test_gradients(program):
    if program.kinked:
        return
    argnums = tuple(range(len(program.inputs)))
    gradient = hml.value_and_grad(loss_of(program), argnums)

    def flat(*inputs):
        value, grads = gradient(*inputs)
        return [value, *grads]

    check(program, "float64", flat)


@examples(15)
@given(programs())
def test_a_tape_around_the_call(program):
    if program.kinked:
        return
    inputs = in_dtype(program, "float64")
    start = [v.numpy() for v in program.variables]
    argnums = tuple(range(len(inputs)))
    want = hml.value_and_grad(loss_of(program), argnums)(*inputs)
    for v, a in zip(program.variables, start, strict=True):
        v.assign(a)
    got = hml.value_and_grad(hml.function(loss_of(program)), argnums)(*inputs)
    scale = max(largest([g.numpy() for g in want[1]]), 1e-3)
    for a, b in zip([got[0], *got[1]], [want[0], *want[1]], strict=True):
        assert_close(
            a.numpy(),
            b.numpy(),
            ops=SLACK["float64"] / TOLERANCE["float64"],
            scale=scale,
            label=repr(program),
        )
