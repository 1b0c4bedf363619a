"""Every row of the registry against its samples. Nothing here names an op: a new row is tested by having samples."""

import contextlib

import numpy as np
import pytest

import hybridml as hml
from hybridml import backends, pytree
from hybridml.dtypes import is_float
from hybridml.eager import dispatch
from hybridml.eager.tensor import Tensor, wrap
from hybridml.errors import DTypeError
from hybridml.ops import door
from hybridml.ops.registry import OPS, Kind, Promote, Saves
from hybridml.testing import check_grads, public_functions, recast, samples_of, strided, transposed, widened

FUNCTIONS = public_functions()
ROWS = [op for op in OPS.values() if op.samples is not None]


def each(condition=lambda op: True):
    """Parametrize over the rows that meet a condition."""
    return pytest.mark.parametrize("op", [op for op in ROWS if condition(op)], ids=lambda op: op.name)


rows = each()
with_gradient = each(lambda op: op.vjps is not None)
TOLERANCE = {"bfloat16": 1.6e-2, "float16": 2e-3, "float32": 2e-6, "float64": 1e-13}
DTYPES = ["float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool"]
LAYOUTS = {"plain": lambda x: x, "strided": strided, "transposed": transposed}


class Call:
    def __init__(self, op, operands, attrs, result):
        self.op, self.operands, self.attrs, self.result = op, operands, attrs, result

    @property
    def results(self):
        return self.result if isinstance(self.result, tuple) else (self.result,)


@contextlib.contextmanager
def calls_through_the_door(monkeypatch):
    """Every op that runs inside, with its promoted operands."""
    seen = []

    def run(op, operands, attrs):
        lifted = dispatch.lift_operands(op, operands)
        result = dispatch.run(op, tuple(lifted), attrs)
        seen.append(Call(op, lifted, attrs, result))
        return result

    with monkeypatch.context() as m:
        m.setattr(door.interpreter, "run", run)
        yield seen


def as_tensors(args):
    """Tensors over the arrays themselves, so that strides reach the op."""
    here = backends.current()
    return pytree.map(lambda x: wrap(here.put(x)) if isinstance(x, np.ndarray) else x, args)


def accepts(op, args, kwargs):
    try:
        FUNCTIONS[op.name](*as_tensors(args), **kwargs)
    except DTypeError:
        return False
    return True


def reference(op, args, kwargs):
    f = op.reference or op.ufunc
    args = pytree.map(widened, args)
    if op.promote is Promote.FLOAT:  # NumPy takes narrow integers to half precision
        args = pytree.map(
            lambda x: x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind != "f" else x, args
        )
    if op.promote is Promote.NUMBER:
        args = pytree.map(
            lambda x: x.astype(np.int64) if isinstance(x, np.ndarray) and x.dtype.kind == "b" else x, args
        )
    with np.errstate(all="ignore"):
        return f(*args, **kwargs)


def assert_close(got, want, dtype, label):
    got, want = np.asarray(got), np.asarray(want)
    with np.errstate(all="ignore"):
        want = want.astype(got.dtype)
    assert got.shape == want.shape, label
    if is_float(got.dtype):
        tol = TOLERANCE[
            min(got.dtype.name, dtype if dtype in TOLERANCE else got.dtype.name, key=lambda n: -TOLERANCE[n])
        ]
        got, want = got.astype(np.float64), want.astype(np.float64)
        scale = np.abs(want[np.isfinite(want)]).max(initial=0) if got.size else 0
        np.testing.assert_allclose(
            got, want, rtol=4 * tol, atol=tol * min(scale, 100.0), equal_nan=True, err_msg=label
        )
    else:
        np.testing.assert_array_equal(got, want, err_msg=label)


@rows
def test_every_row_has_a_public_function_and_an_independent_reference(op):
    assert op.name in FUNCTIONS
    assert op.reference is not None or op.ufunc is not None or op.kind is Kind.RANDOM
    assert samples_of(op)


def test_rows_without_samples_are_those_whose_calls_are_special():
    without = {op.name for op in OPS.values() if op.samples is None and op.kind is not Kind.CONTROL}
    # A shape that depends on data; a mark for the compiler; effects. They and control flow have tests of their own.
    assert without == {"nonzero", "recompute", "print", "py_function"}


