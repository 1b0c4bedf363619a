"""Half precision in kernels of the CPU: the bits of NumPy's and ml_dtypes' conversions, by both compilers, and whole programs."""

import numpy as np
import pytest

import hybridml as hml
from hybridml import dtypes
from hybridml.kernels.language import halves
from hybridml.kernels.primitives import HALVES
from hybridml.testing import check_traced, kernels

WAYS = ["translator", "numba"]
each = pytest.mark.parametrize(
    ("suffix", "half"), [(s, dtypes.as_dtype(n)) for s, n in HALVES.items()], ids=HALVES
)


def bits(x):
    """Bits, all NaN alike."""
    return np.where(np.isnan(x), x.dtype.type(1).view(f"u{x.itemsize}"), x.view(f"u{x.itemsize}")), np.isnan(
        x
    )


def assert_same_bits(got, want):
    for a, b in zip(bits(got), bits(want), strict=True):
        np.testing.assert_array_equal(a, b)


def singles(half):
    """Float32 numbers of every kind: all of the half precision, what lies between two of them, their neighbours, and anything."""
    every = np.arange(2**16, dtype=np.uint16).view(half).astype(np.float32)
    ordered = np.sort(every[np.isfinite(every)])
    between = ((ordered[1:].astype(np.float64) + ordered[:-1]) / 2).astype(np.float32)
    anything = np.random.default_rng(0).integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    return np.concatenate(
        [every, between, *[np.nextafter(between, np.float32(d)) for d in (-np.inf, np.inf)], anything]
    )


@pytest.fixture(params=["instructions", "integers"])
def code(request, monkeypatch):
    """What the processor has for float16, and what one without it gets."""
    if request.param == "integers":
        monkeypatch.setattr(
            halves,
            "on_cpu",
            lambda name: halves.BFLOAT16 if name == "bfloat16" else halves.FLOAT16_BY_INTEGERS,
        )
    kernels.address.cache_clear()
    yield
    kernels.address.cache_clear()


@each
@pytest.mark.parametrize("by", WAYS)
def test_rounding_has_the_bits_of_a_cast(suffix, half, by, code):
    with np.errstate(all="ignore"):
        x = singles(half)
        want = x.astype(half).astype(np.float32)
    assert_same_bits(kernels.apply(f"m.m_nearest_{suffix}(x0)", x, by=by), want)


@each
@pytest.mark.parametrize("by", WAYS)
def test_loads_and_stores(suffix, half, by, code):
    every = np.arange(2**16, dtype=np.uint16).view(half)
    with np.errstate(all="ignore"):
        wide = every.astype(np.float32)
    assert_same_bits(kernels.apply("x0", every, out=np.float32, by=by), wide)
    assert_same_bits(kernels.apply("x0", wide, out=half, by=by).astype(np.float32), wide)
    assert_same_bits(kernels.apply("x0", every, out=half, by=by).astype(np.float32), wide)


@each
def test_loops_over_half_precision_are_vectorised(suffix, half):
    text = kernels.assembly(f"m.m_nearest_{suffix}(x0 * x1)", [half, half], half)
    if not halves.host.features().get("avx2"):
        pytest.skip("names of registers are those of AVX")
    assert "ymm" in text or "zmm" in text


X = np.random.default_rng(1).normal(size=(6, 40))
W = np.random.default_rng(2).normal(size=(40, 24))
PROGRAMS = {
    "steps": lambda x: hml.tanh(x * 0.3 + 1) / (x * x + 1),
    "rows": lambda x: hml.nn.softmax(x) - hml.sum(x, axis=1, keepdims=True),
    "columns": lambda x: (hml.sum(x, axis=0), hml.max(x * 2, axis=0), hml.mean(hml.exp(x), axis=0)),
    "all": lambda x: (hml.sum(x * x), hml.prod(x[:2, :3]), hml.min(x)),
    "logsumexp": lambda x: hml.logsumexp(x, axis=1),
    "argmax": lambda x: hml.argmax(x, axis=1),
    "norm": lambda x: hml.nn.layer_norm(x, x[0], x[1]),
    "views": lambda x: (x.T[::-2] + x.T[0], hml.concat([x, x], axis=1)),
    "casts": lambda x: ((x * 10).astype(hml.int8), x.astype(hml.float32) * 0.1, (x > 0).astype(x.dtype), (x * 3).astype(hml.float64)),
    "moves": lambda x: (hml.take(x, np.array([1, 1, 0]), axis=0), hml.cumsum(x, axis=1), hml.pad(x, 1)),
    "scatter": lambda x: hml.scatter_add(x, np.array([0, 0, 2]), x[:3]),
    "product": lambda x: hml.nn.relu(x @ hml.asarray(W).astype(x.dtype) + 1),
    "gradient": lambda x: hml.grad(lambda x: hml.nn.gelu(hml.nn.layer_norm(x)).sum())(x),
    "control": lambda x: hml.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 1.5), (0, x)),
    "checked": lambda x: hml.check_finite(x * 2),
}  # fmt: skip


@pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_native_and_equal_the_interpreter(name, half):
    concrete = check_traced(PROGRAMS[name], (hml.asarray(X).astype(half),), ops=8, label=name)
    assert not [s for s in concrete.program.steps if type(s).__name__ == "PythonStep"]


@pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
def test_each_step_is_rounded(half):
    """Bit for bit: addition, subtraction, multiplication and division of rounded numbers are rounded correctly."""
    rng = np.random.default_rng(3)
    x, y = (hml.asarray(rng.normal(size=4001) * 3).astype(half) for _ in range(2))

    def f(x, y):
        return (x + y) * x - y / x + 0.1 * (x - 0.3)

    np.testing.assert_array_equal(hml.function(f)(x, y).astype(hml.float32), f(x, y).astype(hml.float32))


@pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
def test_sums_of_a_program_are_rounded_once(half):
    ones = hml.ones((5000, 3), dtype=half)
    want = float(np.asarray(5000.0).astype(half))
    assert hml.function(lambda x: hml.sum(x, axis=0))(ones).tolist() == [want] * 3
    assert hml.function(lambda x: hml.sum(x.T, axis=1))(ones).tolist() == [want] * 3
    assert hml.function(lambda x: x.T @ x)(ones)[0, 0].item() == want


@pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
def test_a_literal_beyond_the_dtype_is_infinite(half):
    x = hml.ones((5,), dtype=half)
    assert hml.function(lambda x: x * 1e39)(x).tolist() == (x * 1e39).tolist() == [np.inf] * 5


@pytest.mark.parametrize("half", dtypes.HALVES, ids=str)
def test_a_step_of_training_updates_variables_in_place(half):
    w = hml.Variable(W.astype(half))
    optimizer = hml.optim.SGD(0.05, momentum=0.5)  # Adam's squares of gradients underflow in float16

    @hml.function
    def step(x):
        with hml.GradientTape() as tape:
            loss = hml.mean(hml.nn.relu(x @ w) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, [w]), [w], strict=True))
        return loss

    x = hml.asarray(X).astype(half)
    losses = [float(step(x)) for _ in range(20)]
    assert w.dtype == half and losses[-1] < 0.9 * losses[0]