@each(lambda op: op.kind is not Kind.RANDOM)  # those have tests of their own
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value(op, dtype, layout):
    for sample in samples_of(op):
        args = LAYOUTS[layout](recast(sample.args, dtype))
        before = pytree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, args)
        if not accepts(op, args, sample.kwargs):
            assert dtype not in ("float32", "float64") or not any(
                isinstance(x, np.ndarray) and is_float(x.dtype) for x in pytree.leaves(args)
            ), f"{op.name} refuses {dtype}"
            continue
        out = FUNCTIONS[op.name](*as_tensors(args), **sample.kwargs)
        label = f"{op.name} {dtype} {layout}: {sample.label}"
        for got, want in zip(
            pytree.leaves(out), pytree.leaves(reference(op, args, sample.kwargs)), strict=True
        ):
            assert_close(got.numpy(), want, dtype, label)
        for now, then in zip(pytree.leaves(args), pytree.leaves(before), strict=True):
            np.testing.assert_array_equal(widened(now), widened(then), err_msg=f"{label}: an input changed")


@rows
@pytest.mark.parametrize("dtype", DTYPES)
def test_infer_says_what_eager_returns(op, dtype, monkeypatch):
    for sample in samples_of(op):
        args = recast(sample.args, dtype)
        if not accepts(op, args, sample.kwargs):
            continue
        with calls_through_the_door(monkeypatch) as calls:
            FUNCTIONS[op.name](*as_tensors(args), **sample.kwargs)
        for call in calls:
            specs = [x.spec if isinstance(x, Tensor) else x for x in call.operands]
            inferred = call.op.infer(*specs, **call.attrs)
            inferred = inferred if isinstance(inferred, tuple) else (inferred,)
            assert [(s.shape, s.dtype) for s in inferred] == [(r.shape, r.dtype) for r in call.results], (
                f"{call.op.name}{call.attrs} of {specs}: {sample.label}"
            )


@each(lambda op: op.expand is not None)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_expand_is_the_op(op, dtype, monkeypatch):
    for sample in samples_of(op):
        args = recast(sample.args, dtype)
        if not accepts(op, args, sample.kwargs):
            continue
        with calls_through_the_door(monkeypatch) as calls:
            FUNCTIONS[op.name](*as_tensors(args), **sample.kwargs)
        for call in calls:
            if call.op is op:
                got = op.expand(*call.operands, **call.attrs)
                if got is None:
                    continue
                for a, b in zip(got if isinstance(got, tuple) else (got,), call.results, strict=True):
                    assert a.dtype == b.dtype
                    assert_close(a.numpy(), b.numpy(), dtype, sample.label)


def small_differentiable(op):
    for sample in samples_of(op):
        arrays = [x for x in pytree.leaves(sample.args) if isinstance(x, np.ndarray)]
        if (
            sample.differentiable
            and any(x.dtype.kind == "f" for x in arrays)
            and all(x.size <= 1000 for x in arrays)
        ):
            yield sample


@with_gradient
def test_gradients_of_first_and_second_order(op):
    tested = 0
    for sample in small_differentiable(op):

        def f(*args, kwargs=sample.kwargs):
            return FUNCTIONS[op.name](*args, **kwargs)

        if any(isinstance(x, np.dtype) and x != np.float64 for x in sample.args):
            continue  # a cast: differences in single precision say little
        check_grads(f, sample.args, order=2, rtol=2e-5, atol=2e-5)
        tested += 1
    assert tested


@with_gradient
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gradients_in_half_precision(op, dtype):
    """Those of the same numbers in double precision, but for a few roundings."""
    for sample in small_differentiable(op):

        def f(*args, kwargs=sample.kwargs):
            out = [o for o in pytree.leaves(FUNCTIONS[op.name](*args, **kwargs)) if is_float(o.dtype)]
            weigh = [1 + 0.5 * hml.reshape(hml.arange(o.size) % 4, o.shape).astype(o.dtype) for o in out]
            return sum(
                ((o * w).sum() for o, w in zip(out, weigh, strict=True)), hml.zeros((), dtype=out[0].dtype)
            )

        if any(isinstance(x, np.dtype) for x in sample.args):
            continue
        rough = recast(sample.args, dtype)
        leaves = [x for x in pytree.leaves(rough) if isinstance(x, np.ndarray)]
        exact = pytree.map(
            lambda x: x.astype(np.float64) if isinstance(x, np.ndarray) and is_float(x.dtype) else x, rough
        )
        places = [i for i, x in enumerate(leaves) if is_float(x.dtype)]

        def gradients(args, f=f, places=places):
            tensors = pytree.map(lambda x: wrap(x) if isinstance(x, np.ndarray) else x, args)
            inputs = [x for x in pytree.leaves(tensors) if isinstance(x, Tensor)]
            with hml.GradientTape() as tape:
                tape.watch([inputs[i] for i in places])
                y = f(*tensors)
            return tape.gradient(y, [inputs[i] for i in places], unconnected_gradients="zero")

        for got, want in zip(gradients(rough), gradients(exact), strict=True):
            assert got.dtype == np.dtype(dtype)
            tol, want = 4 * TOLERANCE[dtype], want.numpy()
            size = max(1.0, np.abs(want).max(initial=0))  # terms of about 1 cancel
            np.testing.assert_allclose(
                widened(got.numpy()), want, rtol=tol, atol=tol * size, err_msg=sample.label
            )


def poisoned(x):
    if not isinstance(x, Tensor):
        return x
    if is_float(x.dtype):
        return hml.full_like(x, np.nan)
    return hml.zeros_like(x)


@with_gradient
def test_gradients_read_what_the_row_saves_and_no_more(op, monkeypatch):
    rng = np.random.default_rng(0)
    needed = Saves.NOTHING
    for sample in small_differentiable(op):
        with calls_through_the_door(monkeypatch) as calls:
            FUNCTIONS[op.name](*as_tensors(recast(sample.args, "float64")), **sample.kwargs)
        for call in (c for c in calls if c.op is op):
            seeds = [hml.asarray(rng.normal(size=r.shape).astype(r.dtype)) for r in call.results]
            g = seeds if isinstance(call.result, tuple) else seeds[0]
            junk = [poisoned(x) for x in call.operands]
            out_junk = (
                tuple(poisoned(r) for r in call.results)
                if isinstance(call.result, tuple)
                else poisoned(call.result)
            )
            for rule, x in zip(op.vjps, call.operands, strict=False):
                if rule is None or not isinstance(x, Tensor) or not x.size:
                    continue
                want = rule(g, call.result, *call.operands, **call.attrs).numpy()

                def same(out, operands, rule=rule, g=g, attrs=call.attrs, want=want):
                    return np.array_equal(rule(g, out, *operands, **attrs).numpy(), want, equal_nan=True)

                kept = call.operands if Saves.INPUTS in op.saves else junk
                kept_out = call.result if Saves.OUTPUT in op.saves else out_junk
                assert same(kept_out, kept), f"{op.name} reads more than it saves: {sample.label}"
                if not same(call.result, junk):
                    needed |= Saves.INPUTS
                if not same(out_junk, call.operands):
                    needed |= Saves.OUTPUT
    assert needed == op.saves, f"{op.name} saves {op.saves}, its rules read {needed}"


@each(lambda op: op.promote is not Promote.NO)
def test_operands_of_two_dtypes_meet_as_the_row_says(op):
    for sample in samples_of(op):
        arrays = [x for x in sample.args if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
        if len(arrays) < 2:
            continue
        mixed = [x.astype(np.float32) if x is arrays[0] else x for x in sample.args]
        wide = [x.astype(np.float32).astype(np.float64) if x is arrays[0] else x for x in sample.args]
        got = FUNCTIONS[op.name](*mixed, **sample.kwargs)
        want = FUNCTIONS[op.name](*wide, **sample.kwargs)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=sample.label)


@each(lambda op: isinstance(op.scalar, str))
def test_the_kernel_text_has_no_numbers(op):
    """Constants are arguments or come from the dtype: the same text serves every dtype."""
    digits = op.scalar
    for place in ("{0}", "{1}", "{2}", "m_log10", "m_log1p", "m_log2", "m_exp2", "m_expm1", "m_atan2"):
        digits = digits.replace(place, "")
    assert not any(c.isdigit() for c in digits), op.scalar


def test_names_are_unique_and_documented():
    for name, f in hml.ops.registry.PUBLIC.items():
        assert getattr(hml, name) is f
        assert f.__doc__, name
